package raftwire

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/transport"
)

// receiving is a receiver, the log that it writes, and the worker's inbox.
func receiving(snapshots bool) (*Receiver, *bytes.Buffer, *driver.Inbox) {
	log := new(bytes.Buffer)
	logger := slog.New(slog.NewTextHandler(log, nil))
	backlog := driver.NewBacklog(driver.Bounds{Messages: 10, MessageBytes: 1 << 10}, 1)
	inbox := driver.NewWorker(nil, backlog, logger).Inbox()
	return NewReceiver(inbox, logger, snapshots), log, inbox
}

// A peer whose messages can't be read does not fill the log.
func TestBadMessagesDoNotFloodTheLog(t *testing.T) {
	t.Parallel()
	r, log, _ := receiving(false)
	msgs := make([]transport.Message, 1000)
	for i := range msgs {
		msgs[i] = transport.Message{Zone: nexusraft.RootZone, Data: []byte("bad")}
	}
	r.Receive(7, msgs)
	if lines := strings.Count(log.String(), "\n"); lines < 1 || lines > 100 {
		t.Errorf("the log has %d lines for 1000 messages, want a few", lines)
	}
}

// A vote request comes as a call, and a member's snapshot with its state: by a stream they are not
// taken.
func TestTypesThatAreNotStreamed(t *testing.T) {
	for _, tt := range []struct {
		typ             raftpb.MessageType
		member, witness bool // takes it
	}{
		{raftpb.MsgApp, true, true},
		{raftpb.MsgSnap, false, true},
		{raftpb.MsgVote, false, false},
		{raftpb.MsgPreVote, false, false},
	} {
		data, err := proto.Marshal(&raftpb.Message{Type: tt.typ.Enum()})
		if err != nil {
			t.Fatal(err)
		}
		for snapshots, want := range map[bool]bool{false: tt.member, true: tt.witness} {
			r, _, inbox := receiving(snapshots)
			r.Receive(7, []transport.Message{{Zone: nexusraft.RootZone, Data: data}})
			taken := len(inbox.Woken()) > 0 && inbox.Put(make([]driver.Inbound, 10)) == 9
			if taken != want {
				t.Errorf("%v, snapshots %v: taken %v", tt.typ, snapshots, taken)
			}
		}
	}
}

// oddHung is an Intake of two workers: the one of the odd zones stands still, the other one answers.
type oddHung struct{}

func (oddHung) Put(ms []driver.Inbound) int {
	for _, m := range ms {
		if m.Zone%2 == 0 {
			m.Vote.Answer(driver.VoteAnswer{Why: "no leader is missed"})
		}
	}
	return len(ms)
}
func (oddHung) Hear(nexusraft.NodeID, zone.Signal) {}
func (oddHung) Closed() bool                       { return false }

// A worker that stands still keeps no other zone of the call from its vote: what is there comes before the caller has
// given up.
func TestVotesBesideAWorkerThatStandsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewReceiver(oddHung{}, slog.New(slog.DiscardHandler), false)
		for _, votes := range [][]transport.Vote{{{Zone: 1}, {Zone: 2}}, {{Zone: 2}, {Zone: 1}}} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			results, err := r.RequestVote(ctx, 1, votes)
			if err != nil || len(results) != 1 || results[0].Zone != 2 || ctx.Err() != nil {
				t.Errorf("votes %v: got %v, %v, in time: %t", votes, results, err, ctx.Err() == nil)
			}
			cancel()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		results, err := r.RequestVote(ctx, 1, []transport.Vote{{Zone: 1}})
		if err != nil || len(results) > 0 || ctx.Err() == nil {
			t.Errorf("without any result: got %v, %v, in time: %t", results, err, ctx.Err() == nil)
		}
	})
}
