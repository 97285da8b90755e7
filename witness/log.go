package witness

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Log is a witness's log of one zone. It keeps what a vote needs: the terms of the
// entries, the conf changes among them, hard state, configuration and membership. It
// implements raft.Storage, and is compacted to the applied index at each write, so its
// size grows with the terms in the tail that is not committed, not with writes.
//
// A Log is for one goroutine. After an error of Write it must not be used again.
type Log struct {
	slots  *slots // nil: it is in the witness's journal
	record record
	failed error
}

// Update is what one round stores, in the order of its fields.
type Update struct {
	Snapshot  *raftpb.Snapshot  // replaces the whole log; Data is the encoded membership
	Append    []*raftpb.Entry   // replace what is at their indexes and above (I7)
	HardState *raftpb.HardState // nil: unchanged

	// Applied, if not 0, is the index up to which entries are applied. ConfState and
	// Membership are as of it; nil: unchanged.
	Applied    nexusraft.Index
	ConfState  *raftpb.ConfState
	Membership *nexusraft.Membership
}

// empty reports whether there is nothing to store.
func (u *Update) empty() bool {
	return u.Snapshot == nil && len(u.Append) == 0 && u.HardState == nil && u.Applied == 0
}

// CreateLog stores an empty log in dir, which exists. Its membership is what the zone
// said when it admitted this replica; a snapshot from the leader will replace it.
func CreateLog(f FS, dir string, o Origin, m nexusraft.Membership) (*Log, error) {
	r := record{Origin: o, Membership: m}
	content, err := r.encode()
	if err = cmp.Or(r.valid(), err); err != nil {
		return nil, fmt.Errorf("create log of zone %v: %w", o.Zone, err)
	}
	s, err := createSlots(f, dir, logName(o.Zone), content)
	if err != nil {
		return nil, fmt.Errorf("create log of zone %v: %w", o.Zone, err)
	}
	return &Log{slots: s, record: r}, nil
}

// OpenLog returns the log of a zone as it was last synced. It returns fs.ErrNotExist if
// there is none, and ErrCorrupt, with the file's name, if it can't be read.
func OpenLog(f FS, dir string, zone nexusraft.ZoneID) (*Log, error) {
	return openLog(f, dir, zone, openSlots)
}

// openLog is OpenLog by openSlots or readSlots.
func openLog(
	f FS, dir string, zone nexusraft.ZoneID, open func(f FS, dir, name string) (*slots, []byte, error),
) (*Log, error) {
	s, content, err := open(f, dir, logName(zone))
	if err != nil {
		return nil, fmt.Errorf("open log of zone %v: %w", zone, err)
	}
	r, err := decodeRecordOf(zone, content)
	if err != nil {
		return nil, fmt.Errorf("open log of zone %v: %s: %w", zone, s.path(slotOf(s.sequence)), err)
	}
	return &Log{slots: s, record: r}, nil
}

// decodeRecordOf is decodeRecord for a zone's record.
func decodeRecordOf(zone nexusraft.ZoneID, content []byte) (record, error) {
	r, err := decodeRecord(content)
	if err == nil && r.Zone != zone {
		err = fmt.Errorf("%w: it is the log of zone %v", nexusraft.ErrCorrupt, r.Zone)
	}
	return r, err
}

const logPrefix = "zone-"

func logName(zone nexusraft.ZoneID) string { return logPrefix + zone.String() }

// zoneOfFile returns whose log a file is a part of; ok is false if it is none.
func zoneOfFile(name string) (zone nexusraft.ZoneID, ok bool) {
	id, isLog := strings.CutPrefix(name, logPrefix)
	id, isSlot := strings.CutSuffix(id, filepath.Ext(id))
	if !isLog || !isSlot || zone.UnmarshalText([]byte(id)) != nil {
		return 0, false
	}
	s := slots{name: logName(zone)}
	return zone, name == s.path(0) || name == s.path(1)
}

// Write takes over an update: all of it or nothing, on disk before it returns if sync is
// true. Otherwise the update stays in memory until the next synced Write carries it, and
// a crash before takes it back: that is allowed for commit positions and what is applied,
// and for nothing else (I3). Of the update only immutable parts are kept.
func (l *Log) Write(u Update, sync bool) error {
	if !sync {
		return l.keep(u)
	}
	next, content, err := l.updated(u)
	if err != nil {
		return err
	}
	if err := l.slots.store(content); err != nil {
		return l.giveUp(err)
	}
	l.record = next
	return nil
}

// keep is Write without a sync.
func (l *Log) keep(u Update) error {
	if l.failed != nil {
		return l.failed
	}
	next, err := l.record.with(u)
	if err != nil {
		return l.giveUp(err)
	}
	l.record = next
	return nil
}

