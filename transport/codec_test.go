package transport

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// What is written without a copy is what protocol buffers write, small and large, with pooled buffers
// and without.
func TestFrameRequestIsProto(t *testing.T) {
	for name, r := range map[string]*frameRequest{
		"nothing":  {},
		"a ping":   {ping: 1 << 40},
		"messages": {msgs: []Message{{Zone: 1, Data: []byte("one")}, {}, {Zone: 1 << 63, Data: make([]byte, 300)}}, ping: 7},
		"large":    {msgs: []Message{{Zone: 2, Data: bytes.Repeat([]byte("x"), MaxMessageBytes)}}},
	} {
		data, err := newCodec().Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		got := data.Materialize()
		data.Free()
		frame := appendFrame([]byte{}, r.msgs, r.ping)
		want, err := proto.Marshal(&pb.EncodedRequest{Frame: frame})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: got %d bytes, want %d, or others", name, len(got), len(want))
		}
		var read pb.EncodedRequest
		err = newCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(want[:1]), mem.SliceBuffer(want[1:])}, &read)
		if err != nil || read.Frame == nil || !bytes.Equal(read.GetFrame(), frame) || read.GetHello() != nil {
			t.Errorf("%s: read %d bytes of a frame of %d, %v", name, len(read.GetFrame()), len(frame), err)
		}
	}
}

// FuzzEncodedRequest compares how requests are read with protocol buffers' own decoder.
func FuzzEncodedRequest(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0x12, 0x00})
	f.Add([]byte{0x12, 0x02, 0x10, 0x05})
	f.Add([]byte{0x12, 0x02, 0x10, 0x05, 0x18, 0x01})
	f.Add([]byte{0x12, 0x00, 0x12, 0x01, 0x00})
	f.Add([]byte{0x12, 0x7f, 0x10})
	f.Add([]byte{0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, b []byte) {
		got := pb.EncodedRequest{Lane: pb.Lane_LANE_APPEND}
		err := newCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(bytes.Clone(b))}, &got)
		var want pb.EncodedRequest
		if wantErr := proto.Unmarshal(b, &want); (err == nil) != (wantErr == nil) {
			t.Fatalf("got %v, want %v", err, wantErr)
		}
		if diff := cmp.Diff(&want, &got, protocmp.Transform()); err == nil && diff != "" {
			t.Errorf("read (-want +got):\n%s", diff)
		}
	})
}
