package transport

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers what codec leans on
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

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

// codec is gRPC's own for protocol buffers, but for one check: lists are counted before they are read.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
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

func checkList(data mem.BufferSlice, field protowire.Number, most int) error {
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	n, err := countFields(buf.ReadOnlyData(), field)
	if err == nil && n > most {
		err = fmt.Errorf("%d elements in field %d, at most %d are read", n, field, most)
	}
	return err
}
