package raftwire

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
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
