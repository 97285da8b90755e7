package wire

import (
	"errors"
	"strings"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// maxErrorText bounds an error's text on the wire, in bytes.
const maxErrorText = 4 << 10

// ErrorToProto converts an error; nil becomes nil. One that ended because a context did is
// an unknown outcome. One that matches no sentinel is an application's.
func ErrorToProto(err error) *pb.Error {
	if err == nil {
		return nil
	}
	m := &pb.Error{Kind: kindOf(err), Text: clip(err.Error())}
	if nl, ok := errors.AsType[*nexusraft.NotLeaderError](err); ok && m.Kind == pb.ErrorKind_ERROR_KIND_NOT_LEADER {
		m.Zone, m.LeaderNodeId, m.LeaderAddress = uint64(nl.Zone), uint64(nl.Leader), clip(nl.Address)
	}
	if gone, ok := errors.AsType[*nexusraft.GoneError](err); ok && m.Kind == pb.ErrorKind_ERROR_KIND_GONE {
		m.AskedSequence, m.OldestSequence = gone.Asked, gone.Oldest
	}
	return m
}

// kindOf returns the kind of the first sentinel that err matches.
func kindOf(err error) pb.ErrorKind {
	if row, ok := Find(err); ok {
		return row.Kind
	}
	if isContext(err) {
		return pb.ErrorKind_ERROR_KIND_UNCERTAIN
	}
	return pb.ErrorKind_ERROR_KIND_APPLICATION
}

// ErrorFromProto is the inverse of ErrorToProto: the result matches the same sentinel with
// errors.Is and has the same text; a NotLeaderError and a GoneError are ones again. An
// application's error matches ErrApplication, an unknown kind ErrUncertain. nil becomes nil.
func ErrorFromProto(m *pb.Error) error {
	if m == nil {
		return nil
	}
	if m.GetKind() == pb.ErrorKind_ERROR_KIND_APPLICATION {
		return &remoteError{text: m.GetText(), sentinel: ErrApplication}
	}
	if m.GetKind() == pb.ErrorKind_ERROR_KIND_NOT_LEADER && m.GetZone() != 0 {
		return &nexusraft.NotLeaderError{
			Zone:    nexusraft.ZoneID(m.GetZone()),
			Leader:  nexusraft.NodeID(m.GetLeaderNodeId()),
			Address: m.GetLeaderAddress(),
		}
	}
	if m.GetKind() == pb.ErrorKind_ERROR_KIND_GONE && m.GetOldestSequence() != 0 {
		return &nexusraft.GoneError{Asked: m.GetAskedSequence(), Oldest: m.GetOldestSequence()}
	}
	if row, ok := ofKind(m.GetKind()); ok {
		return &remoteError{text: m.GetText(), sentinel: row.Sentinel}
	}
	return &remoteError{text: m.GetText(), sentinel: nexusraft.ErrUncertain}
}

// ErrApplication is matched by a state machine's own error that came over the wire.
var ErrApplication = errors.New("nexusraft: refused by the state machine")

// remoteError is another node's error: its text, and what the caller may do.
type remoteError struct {
	text     string
	sentinel error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.sentinel }

// clip bounds a text and makes it what a proto string must be, valid UTF-8.
func clip(s string) string {
	if len(s) > maxErrorText {
		s = s[:maxErrorText]
	}
	return strings.ToValidUTF8(s, "?")
}
