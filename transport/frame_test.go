package transport

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// frameToProto is a frame as protocol buffers have it, for what is sent by hand.
func frameToProto(msgs []Message) *pb.ExchangeRequest {
	envelopes := make([]*pb.Envelope, len(msgs))
	for i, m := range msgs {
		envelopes[i] = &pb.Envelope{Zone: uint64(m.Zone), Message: m.Data}
	}
	return &pb.ExchangeRequest{Kind: &pb.ExchangeRequest_Frame{Frame: &pb.Frame{Messages: envelopes}}}
}

// What is written by hand is what protocol buffers read.
func TestAppendFrameIsProto(t *testing.T) {
	msgs := []Message{{Zone: 1, Data: []byte("one")}, {}, {Zone: 1 << 63, Data: make([]byte, 300)}}
	var got pb.Frame
	if err := proto.Unmarshal(appendFrame(nil, msgs, 7), &got); err != nil {
		t.Fatal(err)
	}
	want := frameToProto(msgs).GetFrame()
	want.Ping = 7
	if len(got.GetMessages()) != len(msgs) || got.GetPing() != 7 {
		t.Fatalf("got %v, want %v", &got, want)
	}
	for i, m := range got.GetMessages() {
		if m.GetZone() != uint64(msgs[i].Zone) || !bytes.Equal(m.GetMessage(), msgs[i].Data) {
			t.Errorf("message %d: got %v, want %v", i, m, msgs[i])
		}
	}
}

// A message that is appended to grows into no other.
func TestMessagesOfAFrameStandAlone(t *testing.T) {
	msgs, _, err := parseFrame(appendFrame(nil, []Message{{Zone: 1, Data: []byte("a")}, {Zone: 2, Data: []byte("b")}}, 0))
	if err != nil {
		t.Fatal(err)
	}
	_ = append(msgs[0].Data, "overwritten by this"...)
	if got := string(msgs[1].Data); got != "b" || msgs[1].Zone != 2 {
		t.Errorf("got %q of zone %v, want \"b\" of zone 2", got, msgs[1].Zone)
	}
}

// FuzzParseFrame compares parseFrame with protocol buffers' own decoder.
func FuzzParseFrame(f *testing.F) {
	f.Add(appendFrame(nil, []Message{{Zone: 1, Data: []byte("x")}, {}}, 3))
	f.Add([]byte{0x0a, 0x02, 0x08, 0x80})
	f.Add(bytes.Repeat([]byte{0x0a, 0x00}, maxFrameMessages+1))
	f.Add(bytes.Repeat([]byte{0x08, 0x00}, maxFrameMessages+1)) // numbers under messages' number: unknown fields
	f.Fuzz(func(t *testing.T, b []byte) {
		msgs, ping, err := parseFrame(b)
		var want pb.Frame
		wantErr := proto.Unmarshal(b, &want)
		if err != nil {
			if wantErr == nil && len(want.GetMessages()) <= maxFrameMessages {
				t.Fatalf("got %v for a good frame", err)
			}
			return
		}
		if wantErr != nil {
			return // unknown fields inside are protocol buffers' own business
		}
		if ping != want.GetPing() || len(msgs) != len(want.GetMessages()) {
			t.Fatalf("got %d messages and ping %d, want %d and %d", len(msgs), ping, len(want.GetMessages()), want.GetPing())
		}
		for i, m := range want.GetMessages() {
			w := Message{Zone: nexusraft.ZoneID(m.GetZone()), Data: m.GetMessage()}
			if msgs[i].Zone != w.Zone || !bytes.Equal(msgs[i].Data, w.Data) {
				t.Fatalf("message %d: %s", i, cmp.Diff(w, msgs[i]))
			}
		}
	})
}
