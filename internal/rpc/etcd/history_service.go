package etcd

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/rpc"
	"github.com/nexi-lab/nexus-raft/kv"
)

// historyPage is how many versions one message of a History has: so few that it counts for nothing
// in the budget of answers.
const historyPage = 256

// Keys is pb.KeysServer on the zones of one node.
type Keys struct {
	pb.UnimplementedKeysServer

	zones Zones
	turns turns // of long scans
}

// NewKeys returns the service on zones, whose scans take turns with those of a KV.
func NewKeys(zones Zones, with *KV) *Keys { return &Keys{zones: zones, turns: with.turns} }

// Register adds the service to a gRPC server.
func (s *Keys) Register(r grpc.ServiceRegistrar) { pb.RegisterKeysServer(r, s) }

// History implements pb.KeysServer. It reads page by page, so that a caller that does not read holds nothing of
// the store.
func (s *Keys) History(req *pb.HistoryRequest, stream grpc.ServerStreamingServer[pb.HistoryResponse]) error {
	if len(req.GetKey()) == 0 {
		return toStatus(kv.ErrEmptyKey)
	}
	z, err := s.zones.Zone(nexusraft.ZoneID(req.GetZone()))
	if err != nil {
		return toStatus(err)
	}
	var first *pb.HistoryResponse
	after, read := int64(0), z.Read
	for {
		page, more, err := s.page(stream.Context(), read, req.GetKey(), first, after)
		if err != nil {
			return toStatus(err)
		}
		if err := stream.Send(page); err != nil {
			return err
		}
		if !more {
			return nil
		}
		if first == nil {
			first = &pb.HistoryResponse{Revision: page.GetRevision(), Compacted: page.GetCompacted()}
		}
		after = page.Versions[len(page.Versions)-1].GetRevision()
		read = z.ReadLocal // confirmed before, and this replica's state does not go back
	}
}

// page returns a page of a key's history behind a revision, of the state as the first page has found it,
// and whether there is more.
func (s *Keys) page(
	ctx context.Context, read readFunc, key []byte, first *pb.HistoryResponse, after int64,
) (page *pb.HistoryResponse, more bool, err error) {
	ctx, cancel := rpc.Bounded(ctx)
	defer cancel()
	err = read(ctx, func(r nexusraft.Reader) error {
		now, err := kv.StandingOf(r)
		if err != nil {
			return err
		}
		page = &pb.HistoryResponse{Revision: now.Newest, Compacted: now.Compacted}
		if first != nil && now.Compacted != first.Compacted && now.Compacted > after {
			return kv.ErrCompacted
		}
		if first != nil {
			page.Revision, page.Compacted = first.Revision, first.Compacted
		}
		return kv.History(abortable{r, ctx, s.turns}, key, after, func(v kv.Version) error {
			if v.Revision > page.Revision {
				return errPageEnds
			}
			if more = len(page.Versions) == historyPage; more {
				return errPageEnds
			}
			page.Versions = append(page.Versions, &pb.KeyVersion{
				Revision: v.Revision, CreateRevision: v.Create, Version: v.Version, Lease: v.Lease, Bytes: uint64(v.Bytes),
			})
			return nil
		})
	})
	if errors.Is(err, errPageEnds) {
		err = nil
	}
	return page, more, err
}

// errPageEnds ends a scan: its page is full.
var errPageEnds = errors.New("the page ends")