// updated returns the record as an update leaves it, and what is to be stored of it.
func (l *Log) updated(u Update) (next record, content []byte, err error) {
	if l.failed != nil {
		return next, nil, l.failed
	}
	if next, err = l.record.with(u); err == nil && l.slots != nil {
		content, err = next.encode()
	} else if err == nil {
		content, err = next.compactForm()
	}
	if err != nil {
		return next, nil, l.giveUp(err)
	}
	return next, content, nil
}

func (l *Log) giveUp(err error) error {
	l.failed = fmt.Errorf("write log of zone %v: %w", l.record.Zone, err)
	return l.failed
}

// with returns the record as an update leaves it.
func (r record) with(u Update) (record, error) {
	var err error
	if u.Snapshot != nil {
		if r, err = r.install(u.Snapshot); err != nil {
			return r, err
		}
	}
	if r, err = r.append(u.Append); err != nil {
		return r, err
	}
	if hs := u.HardState; hs != nil {
		if nexusraft.Term(hs.GetTerm()) < r.Term || nexusraft.Index(hs.GetCommit()) < r.Commit {
			return r, fmt.Errorf("hard state goes back from term %d and commit %d to %d and %d", r.Term, r.Commit, hs.GetTerm(),
				hs.GetCommit())
		}
		r.Term, r.Vote, r.Commit = nexusraft.Term(hs.GetTerm()), nexusraft.ReplicaID(hs.GetVote()),
			nexusraft.Index(hs.GetCommit())
	}
	if u.ConfState != nil {
		r.ConfState = confStateOf(u.ConfState)
	}
	if u.Membership != nil {
		r.Membership = *u.Membership
	}
	if u.Applied != 0 {
		if r, err = r.compact(u.Applied); err != nil {
			return r, err
		}
	}
	return r, r.valid()
}

// Origin returns whose log it is.
func (l *Log) Origin() Origin { return l.record.Origin }

// Applied returns the index up to which entries are applied, for zone.Config.
func (l *Log) Applied() nexusraft.Index { return l.record.Applied }

// Membership returns the records as of Applied.
func (l *Log) Membership() nexusraft.Membership { return l.record.Membership }

// Bytes returns what the log takes on disk in files of its own.
func (l *Log) Bytes() int64 {
	if l.slots == nil {
		return 0
	}
	return l.slots.size()
}

// InitialState implements raft.Storage.
func (l *Log) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	r := l.record
	hs := &raftpb.HardState{Term: new(uint64(r.Term)), Vote: new(uint64(r.Vote)), Commit: new(uint64(r.Commit))}
	return hs, r.ConfState.raft(), nil
}

// FirstIndex implements raft.Storage.
func (l *Log) FirstIndex() (uint64, error) { return uint64(l.record.Applied) + 1, nil }

// LastIndex implements raft.Storage.
func (l *Log) LastIndex() (uint64, error) { return uint64(l.record.Last), nil }

// Term implements raft.Storage.
func (l *Log) Term(i uint64) (uint64, error) {
	switch index := nexusraft.Index(i); {
	case index < l.record.Applied:
		return 0, raft.ErrCompacted
	case index > l.record.Last:
		return 0, raft.ErrUnavailable
	default:
		return uint64(l.record.term(index)), nil
	}
}

// Entries implements raft.Storage. The entries are made for the caller, conf changes whole
// and all others without payload.
func (l *Log) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	switch {
	case nexusraft.Index(lo) <= l.record.Applied:
		return nil, raft.ErrCompacted
	case nexusraft.Index(hi) > l.record.Last+1 || lo > hi:
		return nil, raft.ErrUnavailable
	}
	var out []*raftpb.Entry
	var size uint64
	for i := lo; i < hi; i++ {
		e := l.record.entry(nexusraft.Index(i))
		if size += uint64(proto.Size(e)); size > maxSize && len(out) > 0 {
			break
		}
		out = append(out, e)
	}
	return out, nil
}

// entry makes the entry at index, which is in (Applied, Last].
func (r record) entry(index nexusraft.Index) *raftpb.Entry {
	e := &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Term: new(uint64(r.term(index))), Index: new(uint64(index))}
	for _, c := range r.ConfChanges {
		if c.Index == index {
			e.Type, e.Data = raftpb.EntryType(c.Type).Enum(), c.Data
		}
	}
	return e
}

// Snapshot implements raft.Storage. Only a leader sends snapshots, and a witness never
// leads (I11).
func (l *Log) Snapshot() (*raftpb.Snapshot, error) {
	return nil, raft.ErrSnapshotTemporarilyUnavailable
}

var _ raft.Storage = (*Log)(nil)

func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
