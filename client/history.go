package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// KeyVersion is one version of a key that is kept, or its deletion. GetAt with its revision reads its value.
type KeyVersion struct {
	Revision       nexusraft.Revision // of the put, or of what has deleted the key
	CreateRevision nexusraft.Revision // of the put that created the key; 0 of a deletion
	Version        int64              // puts since it was created, this one included; 0 of a deletion
	Lease          LeaseID            // that it hangs on; 0: none
	Bytes          int64              // of its value
}

// Deleted reports whether it is a deletion.
func (v KeyVersion) Deleted() bool { return v.Version == 0 }

// History yields all that is kept of a key, oldest first: the versions that can be read, and the deletions after
// the compaction revision; nothing if none is kept. An error is yielded once and last.
//
// It has what was written before it began, and nothing that was written later. If its node fails, or says nothing for
// Options.AttemptTimeout, it goes on through the next one until ctx ends; it ends with ErrCompacted if what is still to
// come is compacted meanwhile. The caller may take as long as it likes over a version.
func (c *Client) History(ctx context.Context, key []byte) iter.Seq2[KeyVersion, error] {
	return func(yield func(KeyVersion, error) bool) {
		h := &keyHistory{client: c, req: &pb.HistoryRequest{Zone: uint64(c.opts.Zone), Key: key}}
		err := h.follow(ctx, func(versions []*pb.KeyVersion) bool { return h.each(versions, yield) })
		if err != nil {
			yield(KeyVersion{}, fmt.Errorf("history of %s: %w", brief(key), err))
		}
	}
}

// Revisions returns the oldest revision of the zone that can be read, and the newest one.
func (c *Client) Revisions(ctx context.Context) (oldest, newest nexusraft.Revision, err error) {
	h := &keyHistory{client: c, req: &pb.HistoryRequest{Zone: uint64(c.opts.Zone), Key: []byte{0}}} // of any key
	if err := h.follow(ctx, func([]*pb.KeyVersion) bool { return false }); err != nil {
		return 0, 0, fmt.Errorf("revisions: %w", err)
	}
	return max(nexusraft.Revision(max(h.compacted, 0)), 1), nexusraft.Revision(h.newest), nil
}

// keyHistory is a History under way.
type keyHistory struct {
	client *Client
	req    *pb.HistoryRequest

	begun     bool  // there was an answer, and newest is set
	newest    int64 // the zone's newest revision when it began
	compacted int64 // the compaction revision by the last node that was asked
	last      int64 // revision of the last version that was yielded
}

// follow calls handle with each part, until there are no more, or handle returns false. It is begun anew while
// nothing but a node fails.
func (h *keyHistory) follow(ctx context.Context, handle func([]*pb.KeyVersion) bool) error {
	return h.client.try(ctx, streams, func(ctx context.Context, conn *grpc.ClientConn) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		silence := time.AfterFunc(h.client.opts.AttemptTimeout, cancel)
		defer silence.Stop()
		stream, err := pb.NewKeysClient(conn).History(ctx, h.req)
		if err != nil {
			return err
		}
		for first := true; ; first = false {
			part, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF) && !first:
				return nil
			case errors.Is(err, io.EOF):
				return status.Error(codes.Unavailable, "the node has ended the stream without an answer")
			case err != nil:
				return err
			case first:
				if err := h.begin(part); err != nil {
					return err
				}
			}
			silence.Stop() // while the caller is at it
			if !handle(part.GetVersions()) {
				return nil
			}
			silence.Reset(h.client.opts.AttemptTimeout)
		}
	})
}

// begin takes what the first part from a node says of the zone.
func (h *keyHistory) begin(part *pb.HistoryResponse) error {
	before := h.compacted
	h.compacted = part.GetCompacted()
	if !h.begun {
		h.begun, h.newest = true, part.GetRevision()
		return nil
	}
	if h.compacted > before && h.compacted > h.last { // what came between may be gone
		return fmt.Errorf("%w: revision %d, meanwhile", ErrCompacted, h.compacted)
	}
	return nil
}

// each yields what was not yielded before and is not newer than the beginning; false: the caller wants no more.
func (h *keyHistory) each(versions []*pb.KeyVersion, yield func(KeyVersion, error) bool) bool {
	for _, v := range versions {
		if v.GetRevision() <= h.last || v.GetRevision() > h.newest {
			continue
		}
		h.last = v.GetRevision()
		if !yield(keyVersion(v), nil) {
			return false
		}
	}
	return true
}

func keyVersion(v *pb.KeyVersion) KeyVersion {
	return KeyVersion{
		Revision: nexusraft.Revision(v.GetRevision()), CreateRevision: nexusraft.Revision(v.GetCreateRevision()),
		Version: v.GetVersion(), Lease: LeaseID(v.GetLease()), Bytes: int64(v.GetBytes()),
	}
}
