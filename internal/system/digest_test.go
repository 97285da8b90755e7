package system

import (
	"errors"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

func verifyState(index, sum uint64) *pb.NodeCommand {
	return &pb.NodeCommand{Kind: &pb.NodeCommand_VerifyState{VerifyState: &pb.VerifyState{Index: index, Digest: sum}}}
}

// The root zone of a cluster that an earlier release has founded begins its digest with the command that
// raises the version, and once.
func TestDigestBeginsWithTheVersion(t *testing.T) {
	s := emptyState(t)
	has := func() bool {
		_, ok, err := LoadDigest(s)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	for _, x := range []struct {
		minor uint32
		want  bool
	}{{ZonesVersion - 1, false}, {ZonesVersion, true}} {
		if _, err := Apply(s, nil, 1, 1, own(t, raiseVersion(x.minor))); err != nil || has() != x.want {
			t.Errorf("version %d: digest %t, %v", x.minor, has(), err)
		}
	}
	if _, err := StoreDigest(s, Digest{7, 8}); err != nil {
		t.Fatal(err)
	}
	if _, err := Apply(s, nil, 1, 1, own(t, raiseVersion(ZonesVersion+1))); err != nil {
		t.Fatal(err)
	}
	if d, _, _ := LoadDigest(s); d != (Digest{7, 8}) {
		t.Errorf("it began again: %v", d)
	}
}

// A replica remembers the newest checkpoints, compares those, and passes the others.
func TestVerifyState(t *testing.T) {
	s := emptyState(t)
	const all = 200 * checkpointEvery
	for i := nexusraft.Index(checkpointEvery); i <= all; i += checkpointEvery {
		if due, err := StoreDigest(s, Digest{i, uint64(i) + 1}); err != nil || !due {
			t.Fatal(due, err)
		}
	}
	if due, err := StoreDigest(s, Digest{all + 1, 1}); err != nil || due {
		t.Error("each entry is a checkpoint", err)
	}
	oldest := uint64(all - (maxCheckpoints-1)*checkpointEvery)
	for _, x := range []struct {
		index, sum uint64
		differs    bool
	}{
		{all, all + 1, false},
		{all, all, true},
		{oldest, oldest + 1, false},
		{oldest, 0, true},
		{oldest - checkpointEvery, 0, false},
		{all + 1, 0, false},
		{0, 0, false},
	} {
		r, err := Apply(s, nil, 1, 1, own(t, verifyState(x.index, x.sum)))
		d, differs := errors.AsType[*DivergedError](err)
		if differs != x.differs || err != nil && !differs {
			t.Errorf("%+v: got %v", x, err)
		}
		if differs && (uint64(d.Index) != x.index || d.Leader != x.sum || d.Here != x.index+1) {
			t.Errorf("%+v: got %+v", x, d)
		}
		if !differs && uint64(r.Verified) != x.index {
			t.Errorf("%+v: got %+v", x, r)
		}
	}
	if err := Check(own(t, verifyState(all, 0))); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("from another node: got %v", err)
	}
}

// FuzzDigestRecords has any bytes for the records of digests: they are read, or ErrCorrupt.
func FuzzDigestRecords(f *testing.F) {
	f.Add(Digest{1, 2}.append(nil))
	f.Add(MarkDiverged(&DivergedError{1, 2, 3}).Value)
	s := emptyState(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, key := range [][]byte{digestKey, checkpointsKey, divergedKey} {
			if err := s.Set(key, b); err != nil {
				t.Fatal(err)
			}
		}
		_, _, err := LoadDigest(s)
		_, again := StoreDigest(s, Digest{checkpointEvery, 1})
		for _, err := range []error{err, applyVerify(s, &pb.VerifyState{Index: 1}), again} {
			if err != nil && !errors.Is(err, nexusraft.ErrCorrupt) {
				t.Errorf("%x: got %v", b, err)
			}
		}
		err = CheckDiverged(s)
		if d, ok := errors.AsType[*DivergedError](err); !errors.Is(err, nexusraft.ErrCorrupt) ||
			ok && string(MarkDiverged(d).Value) != string(b) {
			t.Errorf("%x: got %v", b, err)
		}
	})
}
