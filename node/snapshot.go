package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// A snapshot's state travels as pairs: length and bytes of the key, length and bytes of
// the value, lengths as uvarints, in key order.

const (
	stagingBatchBytes = 4 << 20
	wantedBytes       = 16 << 20
	maxPairPartBytes  = 64 << 20 // a key or a value in a snapshot
)

// errSnapshotIgnored: raft had no use for the snapshot; it is older than what is here.
var errSnapshotIgnored = errors.New("raft ignored the snapshot: this replica has as much")

// sendSnapshot starts a job that sends the zone's state as it is now, which is as new as
// what raft asked for or newer. Index, term, configuration, records and data come from
// one moment: the worker is between two writes.
func (h *hosted) sendSnapshot(m *raftpb.Message) {
	to := nexusraft.ReplicaID(m.GetTo())
	node, ok := h.nodeOf(to)
	if rec, known := h.replica.Membership().Replica(to); known && rec.Role == nexusraft.RoleWitness {
		h.sendMessage(m) // metadata is all that a witness gets
		return
	}
	if !ok || h.sending[to] != 0 || !h.w.node.sending.tryStart() {
		h.replica.ReportSnapshot(to, false)
		return
	}
	header, err := h.snapshotHeader(m)
	if err != nil {
		h.w.node.sending.end()
		h.replica.ReportSnapshot(to, false)
		h.logger.Error("snapshot not sent", "peer", node, "err", err)
		return
	}
	snap, state := h.w.node.store.NewSnapshot(), h.state
	h.sending[to] = header.Index
	h.logger.Info("sending snapshot", "peer", node, "term", header.Term, "index", header.Index)
	go h.w.node.runSnapshot(h, node, header, &stateEncoder{reader: snap.Reader(state)}, snap)
}

// snapshotHeader describes the state as of the applied index.
func (h *hosted) snapshotHeader(m *raftpb.Message) (transport.SnapshotHeader, error) {
	s, err := h.log.Snapshot()
	if err != nil {
		return transport.SnapshotHeader{}, err
	}
	m = proto.CloneOf(m)
	m.Snapshot = s
	data, err := proto.Marshal(m)
	if err != nil {
		return transport.SnapshotHeader{}, fmt.Errorf("encode: %w", err)
	}
	meta := s.GetMetadata()
	return transport.SnapshotHeader{
		Zone: h.id, From: h.self, To: nexusraft.ReplicaID(m.GetTo()),
		Index: nexusraft.Index(meta.GetIndex()), Term: nexusraft.Term(meta.GetTerm()), Message: data,
	}, nil
}

// runSnapshot is the job. It tells raft how it ended, whatever happened; of a failure only
// after a pause, since raft then asks for another one at the next heartbeat, and a receiver
// that is full or busy would be asked twenty times a second.
func (n *Node) runSnapshot(h *hosted, to nexusraft.NodeID, header transport.SnapshotHeader, state *stateEncoder, snap *storage.Snapshot) {
	defer n.sending.end()
	x := n.transfers.begin(header.Zone, nexusraft.SnapshotStatus{Peer: to, Sending: true, Index: header.Index})
	err := n.peers.SendSnapshot(n.sending.context, to, transport.Snapshot{SnapshotHeader: header, State: state.from, Progress: x.at})
	x.end()
	snap.Close()
	n.events.snapshot(header.Zone, to, header.Index, header.Term, err)
	if err != nil {
		n.logger.Warn("snapshot failed", "zone", header.Zone, "peer", to, "term", header.Term, "index", header.Index, "err", err)
		select {
		case <-n.sending.context.Done():
		case <-time.After(2 * n.config.electionTimeout()):
		}
	} else {
		n.logger.Info("snapshot arrived", "zone", header.Zone, "peer", to, "term", header.Term, "index", header.Index)
	}
	n.worker.inbox.putEvent(func() {
		delete(h.sending, header.To)
		h.replica.ReportSnapshot(header.To, err == nil)
	})
}

