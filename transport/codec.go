package transport

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers what codec leans on
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// lists are the requests' lists whose elements may be tiny and take far more memory than they
// have bytes, with how many are read: more than may be asked, which is refused later with a better code.
var lists = []struct {
	of    func(any) bool
	field protowire.Number
	most  int
}{
	{is[*pb.RequestVoteRequest], 2, 2 * MaxVotes},
	{is[*pb.SubscribeRequest], 2, 2 * MaxEventFilters}, // topics
	{is[*pb.SubscribeRequest], 3, 2 * MaxEventFilters}, // types
}

func is[T any](v any) bool {
	_, ok := v.(T)
	return ok
}

// codec is gRPC's own for protocol buffers, but that lists are counted before they are read, and that frames are
// written and read without a copy in between.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

// frameRequest is sent as a pb.EncodedRequest with a frame of these messages and this ping.
type frameRequest struct {
	msgs []Message
	ping uint64
}

const requestFrame protowire.Number = 2 // the field of pb.EncodedRequest

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	r, ok := v.(*frameRequest)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	frame := frameSize(r.msgs, r.ping)
	pool := mem.DefaultBufferPool()
	buf := pool.Get(protowire.SizeTag(requestFrame) + protowire.SizeBytes(frame))
	b := protowire.AppendTag((*buf)[:0], requestFrame, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(frame))
	*buf = appendFrame(b, r.msgs, r.ping)
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if r, ok := v.(*pb.EncodedRequest); ok {
		return unmarshalRequest(data.Materialize(), r)
	}
	for _, l := range lists {
		if !l.of(v) {
			continue
		}
		if err := checkList(data, l.field, l.most); err != nil {
			return fmt.Errorf("read %T: %w", v, err)
		}
	}
	return c.CodecV2.Unmarshal(data, v)
}

// unmarshalRequest reads b into r, which shares its memory if there is a frame alone.
func unmarshalRequest(b []byte, r *pb.EncodedRequest) error {
	num, typ, n := protowire.ConsumeTag(b)
	if num == requestFrame && typ == protowire.BytesType {
		if frame, m := protowire.ConsumeBytes(b[n:]); n+m == len(b) {
			r.Reset()
			r.Frame = frame
			return nil
		}
	}
	return proto.Unmarshal(b, r)
}

func checkList(data mem.BufferSlice, field protowire.Number, most int) error {
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	n, err := countFields(buf.ReadOnlyData(), field)
	if err == nil && n > most {
		err = fmt.Errorf("%d elements in field %d, at most %d are read", n, field, most)
	}
	return err
}
