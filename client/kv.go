package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// copiesHeader is where a node says on how many data copies a write was durable.
const copiesHeader = "nexus-copies"

// pageKeys is how many keys List asks for at a time; halved while the answer is too large.
const pageKeys = 4096

// maxPutBytes is above what any node takes, and below what gRPC lets through.
const maxPutBytes = 2 << 20

// KeyValue is one key, its value and where it stands in the history of the zone. The
// slices belong to the caller.
type KeyValue struct {
	Key, Value     []byte
	CreateRevision nexusraft.Revision // of the put that created the key
	ModRevision    nexusraft.Revision // of the last put
	Version        int64              // puts since it was created, that one included
	Lease          LeaseID            // that it hangs on; 0: none
}

// PutResult is the outcome of an acknowledged put.
type PutResult struct {
	Revision nexusraft.Revision // the zone's revision that the put made
	// data copies it was durable on when it was acknowledged, at least; 0 if the node did not say
	Copies int
}

// DeleteResult is the outcome of an acknowledged delete.
type DeleteResult struct {
	Deleted  int64              // keys that were there: 0 or 1
	Revision nexusraft.Revision // the zone's revision afterwards
	Copies   int                // as in PutResult
}

// Put stores value at key. It borrows both slices.
//
// The error is nexusraft.ErrUncertain if the put may have happened or may still happen; of
// any other error nothing was and nothing will be written. Options.ExactlyOnce leaves
// ErrUncertain to puts that run out of time.
func (c *Client) Put(ctx context.Context, key, value []byte) (PutResult, error) {
	return c.PutLeased(ctx, key, value, 0)
}

// PutLeased is Put of a key that is deleted when the lease ends. The next put of the key names a lease again, or takes
// it off this one. The errors are those of Put, and ErrLeaseNotFound.
func (c *Client) PutLeased(ctx context.Context, key, value []byte, lease LeaseID) (PutResult, error) {
	if n := len(key) + len(value); n > maxPutBytes { // beyond gRPC's own limit the node could not say so
		return PutResult{}, fmt.Errorf("put %s: client: %w: key and value have %d bytes, and no node takes over %d",
			brief(key), nexusraft.ErrTooLarge, n, maxPutBytes)
	}
	var result PutResult
	err := c.writeKeys(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		var header metadata.MD
		req := &etcdserverpb.PutRequest{Key: key, Value: value, Lease: int64(lease)}
		resp, err := etcdserverpb.NewKVClient(conn).Put(ctx, req, grpc.Header(&header))
		if err != nil {
			return err
		}
		result = PutResult{Revision: nexusraft.Revision(resp.Header.GetRevision()), Copies: copies(header)}
		return nil
	})
	if err != nil {
		return PutResult{}, fmt.Errorf("put %s: %w", brief(key), err)
	}
	return result, nil
}

// Delete removes key; that it is not there is no error. Errors are as those of Put.
func (c *Client) Delete(ctx context.Context, key []byte) (DeleteResult, error) {
	var result DeleteResult
	err := c.writeKeys(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		var header metadata.MD
		req := &etcdserverpb.DeleteRangeRequest{Key: key}
		resp, err := etcdserverpb.NewKVClient(conn).DeleteRange(ctx, req, grpc.Header(&header))
		if err != nil {
			return err
		}
		result = DeleteResult{
			Deleted:  resp.Deleted,
			Revision: nexusraft.Revision(resp.Header.GetRevision()),
			Copies:   copies(header),
		}
		return nil
	})
	if err != nil {
		return DeleteResult{}, fmt.Errorf("delete %s: %w", brief(key), err)
	}
	return result, nil
}

