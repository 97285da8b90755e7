package transport

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers what codec leans on
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/budget"
)

// lists are the requests' lists whose elements may be tiny and take far more memory than they have
// bytes, with how many are read: more than may be asked, which is refused later with a better code.
var lists = []struct {
	of     func(any) bool
	path   []protowire.Number // the list, behind those of what it is in
	most   int                // of all elements that are there
	packed bool               // they are integers
}{
	{of: is[*pb.RequestVoteRequest], path: []protowire.Number{2}, most: 2 * MaxVotes},
	{of: is[*pb.SubscribeRequest], path: []protowire.Number{2}, most: 2 * nexusraft.MaxEventFilters}, // topics
	{of: is[*pb.SubscribeRequest], path: []protowire.Number{3}, most: 2 * nexusraft.MaxEventFilters}, // types
	{of: is[*pb.HostZonesRequest], path: []protowire.Number{3}, most: 2 * nexusraft.MaxZones, packed: true},
	{of: is[*pb.HostZonesRequest], path: []protowire.Number{4}, most: 2 * MaxCreatedZones},
	{of: is[*pb.HostZonesRequest], path: []protowire.Number{4, 3}, most: MaxCreatedZones * (nexusraft.MaxMembers + 1)},
}

func is[T any](v any) bool {
	_, ok := v.(T)
	return ok
}

// codec is gRPC's own for protocol buffers, but for one check: lists are counted before they are
// read.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	for _, l := range lists {
		if !l.of(v) {
			continue
		}
		if err := checkList(data, l.path, l.packed, l.most); err != nil {
			return fmt.Errorf("read %T: %w", v, err)
		}
	}
	return c.CodecV2.Unmarshal(data, v)
}

// Marshal implements encoding.CodecV2. What a budget.Answer holds it gives back when gRPC lets go
// of the bytes, which it does once they are on the wire, or never will be.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	a, ok := v.(*budget.Answer)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	m, ok := a.Message.(proto.Message)
	if !ok {
		a.End()
		return nil, fmt.Errorf("encode %T: it is no message", a.Message)
	}
	b, err := proto.Marshal(m)
	if err != nil || mem.IsBelowBufferPoolingThreshold(cap(b)) { // of small ones gRPC doesn't say when it lets go
		a.End()
		return mem.BufferSlice{mem.SliceBuffer(b)}, err
	}
	a.Message = nil
	a.Shrink(int64(len(b)))
	return mem.BufferSlice{mem.NewBuffer(&b, endOfAnswer{a})}, nil
}

// endOfAnswer hears when the bytes of an answer are not needed any more.
type endOfAnswer struct{ answer *budget.Answer }

// Get implements mem.BufferPool.
func (endOfAnswer) Get(n int) *[]byte { return mem.DefaultBufferPool().Get(n) }

// Put implements mem.BufferPool.
func (e endOfAnswer) Put(*[]byte) { e.answer.End() }

func checkList(data mem.BufferSlice, path []protowire.Number, packed bool, most int) error {
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	n, err := countElements(buf.ReadOnlyData(), path, packed)
	if err == nil && n > most {
		err = fmt.Errorf("%d elements in field %v, at most %d are read", n, path[len(path)-1], most)
	}
	return err
}

// countElements returns how many elements a list of an encoded message has, which is checked as far as
// the fields go that lead there.
func countElements(b []byte, path []protowire.Number, packed bool) (count int, err error) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0, protowire.ParseError(n)
		}
		b = b[n:]
		size := protowire.ConsumeFieldValue(num, typ, b)
		if size < 0 {
			return 0, protowire.ParseError(size)
		}
		value := b[:size]
		b = b[size:]
		switch inner, _ := protowire.ConsumeBytes(value); {
		case num != path[0]:
		case len(path) > 1 && typ == protowire.BytesType:
			found, err := countElements(inner, path[1:], packed)
			if err != nil {
				return 0, err
			}
			count += found
		case len(path) > 1:
		case packed && typ == protowire.BytesType:
			for _, x := range inner { // each integer ends with the one byte that has no continuation bit
				count += 1 - int(x>>7)
			}
		default:
			count++
		}
	}
	return count, nil
}