// stateEncoder yields a tree as bytes. It remembers where pairs begin, so that it need not
// read all of it again to go on in the middle.
type stateEncoder struct {
	reader nexusraft.Reader
	marks  []mark // ascending, markBytes apart at least
}

// mark says that the pair with this key begins at this offset.
type mark struct {
	offset uint64
	key    []byte
}

const (
	markBytes  = 8 << 20
	pieceBytes = 64 << 10 // what is gathered of small pairs; a large key or value goes by itself
)

// from yields what follows the first offset bytes; each piece is valid until the next.
func (e *stateEncoder) from(offset uint64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		at := e.before(offset)
		w := pieceWriter{yield: yield, skip: offset - at.offset}
		for p, err := range e.reader.Scan(at.key, nil) {
			if err != nil {
				yield(nil, err)
				return
			}
			e.mark(at.offset+w.offset, p.Key)
			if !w.part(p.Key) || !w.part(p.Value) {
				return
			}
		}
		w.flush()
	}
}

// before returns the last mark that is not beyond offset.
func (e *stateEncoder) before(offset uint64) mark {
	i := len(e.marks)
	for i > 0 && e.marks[i-1].offset > offset {
		i--
	}
	if i == 0 {
		return mark{}
	}
	return e.marks[i-1]
}

func (e *stateEncoder) mark(offset uint64, key []byte) {
	var last uint64
	if n := len(e.marks); n > 0 {
		last = e.marks[n-1].offset
	}
	if offset >= last+markBytes {
		e.marks = append(e.marks, mark{offset, bytes.Clone(key)})
	}
}

// pieceWriter yields parts, small ones together.
type pieceWriter struct {
	yield  func([]byte, error) bool
	skip   uint64 // bytes that are not to be yielded
	offset uint64 // bytes written, the skipped ones included
	buf    []byte
}

// part writes one length-prefixed part. It reports false if no more is wanted.
func (w *pieceWriter) part(b []byte) bool {
	n := len(w.buf)
	w.buf = binary.AppendUvarint(w.buf, uint64(len(b)))
	w.offset += uint64(len(w.buf)-n) + uint64(len(b))
	if len(b) >= pieceBytes {
		return w.flush() && w.put(b)
	}
	w.buf = append(w.buf, b...)
	return len(w.buf) < pieceBytes || w.flush()
}

func (w *pieceWriter) flush() bool {
	ok := w.put(w.buf)
	w.buf = w.buf[:0]
	return ok
}

func (w *pieceWriter) put(b []byte) bool {
	n := min(w.skip, uint64(len(b)))
	w.skip -= n
	return len(b[n:]) == 0 || w.yield(b[n:], nil)
}

// stateDecoder puts chunks back together into pairs.
type stateDecoder struct {
	rest []byte // what is not decoded yet, at the end of buf
	buf  []byte
}

// next returns the next pair, or ok false if more bytes are needed. The slices are valid
// until the next call of add.
func (d *stateDecoder) next() (p nexusraft.Pair, ok bool, err error) {
	key, n, err := part(d.rest)
	if n == 0 || err != nil {
		return p, false, err
	}
	value, m, err := part(d.rest[n:])
	if m == 0 || err != nil {
		return p, false, err
	}
	d.rest = d.rest[n+m:]
	return nexusraft.Pair{Key: key, Value: value}, true, nil
}

// add appends a chunk. What is left of the ones before is moved to the front, if anything was decoded, so that the
// buffer holds one pair and one chunk at most.
func (d *stateDecoder) add(chunk []byte) {
	if len(d.rest) < len(d.buf) {
		d.buf = d.buf[:copy(d.buf, d.rest)]
	}
	if room := cap(d.buf) - len(d.buf); room < len(chunk) {
		d.buf = slices.Grow(d.buf, max(len(chunk), len(d.buf))) // doubled: append grows large slices by a quarter
	}
	d.buf = append(d.buf, chunk...)
	d.rest = d.buf
}

