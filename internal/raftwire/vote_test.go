package raftwire

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/transport"
)

// What raft answers travels verbatim; the rest says how the voter is.
func TestAnswer(t *testing.T) {
	voter := transport.VoteResult{Zone: 9, From: 2, To: 1, Term: 4, LastTerm: 3, LastIndex: 8, LeaseTicksLeft: 5}
	for name, tc := range map[string]struct {
		response *raftpb.Message
		want     func(r *transport.VoteResult)
	}{
		"ignored": {nil, func(r *transport.VoteResult) { r.Outcome, r.Why = transport.VoteIgnored, "it leads" }},
		"rejected": {
			&raftpb.Message{Term: new(uint64(7)), Reject: new(true)},
			func(r *transport.VoteResult) { r.Outcome, r.Term = transport.VoteRejected, 7 },
		},
		"granted": {
			&raftpb.Message{Term: new(uint64(7))},
			func(r *transport.VoteResult) { r.Outcome, r.Term = transport.VoteGranted, 7 },
		},
	} {
		for _, pre := range []bool{false, true} {
			c := NewWaiter(transport.Vote{
				Zone: 9, Pre: pre, From: 1, To: 2, Term: 7, LastIndex: 6, LastTerm: 5, Context: []byte("x"),
			})
			typ := raftpb.MsgVote
			if pre {
				typ = raftpb.MsgPreVote
			}
			if m := c.Message(); m.GetType() != typ || m.GetFrom() != 1 || m.GetTo() != 2 || m.GetTerm() != 7 ||
				m.GetIndex() != 6 || m.GetLogTerm() != 5 || string(m.GetContext()) != "x" {
				t.Errorf("the message is %v", m)
			}
			a := driver.VoteAnswer{Response: tc.response, Term: 4, LastTerm: 3, LastIndex: 8, LeaseTicksLeft: 5}
			if tc.response == nil {
				a.Why = "it leads"
			}
			c.Answer(a)
			want := voter
			want.Pre = pre
			tc.want(&want)
			if d := cmp.Diff(want, <-c.Done()); d != "" {
				t.Errorf("%s (-want +got):\n%s", name, d)
			}
		}
	}
}
