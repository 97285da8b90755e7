package witness

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

// journalOn opens a journal that has nothing, and keeps some zones.
func journalOn(t *testing.T, f FS, keep ...nexusraft.ZoneID) *journal {
	t.Helper()
	j, err := openJournal(f, "d", keep, nil)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// journalFiles are the names of a journal's files.
func journalFiles(f *MemFS) []string {
	names, err := f.Names("d")
	must(err)
	return slices.DeleteFunc(names, func(name string) bool {
		_, ok := journalNumber(name)
		return !ok
	})
}

func sameZones(a, b map[nexusraft.ZoneID][]byte) bool { return maps.EqualFunc(a, b, bytes.Equal) }

// TestJournalKeepsWhatWasPut: over many writes, files and openings, of zones that come and go.
func TestJournalKeepsWhatWasPut(t *testing.T) {
	f, rng := NewMemFS(), rand.New(rand.NewPCG(3, 4))
	j, want := journalOn(t, f), make(map[nexusraft.ZoneID][]byte)
	if names := journalFiles(f); len(names) != 0 {
		t.Errorf("before the first write there is %q", names)
	}
	most := int64(0)
	for i := range 2000 {
		var zones []zoneContent
		for range 1 + rng.IntN(3) {
			z := nexusraft.ZoneID(2 + rng.IntN(12))
			if slices.ContainsFunc(zones, func(x zoneContent) bool { return x.zone == z }) {
				continue
			}
			zones = append(zones, zoneContent{z, testContent(i, rng.IntN(1500))})
			want[z] = zones[len(zones)-1].content
		}
		must(j.put(zones))
		if rng.IntN(50) == 0 {
			gone := slices.Sorted(maps.Keys(want))[0]
			j.drop([]nexusraft.ZoneID{gone})
			delete(want, gone)
		}
		if !sameZones(j.zones, want) {
			t.Fatalf("after write %d it differs", i)
		}
		if most = max(most, j.bytes()); rng.IntN(100) > 0 {
			continue
		}
		must(j.Close())
		if j = journalOn(t, f, slices.Sorted(maps.Keys(want))...); !sameZones(j.zones, want) {
			t.Fatalf("opened after write %d it differs", i)
		}
	}
	if names := journalFiles(f); len(names) != 1 || j.number < 10 || most > 12*1600+minRoom+blockBytes {
		t.Errorf("at the end there is %q, number %d, with %d bytes at most", names, j.number, most)
	}
	must(j.Close())
	if err := j.put([]zoneContent{{2, nil}}); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("closed: got %v", err)
	}
}

// TestJournalCrashAtEveryStep crashes before each step that reaches the disk, many times, each with other
// sectors surviving, also within the opening after a crash. Of each zone there is what was acknowledged last, or
// what was being written.
func TestJournalCrashAtEveryStep(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	f := NewMemFS()
	all := []nexusraft.ZoneID{2, 3, 4, 5}
	acknowledged, next := make(map[nexusraft.ZoneID][]byte), make(map[nexusraft.ZoneID][]byte)
	steps, older, newer := 0, 0, 0
	check := func(what string, f *MemFS) {
		j, err := openJournal(f, "d", all, nil)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for _, z := range all {
			switch got := j.zones[z]; {
			case bytes.Equal(got, acknowledged[z]):
				older++
			case bytes.Equal(got, next[z]):
				newer++
			default:
				t.Fatalf("%s: zone %v has %d bytes, neither the %d that were acknowledged nor the %d that were being written", what,
					z, len(got), len(acknowledged[z]), len(next[z]))
			}
		}
	}
	f.Before = func(step, name string) error {
		steps++
		for i := range 6 {
			what := fmt.Sprintf("crashed before step %d, %s of %s, try %d", steps, step, name, i)
			left := f.CrashClone(rng, 50)
			second, at := left.CrashClone(nil, 0), rng.IntN(8)
			dead := errors.New("dead")
			second.Before = func(string, string) error {
				if at--; at < 0 {
					return dead
				}
				return nil
			}
			check(what, left)
			if _, err := openJournal(second, "d", all, nil); err != nil && !errors.Is(err, dead) {
				t.Fatalf("%s: %v", what, err)
			}
			check(what+", and again while it was opened", second.CrashClone(rng, 50))
		}
		return nil
	}
	j := journalOn(t, f, all...)
	for i := range 40 {
		var zones []zoneContent
		for _, z := range all {
			if rng.IntN(2) == 0 || z == 2 {
				zones = append(zones, zoneContent{z, testContent(i, []int{0, 30, 700, 40_000}[rng.IntN(4)])})
			}
		}
		next = maps.Clone(acknowledged)
		for _, z := range zones {
			next[z.zone] = z.content
		}
		must(j.put(zones))
		acknowledged = next
		if i%16 == 15 {
			must(j.Close())
			j = journalOn(t, f, all...)
		}
	}
	if steps < 90 || j.number < 4 || older < 1000 || newer < 100 {
		t.Errorf("%d steps, %d files; %d times the older record, %d times the newer: the test sees too little", steps,
			j.number, older, newer)
	}
}