// part returns one length-prefixed part and how many bytes it takes; 0 if it is cut off.
func part(b []byte) (data []byte, n int, err error) {
	size, n := binary.Uvarint(b)
	switch {
	case n < 0 || size > maxPairPartBytes:
		return nil, 0, fmt.Errorf("%w: snapshot has a key or value over %d bytes", nexusraft.ErrCorrupt, maxPairPartBytes)
	case n == 0 || uint64(len(b)-n) < size:
		return nil, 0, nil
	}
	return b[n : n+int(size)], n + int(size), nil
}

// staged is the state of a snapshot in a tree of its own, until raft takes it up.
type staged struct {
	index nexusraft.Index
	term  nexusraft.Term
	tree  *storage.Tree
	done  chan error // has room for the one answer
}

func (s *staged) end(err error) { s.done <- err }

// InstallSnapshot implements transport.MemberHandler: it fills a staging tree, and only
// when all of it is there, verified and synced, raft hears of the snapshot.
func (n *Node) InstallSnapshot(ctx context.Context, from nexusraft.NodeID, h transport.SnapshotHeader, chunks iter.Seq2[[]byte, error]) error {
	message := &raftpb.Message{}
	if err := proto.Unmarshal(h.Message, message); err != nil {
		return fmt.Errorf("%w: the snapshot's message can't be read: %w", nexusraft.ErrCorrupt, err)
	}
	meta := message.GetSnapshot().GetMetadata()
	if message.GetType() != raftpb.MsgSnap || meta.GetIndex() != uint64(h.Index) || meta.GetTerm() != uint64(h.Term) ||
		message.GetTo() != uint64(h.To) || message.GetFrom() != uint64(h.From) {
		return fmt.Errorf("%w: the snapshot's message is not of the snapshot", nexusraft.ErrCorrupt)
	}
	if err := n.Room(); err != nil {
		return err
	}
	x := n.transfers.begin(h.Zone, nexusraft.SnapshotStatus{Peer: from, Index: h.Index})
	defer x.end()
	tree, err := n.fillStaging(h.Zone, n.wanted(ctx, from, h, message, x, chunks))
	if err != nil {
		return err
	}
	s := &staged{index: h.Index, term: h.Term, tree: tree, done: make(chan error, 1)}
	err = n.offerSnapshot(ctx, from, h.Zone, message, s)
	if err != nil {
		err = errors.Join(err, n.dropStaging(tree))
	}
	return err
}

// wanted yields chunks for as long as raft has any use for the snapshot, which it is asked before the
// first one and after every wantedBytes.
func (n *Node) wanted(ctx context.Context, from nexusraft.NodeID, h transport.SnapshotHeader, message *raftpb.Message,
	x *transfer, chunks iter.Seq2[[]byte, error],
) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if err := n.checkWanted(ctx, from, h, message); err != nil {
			yield(nil, err)
			return
		}
		var offset, asked uint64
		for chunk, err := range chunks {
			offset += uint64(len(chunk))
			if err == nil && offset > asked+wantedBytes {
				err, asked = n.checkWanted(ctx, from, h, message), offset
			}
			x.at(offset)
			if !yield(chunk, err) || err != nil {
				return
			}
		}
	}
}

// checkWanted refuses a snapshot that raft would ignore. Raft gets its message all the same, and so answers how far
// this replica is: the leader that is not told would send another one.
func (n *Node) checkWanted(ctx context.Context, from nexusraft.NodeID, h transport.SnapshotHeader, message *raftpb.Message) error {
	_, err := ask(ctx, n, h.Zone, func(z *hosted) (struct{}, error) {
		if z.replica.Status().Commit < h.Index {
			return struct{}{}, nil
		}
		z.step(inbound{zone: h.Zone, from: from, message: message})
		return struct{}{}, errSnapshotIgnored
	})
	return err
}

