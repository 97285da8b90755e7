package main

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

// A lock over a member's port: one that waits without a deadline gets it when the holder's connection, and with that
// its call for the next one, ends. The messages are written by hand, as by a program that links no code of ours.
func TestLocksOfEtcdsAPI(t *testing.T) {
	m := serveSecurely(t)
	m.grant("writer", nexusraft.RootZone, nexusraft.AccessWrite)
	writer := m.as(pki.Subject{Client: "writer"}, "").conn
	lock := func(ctx context.Context, b []byte) (key []byte, err error) {
		req, resp := &emptypb.Empty{}, &emptypb.Empty{}
		req.ProtoReflect().SetUnknown(b)
		err = writer.Invoke(ctx, "/v3lockpb.Lock/Lock", req, resp)
		for b := []byte(resp.ProtoReflect().GetUnknown()); len(b) > 0; {
			number, kind, n := protowire.ConsumeTag(b)
			value := b[n:]
			if number == 2 {
				key, _ = protowire.ConsumeBytes(value)
			}
			b = value[protowire.ConsumeFieldValue(number, kind, value):]
		}
		return key, err
	}
	name := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), []byte("jobs"))
	var first []byte
	eventually(t, "the zone has leases", func() (ok bool) { // a new zone's state machine is raised in its first moments
		key, err := lock(t.Context(), name)
		first = key
		return err == nil
	})
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if key, err := lock(short, name); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %s, %v, want that it waits", key, err)
	}
	second := make(chan []byte, 1)
	go func() {
		key, _ := lock(t.Context(), name)
		second <- key
	}()
	unlock := &emptypb.Empty{}
	unlock.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), first))
	if err := writer.Invoke(t.Context(), "/v3lockpb.Lock/Unlock", unlock, &emptypb.Empty{}); err != nil {
		t.Fatal(err)
	}
	select {
	case key := <-second:
		if len(key) == 0 || string(key) == string(first) {
			t.Errorf("got %q after %q", key, first)
		}
	case <-time.After(time.Minute):
		t.Error("who waits does not get the lock")
	}
}