// TestJournalFindsDamage: what was acknowledged and can't be read is never passed over.
func TestJournalFindsDamage(t *testing.T) {
	f := NewMemFS()
	j := journalOn(t, f, 2, 3)
	for i := range 4 {
		must(j.put([]zoneContent{{2, testContent(i, 600)}, {3, testContent(i, 1000)}}))
	}
	name, written := j.path(j.number), int(j.at)
	good := []byte(f.contents()[name])
	open := func(file []byte) error {
		f := NewMemFS()
		x, err := f.Create(name)
		must(err)
		_, err = x.WriteAt(file, 0)
		must(err)
		_, err = openJournal(f, "d", []nexusraft.ZoneID{2, 3}, nil)
		return err
	}
	must(open(good))
	for at := 0; at < written+4*blockBytes; at += 37 {
		bad := bytes.Clone(good)
		bad[at] ^= 0x40
		if err := open(bad); at < written && bytes.Equal(bad[at-at%blockBytes:][:12], good[at-at%blockBytes:][:12]) &&
			!errors.Is(err, nexusraft.ErrCorrupt) || err == nil {
			t.Fatalf("byte %d of %d changed: got %v", at, written, err)
		}
	}
	last := written - 4*blockBytes // where the last content begins
	for at := 0; at < last; at += blockBytes {
		lost := bytes.Clone(good)
		clear(lost[at:][:blockBytes])
		if err := open(lost); !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("block %d lost, of %d: got %v", at/blockBytes, written/blockBytes, err)
		}
	}
	other := bytes.Clone(good)
	four := encodeBlocks(journalFormat, sequenceOf(1, 9), make([]byte, 4*payloadBytes))
	copy(other[written-blockBytes:], four[3*blockBytes:])
	if err := open(other); !errors.Is(err, nexusraft.ErrCorrupt) {
		t.Errorf("a block of another content: got %v", err)
	}
	later := bytes.Clone(good)
	copy(later[8:], []byte{0, 0, 0, 9})
	if err := open(later); !errors.Is(err, nexusraft.ErrCorrupt) || !strings.Contains(err.Error(), "format version is 9") {
		t.Errorf("of a later release: got %v", err)
	}
	if err := j.put([]zoneContent{{2, make([]byte, maxContentBytes+1)}}); !errors.Is(err, nexusraft.ErrTooLarge) {
		t.Errorf("a record over its limit: got %v", err)
	}
}

// TestRemovedFileComesBack: a crash may bring back the file before the newest one; it does not count.
func TestRemovedFileComesBack(t *testing.T) {
	f := NewMemFS()
	j := journalOn(t, f, 2)
	for i := 0; j.number < 2; i++ {
		must(j.put([]zoneContent{{2, testContent(i, 50_000)}}))
	}
	want := j.zones[2]
	back := f.CrashClone(nil, 0)
	if names := journalFiles(back); len(names) != 2 {
		t.Fatalf("after the crash there is %q", names)
	}
	if got := journalOn(t, back, 2); !bytes.Equal(got.zones[2], want) || len(journalFiles(back)) != 1 {
		t.Errorf("opened: %d bytes, files %q", len(got.zones[2]), journalFiles(back))
	}
}