// fillStaging writes the pairs into a new tree, in ordinary batches, the last one synced.
func (n *Node) fillStaging(z nexusraft.ZoneID, chunks iter.Seq2[[]byte, error]) (_ *storage.Tree, err error) {
	tree, err := n.store.Tree(newStateTreeName(z))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.dropStaging(tree))
		}
	}()
	b := n.store.NewBatch()
	defer b.Close()
	var d stateDecoder
	for chunk, err := range chunks {
		if err != nil {
			return nil, err
		}
		d.add(chunk)
		if err := stagePairs(b, tree, &d); err != nil {
			return nil, err
		}
		if b.Size() > stagingBatchBytes {
			if err := b.Commit(false); err != nil {
				return nil, err
			}
			b.Reset()
		}
	}
	if len(d.rest) > 0 {
		return nil, fmt.Errorf("%w: the snapshot ends inside a pair", nexusraft.ErrCorrupt)
	}
	return tree, b.Commit(true) // the log is written in order: this syncs the batches before, too
}

func stagePairs(b *storage.Batch, tree *storage.Tree, d *stateDecoder) error {
	for {
		p, ok, err := d.next()
		if err != nil || !ok {
			return err
		}
		if err := b.Set(tree, p.Key, p.Value); err != nil {
			return err
		}
	}
}

// offerSnapshot has raft decide, and waits for the switch.
func (n *Node) offerSnapshot(ctx context.Context, from nexusraft.NodeID, z nexusraft.ZoneID, message *raftpb.Message, s *staged) error {
	if n.worker.inbox.putMessages([]inbound{{zone: z, from: from, message: message, staged: s}}) == 0 {
		if n.worker.inbox.isClosed() {
			return nexusraft.ErrClosed
		}
		return nexusraft.ErrOverloaded
	}
	// The worker always answers, so the staging tree is never dropped under its hands.
	select {
	case err := <-s.done:
		return err
	case <-ctx.Done():
		return <-s.done
	}
}

// dropStaging removes a staging tree that nothing refers to.
func (n *Node) dropStaging(tree *storage.Tree) error {
	if err := n.store.DropTree(tree.Name()); err != nil {
		return fmt.Errorf("drop staging tree: %w", err)
	}
	return nil
}

// stageSnapshot stages the switch to the staged state: one small synced write (I2).
func (h *hosted) stageSnapshot(b *storage.Batch, s *raftpb.Snapshot, hs *raftpb.HardState) error {
	meta := s.GetMetadata()
	i := h.stagedAt(s)
	if i < 0 {
		return fmt.Errorf("%w: raft installs a snapshot at %d whose state is not here", nexusraft.ErrCorrupt, meta.GetIndex())
	}
	x, members := h.staged[i], h.replica.Membership()
	err := h.log.InstallSnapshot(b, x.index, x.term, meta.GetConfState(), members, x.tree.Name(), hs)
	if err != nil {
		return err
	}
	return b.DropTree(h.state)
}

// stagedAt returns which of the staged states is that of raft's snapshot; -1 if none is.
// There may be several, after a stall or from two leaders, and raft takes the newest.
func (h *hosted) stagedAt(s *raftpb.Snapshot) int {
	meta := s.GetMetadata()
	return slices.IndexFunc(h.staged, func(x *staged) bool {
		return uint64(x.index) == meta.GetIndex() && uint64(x.term) == meta.GetTerm()
	})
}

// switched ends the switch, after the write and before any reader may look again.
func (h *hosted) switched() {
	if h.round.work.Snapshot == nil {
		return
	}
	i := h.stagedAt(h.round.work.Snapshot)
	x := h.staged[i]
	h.staged = slices.Delete(h.staged, i, i+1)
	h.state = x.tree
	h.overlay = storage.NewOverlay(h.state)
	h.w.node.publishLocked(h.id, h.published())
	h.logger.Info("snapshot installed", "term", x.term, "index", x.index)
	h.w.node.events.snapshot(h.id, 0, x.index, x.term, nil)
	x.end(nil)
}

// endStaged ends the staged snapshots that are left: raft had no use for them, or it is
// over with the zone.
func (h *hosted) endStaged(err error) {
	for _, x := range h.staged {
		x.end(err)
	}
	h.staged = nil
}
