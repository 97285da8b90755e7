package transport

import (
	"fmt"
	"math"
	"strings"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

func votesToProto(votes []Vote) []*pb.Vote {
	out := make([]*pb.Vote, len(votes))
	for i, v := range votes {
		out[i] = &pb.Vote{
			Zone:      uint64(v.Zone),
			Pre:       v.Pre,
			From:      uint64(v.From),
			To:        uint64(v.To),
			Term:      uint64(v.Term),
			LastIndex: uint64(v.LastIndex),
			LastTerm:  uint64(v.LastTerm),
			Context:   v.Context,
		}
	}
	return out
}

func votesFromProto(in []*pb.Vote) ([]Vote, error) {
	if len(in) > MaxVotes {
		return nil, fmt.Errorf("read votes: %d in one request, limit %d", len(in), MaxVotes)
	}
	votes := make([]Vote, len(in))
	for i, v := range in {
		if len(v.GetContext()) > maxVoteContextBytes {
			return nil, fmt.Errorf("read votes: a context of %d bytes, limit %d", len(v.GetContext()), maxVoteContextBytes)
		}
		votes[i] = Vote{
			Zone:      nexusraft.ZoneID(v.GetZone()),
			Pre:       v.GetPre(),
			From:      nexusraft.ReplicaID(v.GetFrom()),
			To:        nexusraft.ReplicaID(v.GetTo()),
			Term:      nexusraft.Term(v.GetTerm()),
			LastIndex: nexusraft.Index(v.GetLastIndex()),
			LastTerm:  nexusraft.Term(v.GetLastTerm()),
			Context:   v.GetContext(),
		}
	}
	return votes, nil
}

// outcomes pairs a VoteOutcome with its number on the wire.
var outcomes = map[VoteOutcome]pb.VoteOutcome{
	VoteIgnored:  pb.VoteOutcome_VOTE_OUTCOME_IGNORED,
	VoteRejected: pb.VoteOutcome_VOTE_OUTCOME_REJECTED,
	VoteGranted:  pb.VoteOutcome_VOTE_OUTCOME_GRANTED,
}

func resultsToProto(results []VoteResult) []*pb.VoteResult {
	out := make([]*pb.VoteResult, len(results))
	for i, r := range results {
		out[i] = &pb.VoteResult{
			Zone:           uint64(r.Zone),
			Pre:            r.Pre,
			From:           uint64(r.From),
			To:             uint64(r.To),
			Outcome:        outcomes[r.Outcome],
			Term:           uint64(r.Term),
			Why:            clip(r.Why, maxWhyBytes),
			LastTerm:       uint64(r.LastTerm),
			LastIndex:      uint64(r.LastIndex),
			LeaseTicksLeft: uint32(min(max(r.LeaseTicksLeft, 0), math.MaxInt32)),
		}
	}
	return out
}

// resultsFromProto reads the answer to a number of votes. Only a known outcome is
// believed: a vote that is not surely given must not count.
func resultsFromProto(in []*pb.VoteResult, asked int) ([]VoteResult, error) {
	if len(in) > asked {
		return nil, fmt.Errorf("read vote results: %d for %d votes", len(in), asked)
	}
	results := make([]VoteResult, len(in))
	for i, r := range in {
		outcome, ok := outcomeFromProto(r.GetOutcome())
		if !ok {
			return nil, fmt.Errorf("read vote results: unknown outcome %d in zone %v", r.GetOutcome(),
				nexusraft.ZoneID(r.GetZone()))
		}
		results[i] = VoteResult{
			Zone:           nexusraft.ZoneID(r.GetZone()),
			Pre:            r.GetPre(),
			From:           nexusraft.ReplicaID(r.GetFrom()),
			To:             nexusraft.ReplicaID(r.GetTo()),
			Outcome:        outcome,
			Term:           nexusraft.Term(r.GetTerm()),
			Why:            clip(r.GetWhy(), maxWhyBytes),
			LastTerm:       nexusraft.Term(r.GetLastTerm()),
			LastIndex:      nexusraft.Index(r.GetLastIndex()),
			LeaseTicksLeft: int(min(r.GetLeaseTicksLeft(), math.MaxInt32)),
		}
	}
	return results, nil
}

func outcomeFromProto(o pb.VoteOutcome) (VoteOutcome, bool) {
	for outcome, number := range outcomes {
		if number == o {
			return outcome, true
		}
	}
	return 0, false
}

func headerToProto(hello *pb.Hello, h SnapshotHeader) *pb.SnapshotHeader {
	return &pb.SnapshotHeader{
		Hello:   hello,
		Zone:    uint64(h.Zone),
		From:    uint64(h.From),
		To:      uint64(h.To),
		Index:   uint64(h.Index),
		Term:    uint64(h.Term),
		Message: h.Message,
	}
}

func headerFromProto(h *pb.SnapshotHeader) (SnapshotHeader, error) {
	if n := len(h.GetMessage()); n > maxSnapshotMessageBytes {
		return SnapshotHeader{}, fmt.Errorf("%w: read snapshot header: a message of %d bytes, limit %d",
			nexusraft.ErrTooLarge, n, maxSnapshotMessageBytes)
	}
	return SnapshotHeader{
		Zone:    nexusraft.ZoneID(h.GetZone()),
		From:    nexusraft.ReplicaID(h.GetFrom()),
		To:      nexusraft.ReplicaID(h.GetTo()),
		Index:   nexusraft.Index(h.GetIndex()),
		Term:    nexusraft.Term(h.GetTerm()),
		Message: h.GetMessage(),
	}, nil
}

// clip returns at most n bytes of s, as valid UTF-8.
func clip(s string, n int) string {
	return strings.ToValidUTF8(s[:min(len(s), n)], "?")
}

// maxRequesterBytes is more than nexusraft.MaxRequesterNeeds take.
const maxRequesterBytes = 8 << 10

// encodeRequester returns nil for nil.
func encodeRequester(q *nexusraft.Requester) ([]byte, error) {
	if q == nil {
		return nil, nil
	}
	m := &pb.Requester{Name: q.Name, Token: q.Token}
	for _, need := range q.Needs {
		m.Needs = append(m.Needs, wire.ZoneRoleToProto(need))
	}
	b, err := proto.Marshal(m)
	if err != nil || len(b) > maxRequesterBytes {
		return nil, fmt.Errorf("%w: the client of a command can't be encoded: %d bytes, limit %d", nexusraft.ErrRefused,
			len(b), maxRequesterBytes)
	}
	return b, nil
}

// decodeRequester returns nil for nothing, and ErrRefused for what encodeRequester can't have made
// of a client that was checked: one that asks for nothing would be let through.
func decodeRequester(b []byte) (*nexusraft.Requester, error) {
	if len(b) == 0 {
		return nil, nil
	}
	m := &pb.Requester{}
	if len(b) > maxRequesterBytes || proto.Unmarshal(b, m) != nil {
		return nil, fmt.Errorf("%w: the client of a command can't be read from %d bytes, limit %d", nexusraft.ErrRefused,
			len(b), maxRequesterBytes)
	}
	if err := pki.ValidateClient(m.GetName()); err != nil {
		return nil, fmt.Errorf("the client of a command: %w", err)
	}
	token, needs := len(m.GetToken()), len(m.GetNeeds())
	if token != 0 && token != len(nexusraft.TokenID{}) || needs == 0 || needs > nexusraft.MaxRequesterNeeds {
		return nil, fmt.Errorf("%w: the client of a command, with %d needs, limit %d, and a token's identifier of %d bytes",
			nexusraft.ErrRefused, needs, nexusraft.MaxRequesterNeeds, token)
	}
	q := &nexusraft.Requester{Name: m.GetName(), Token: m.GetToken()}
	for _, need := range m.GetNeeds() {
		q.Needs = append(q.Needs, wire.ZoneRoleFromProto(need))
	}
	return q, nil
}