// TestSlotsOfAnEarlierRelease: an earlier release kept each zone in slots of its own. They go on in the
// journal, with each vote, whatever crashes when, and the earlier release refuses the directory from then on.
func TestSlotsOfAnEarlierRelease(t *testing.T) {
	base := NewMemFS()
	var zones []nexusraft.ZoneID
	t.Run("an earlier release", func(t *testing.T) { // its member ends with it
		_, w := joined(t, base)
		x := newTable(w.node())
		x.create(true)
		x.create(true)
		w.told(x)
		for _, z := range x.live() {
			if r := w.voteIn(z, nexusraft.Term(z)+5); r.Outcome != transport.VoteGranted {
				t.Fatalf("zone %v: %+v", z, r)
			}
		}
		w.stopInOrder()
		zones = x.live()
		backToSlots(base, zones)
	})
	dead := errors.New("killed")
	for last := 0; ; last++ {
		f, steps := base.CrashClone(nil, 0), 0
		f.Before = func(string, string) error {
			if steps++; steps > last {
				return dead
			}
			return nil
		}
		w, err := Open(Config{Dir: "d", FS: f})
		if err == nil {
			must(w.Close())
		} else if !errors.Is(err, dead) {
			t.Fatalf("killed after %d steps: %v", last, err)
		}
		for _, unsynced := range []int{0, 50, 100} {
			left := f.CrashClone(rand.New(rand.NewPCG(uint64(last), 7)), unsynced)
			what := fmt.Sprintf("killed after %d steps, of what was not synced %d %% left", last, unsynced)
			for range 2 {
				w := start(t, Config{Dir: "d", FS: left}).awaitReady()
				for _, z := range zones {
					if got := w.hosted()[z].Term; got != nexusraft.Term(z)+5 {
						t.Fatalf("%s: zone %v is at term %d", what, z, got)
					}
				}
				w.stopInOrder()
			}
			if got := onDisk(t, left); !slices.Equal(got, zones) {
				t.Fatalf("%s: on the disk are %v", what, got)
			}
			for _, slot := range []string{".a", ".b"} {
				if v := formatOf([]byte(left.contents()[filepath.Join("d", identityName+slot)])); v != journalFormat {
					t.Fatalf("%s: an earlier release reads identity%s, of format %d", what, slot, v)
				}
			}
		}
		if err == nil {
			if last < 8 {
				t.Errorf("opening took %d steps; the test sees none of them", last)
			}
			return
		}
	}
}

// backToSlots makes a directory what an earlier release has left.
func backToSlots(f *MemFS, zones []nexusraft.ZoneID) {
	j, err := openJournal(f, "d", zones, nil)
	must(err)
	for _, z := range zones {
		_, err := createSlots(f, "d", logName(z), j.zones[z])
		must(err)
	}
	must(j.Close())
	must(f.Remove(j.path(j.number)))
	k, _, err := openKeeper(f, "d")
	must(err)
	content, err := json.Marshal(k.record)
	must(err)
	for range 2 {
		must(k.write(slotsFormat, content))
	}
	must(f.SyncDir("d"))
}

// TestSlotsThatAreGone: where a vote is lost nothing is taken over, and the files stay as they are.
func TestSlotsThatAreGone(t *testing.T) {
	f := NewMemFS()
	_, w := joined(t, f)
	x := newTable(w.node())
	x.create(true)
	x.create(true)
	w.told(x)
	w.stopInOrder()
	backToSlots(f, x.live())
	must(removeSlots(f, "d", logName(3)))
	before := f.contents()
	for range 2 {
		if _, err := Open(Config{Dir: "d", FS: f}); !errors.Is(err, nexusraft.ErrCorrupt) ||
			!strings.Contains(err.Error(), "the log of zone 3 is gone") {
			t.Errorf("got %v", err)
		}
	}
	for name, content := range before {
		if strings.Contains(name, logPrefix) && f.contents()[name] != content && !strings.Contains(name, logName(2)) {
			t.Errorf("%s has changed", name)
		}
	}
	if names := journalFiles(f); len(names) != 0 {
		t.Errorf("there is %q", names)
	}
}

// FuzzReadJournal: whatever is in a file, it is read or refused, and what is read fits into it.
func FuzzReadJournal(f *testing.F) {
	zones := encodeZones([]zoneContent{{2, []byte("a")}, {3, testContent(1, 900)}})
	state := encodeBlocks(journalFormat, sequenceOf(1, 1), zones)
	round := encodeBlocks(journalFormat, sequenceOf(1, 2), encodeZones([]zoneContent{{3, []byte("b")}}))
	f.Add(slices.Concat(state, round, make([]byte, 3*blockBytes)))
	f.Add(slices.Concat(state, encodeBlocks(journalFormat, sequenceOf(1, 2), testContent(2, 900))[:700]))
	f.Add(state[:blockBytes])
	f.Add(encodeBlocks(journalFormat, sequenceOf(1, 1), []byte{0, 0, 0, 0, 0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff}))
	f.Fuzz(func(t *testing.T, file []byte) {
		zones, whole, err := readJournal(file, 1)
		if err != nil && (whole || zones != nil) {
			t.Errorf("with %v it says more", err)
		}
		size := 0
		for _, content := range zones {
			size += len(content)
		}
		if size > len(file) || !whole && len(zones) > 0 {
			t.Errorf("of %d bytes, whole %t, %d zones have %d", len(file), whole, len(zones), size)
		}
	})
}