// Get returns what is stored at key and whether there is anything. The read is
// linearizable: it sees every write that was acknowledged before it began.
func (c *Client) Get(ctx context.Context, key []byte) (KeyValue, bool, error) {
	resp, err := c.rangeOf(ctx, &etcdserverpb.RangeRequest{Key: key})
	if err != nil {
		return KeyValue{}, false, fmt.Errorf("get %s: %w", brief(key), err)
	}
	if len(resp.Kvs) == 0 {
		return KeyValue{}, false, nil
	}
	return keyValue(resp.Kvs[0]), true, nil
}

// List yields all pairs whose key begins with prefix, in ascending order; an empty prefix
// means all. An error is yielded once and last.
//
// It reads page after page, each bounded by Options.PageTimeout and by ctx. Each page is
// linearizable, but the pages are not one snapshot: what is written during the iteration is
// seen or not seen, page by page. ListAt lists one revision.
func (c *Client) List(ctx context.Context, prefix []byte) iter.Seq2[KeyValue, error] {
	return func(yield func(KeyValue, error) bool) {
		err := eachPair(prefix, yield, func(req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
			return c.page(ctx, req)
		})
		if err != nil {
			yield(KeyValue{}, fmt.Errorf("list %s: %w", brief(prefix), err))
		}
	}
}

// eachPair yields all pairs whose key begins with prefix, page after page, until yield has enough.
func eachPair(
	prefix []byte, yield func(KeyValue, error) bool,
	page func(*etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error),
) error {
	from, end := prefixRange(prefix)
	limit := int64(pageKeys)
	for {
		resp, err := page(&etcdserverpb.RangeRequest{Key: from, RangeEnd: end, Limit: limit})
		if errors.Is(err, nexusraft.ErrTooLarge) && limit > 1 {
			limit /= 2
			continue
		}
		if err != nil {
			return err
		}
		for _, kv := range resp.Kvs {
			if !yield(keyValue(kv), nil) {
				return nil
			}
		}
		if !resp.More || len(resp.Kvs) == 0 {
			return nil
		}
		from = append(bytes.Clone(resp.Kvs[len(resp.Kvs)-1].Key), 0)
	}
}

// page is rangeOf for one of many pages: nothing is counted.
func (c *Client) page(ctx context.Context, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	if c.opts.PageTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.opts.PageTimeout)
		defer cancel()
	}
	return c.rangeOf(metadata.AppendToOutgoingContext(ctx, wire.PageHeader, "1"), req)
}

func (c *Client) rangeOf(ctx context.Context, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	var resp *etcdserverpb.RangeResponse
	err := c.read(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		resp, err = etcdserverpb.NewKVClient(conn).Range(ctx, req)
		return err
	})
	return resp, err
}

// prefixRange returns etcd's key and range_end for all keys that begin with prefix.
func prefixRange(prefix []byte) (key, end []byte) {
	if len(prefix) == 0 {
		return []byte{0}, []byte{0}
	}
	end = bytes.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return prefix, end[:i+1]
		}
	}
	return prefix, []byte{0}
}

// brief quotes a key for an error's text, a long one in part.
func brief(key []byte) string {
	const most = 64
	if len(key) <= most {
		return strconv.Quote(string(key))
	}
	return fmt.Sprintf("%q… (%d bytes)", key[:most], len(key))
}

func keyValue(kv *mvccpb.KeyValue) KeyValue {
	return KeyValue{
		Key:            kv.Key,
		Value:          kv.Value,
		CreateRevision: nexusraft.Revision(kv.CreateRevision),
		ModRevision:    nexusraft.Revision(kv.ModRevision),
		Version:        kv.Version,
		Lease:          LeaseID(kv.Lease),
	}
}

func keyValues(kvs []*mvccpb.KeyValue) []KeyValue {
	var pairs []KeyValue
	for _, kv := range kvs {
		pairs = append(pairs, keyValue(kv))
	}
	return pairs
}

func copies(header metadata.MD) int {
	values := header.Get(copiesHeader)
	if len(values) == 0 {
		return 0
	}
	n, err := strconv.Atoi(values[0])
	if err != nil {
		return 0
	}
	return n
}
