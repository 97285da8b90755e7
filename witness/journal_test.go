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

// sizesOf are those of a journal's files; one that is missing has none.
func sizesOf(f *MemFS) (sizes []int) {
	for _, name := range []string{"zones.a", "zones.b"} {
		if content, ok := f.contents()[filepath.Join("d", name)]; ok {
			sizes = append(sizes, len(content))
		}
	}
	return sizes
}

func sameZones(a, b map[nexusraft.ZoneID][]byte) bool { return maps.EqualFunc(a, b, bytes.Equal) }

// TestJournalKeepsWhatWasPut: over many writes, beginnings and openings, of zones that come and go.
func TestJournalKeepsWhatWasPut(t *testing.T) {
	f, rng := NewMemFS(), rand.New(rand.NewPCG(3, 4))
	j, want := journalOn(t, f), make(map[nexusraft.ZoneID][]byte)
	if sizes := sizesOf(f); len(sizes) != 0 {
		t.Errorf("before the first write there are files of %d bytes", sizes)
	}
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
		if rng.IntN(40) > 0 {
			continue
		}
		must(j.Close())
		number := j.number
		if j = journalOn(t, f, slices.Sorted(maps.Keys(want))...); !sameZones(j.zones, want) || j.number != number {
			t.Fatalf("opened after write %d it differs, or was begun anew: number %d, before %d", i, j.number, number)
		}
	}
	sizes := sizesOf(f)
	if len(sizes) != 2 || j.number < 10 || slices.Max(sizes) > pages(12*1600)+minRoom ||
		j.bytes() != int64(sizes[0]+sizes[1]) {
		t.Errorf("at the end there are files of %d bytes, number %d, and it says %d bytes", sizes, j.number, j.bytes())
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
		believed := maps.Clone(j.zones)
		must(j.put([]zoneContent{{9, testContent(1, 5000)}}))
		again, err := openJournal(f.CrashClone(nil, 0), "d", append(slices.Clone(all), 9), nil)
		if err != nil || !bytes.Equal(again.zones[9], testContent(1, 5000)) {
			t.Fatalf("%s: put, crashed and opened again: %v", what, err)
		}
		if delete(again.zones, 9); !sameZones(again.zones, believed) {
			t.Fatalf("%s: opened again it is something else", what)
		}
		j = &journal{zones: believed}
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
		for i := range 3 {
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
	if steps < 60 || j.number < 4 || older < 500 || newer < 50 {
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
	name, written := j.path(j.used), int(j.at)
	good := []byte(f.contents()[name])
	open := func(file []byte) error {
		f := f.CrashClone(nil, 0)
		x, err := f.Create(name)
		must(err)
		_, err = x.WriteAt(file, 0)
		must(err)
		_, err = openJournal(f, "d", []nexusraft.ZoneID{2, 3}, nil)
		return err
	}
	must(open(good))
	for at := 0; at < written+pageBytes; at += 37 {
		bad := bytes.Clone(good)
		bad[at] ^= 0x40
		if err := open(bad); !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Fatalf("byte %d of %d changed: got %v", at, written, err)
		}
	}
	last := written - pageBytes // where the last content begins
	for at := 0; at < last; at += blockBytes {
		lost := bytes.Clone(good)
		if allZero(lost[at:][:blockBytes]) {
			continue // between two contents
		}
		clear(lost[at:][:blockBytes])
		if err := open(lost); !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("block %d lost, of %d: got %v", at/blockBytes, written/blockBytes, err)
		}
	}
	other := bytes.Clone(good)
	two := encodeBlocks(journalFormat, sequenceOf(j.number, 9), make([]byte, 2*payloadBytes))
	copy(other[last+blockBytes:], two[blockBytes:])
	if err := open(other); !errors.Is(err, nexusraft.ErrCorrupt) {
		t.Errorf("a block of another content: got %v", err)
	}
	later := encodeBlocks(9, sequenceOf(7, 1), nil)
	if err := open(later); !errors.Is(err, nexusraft.ErrCorrupt) || !strings.Contains(err.Error(), "format version is 9") {
		t.Errorf("of a later release: got %v", err)
	}
	if err := j.put([]zoneContent{{2, make([]byte, maxContentBytes+1)}}); !errors.Is(err, nexusraft.ErrTooLarge) {
		t.Errorf("a record over its limit: got %v", err)
	}
}

func allZero(b []byte) bool { return !slices.ContainsFunc(b, func(x byte) bool { return x != 0 }) }

// TestJournalFileIsLost: nobody knows what a file had that is not there any more.
func TestJournalFileIsLost(t *testing.T) {
	f := NewMemFS()
	j := journalOn(t, f, 2)
	for i := 0; j.number < 4; i++ {
		must(j.put([]zoneContent{{2, testContent(i, 50_000)}}))
	}
	for i := range 2 {
		left := f.CrashClone(nil, 0)
		must(left.Remove(j.path(i)))
		if _, err := openJournal(left, "d", []nexusraft.ZoneID{2}, nil); !errors.Is(err, nexusraft.ErrCorrupt) ||
			!strings.Contains(err.Error(), j.path(i)+" is gone") {
			t.Errorf("%s removed: got %v", j.path(i), err)
		}
	}
}

// TestFirstBeginningIsCutOffTwice: until both files are there nothing was stored, and none of them is missed.
func TestFirstBeginningIsCutOffTwice(t *testing.T) {
	rng, torn := rand.New(rand.NewPCG(5, 6)), 0
	dead := errors.New("dead")
	for range 600 {
		f := NewMemFS()
		for cut := range 3 {
			at := rng.IntN(11)
			f.Before = func(string, string) error {
				if at--; at < 0 {
					return dead
				}
				return nil
			}
			j, err := openJournal(f, "d", []nexusraft.ZoneID{2}, nil)
			if err == nil {
				err = j.put([]zoneContent{{2, testContent(cut, 2000)}})
			}
			if err != nil && !errors.Is(err, dead) {
				t.Fatalf("after %d cuts: %v", cut, err)
			}
			if err == nil {
				break
			}
			f = f.CrashClone(rng, 50)
			if b, ok := f.contents()[filepath.Join("d", "zones.a")]; ok {
				if got, err := readJournal([]byte(b)); err == nil && !got.whole && got.number > 0 {
					torn++
				}
			}
		}
	}
	if torn < 20 {
		t.Errorf("%d times zones.a was cut off: the test sees too little", torn)
	}
}

// TestJournalOutlivesItsProcess: what a process has written and not synced when it dies is believed by the next one, so
// it is on the disk from then on, or nobody believes it.
func TestJournalOutlivesItsProcess(t *testing.T) {
	dead := errors.New("dead")
	for last := 0; ; last++ {
		f, steps := NewMemFS(), 0
		f.Before = func(string, string) error {
			if steps++; steps > last {
				return dead
			}
			return nil
		}
		j := journalOn(t, f, 2, 3)
		var err error
		for i := 0; i < 12 && err == nil; i++ {
			err = j.put([]zoneContent{{2, testContent(i, 40_000)}, {3, testContent(i, 10)}})
		}
		f.Before = nil
		second := journalOn(t, f, 2, 3)
		third := journalOn(t, f.CrashClone(nil, 0), 2, 3)
		if !sameZones(second.zones, third.zones) {
			t.Fatalf("killed after %d steps: what was believed is gone after a crash", last)
		}
		if err == nil {
			if last < 25 || j.number < 3 {
				t.Errorf("%d steps, %d beginnings: the test sees too little", last, j.number)
			}
			return
		}
	}
}

// TestImportOutlivesItsProcess: an import that is done again is on the disk, whatever the process before it had
// not synced.
func TestImportOutlivesItsProcess(t *testing.T) {
	dead := errors.New("dead")
	keep := []nexusraft.ZoneID{2}
	imported := func() map[nexusraft.ZoneID][]byte { return map[nexusraft.ZoneID][]byte{2: []byte("voted")} }
	for last := 0; ; last++ {
		f, steps := NewMemFS(), 0
		f.Before = func(string, string) error {
			if steps++; steps > last {
				return dead
			}
			return nil
		}
		_, first := openJournal(f, "d", keep, imported())
		f.Before = nil
		_, err := openJournal(f, "d", keep, imported())
		must(err)
		if got := journalOn(t, f.CrashClone(nil, 0), 2).zones[2]; string(got) != "voted" {
			t.Fatalf("killed after %d steps, done again, and crashed: got %q", last, got)
		}
		if first == nil {
			return
		}
	}
}

// fullFS is a file system without room: no file grows, none is made.
type fullFS struct {
	*MemFS
	full bool
}

type fullFile struct {
	File
	fs *fullFS
}

var errFull = errors.New("no space left")

func (f *fullFS) Create(name string) (File, error) {
	if _, err := f.MemFS.Open(name); err != nil && f.full {
		return nil, errFull
	}
	x, err := f.MemFS.Create(name)
	return fullFile{x, f}, err
}

func (f *fullFS) Open(name string) (File, error) {
	x, err := f.MemFS.Open(name)
	if err != nil {
		return nil, err
	}
	return fullFile{x, f}, nil
}

func (x fullFile) WriteAt(b []byte, at int64) (int, error) {
	size, err := x.Size()
	if x.fs.full && (err != nil || at+int64(len(b)) > size) {
		fits := max(0, min(int64(len(b)), size-at))
		n, _ := x.File.WriteAt(b[:fits], at)
		return n, errFull
	}
	return x.File.WriteAt(b, at)
}

// TestJournalOnAFullDisk: votes need no room, and neither does an opening, also after a zone could not be made.
func TestJournalOnAFullDisk(t *testing.T) {
	f := &fullFS{MemFS: NewMemFS()}
	zones := make([]nexusraft.ZoneID, 1500)
	var all []zoneContent
	for i := range zones {
		zones[i] = nexusraft.ZoneID(i + 2)
		all = append(all, zoneContent{zones[i], testContent(i, 700)})
	}
	j := journalOn(t, f, zones...)
	must(j.put(all[:1000]))
	want := maps.Clone(j.zones)
	f.full = true
	for i := range 300 { // several beginnings
		z := zoneContent{zones[i%1000], testContent(i, 700)}
		must(j.put([]zoneContent{z}))
		want[z.zone] = z.content
	}
	number := j.number
	for range 3 {
		if err := j.put(all[1000:]); !errors.Is(err, errFull) {
			t.Fatalf("500 zones more: got %v", err)
		}
		must(j.Close())
		if j = journalOn(t, f, zones[:1000]...); !sameZones(j.zones, want) {
			t.Fatal("after that it differs")
		}
		for i := range 100 {
			z := zoneContent{zones[i], testContent(i+1, 700)}
			must(j.put([]zoneContent{z}))
			want[z.zone] = z.content
		}
	}
	if sizes := sizesOf(f.MemFS); len(sizes) != 2 || sizes[0] != sizes[1] || number < 4 {
		t.Errorf("files of %d bytes, %d beginnings", sizes, number)
	}
	f.full = false
	must(j.put(all[1000:]))
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
		for _, unsynced := range []int{0, 50, 100, -1} {
			left := f.CrashClone(rand.New(rand.NewPCG(uint64(last), 7)), max(0, unsynced))
			if unsynced < 0 { // the process alone was killed; the next one opens the directory, and then the power fails
				f.Before = nil
				w, err := Open(Config{Dir: "d", FS: f})
				must(err)
				must(w.Close())
				left = f.CrashClone(nil, 0)
			}
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
			if got := onDisk(t, left, zones); !slices.Equal(got, zones) {
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
	must(errors.Join(f.Remove(j.path(0)), f.Remove(j.path(1))))
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
	if sizes := sizesOf(f); len(sizes) != 0 {
		t.Errorf("there is a journal, of %d bytes", sizes)
	}
}

// FuzzReadJournal: whatever is in a file, it is read or refused, and what is read fits into it.
func FuzzReadJournal(f *testing.F) {
	zones := encodeZones([]zoneContent{{2, []byte("a")}, {3, testContent(1, 900)}})
	state := encodeBlocks(journalFormat, sequenceOf(1, 1), zones)
	round := encodeBlocks(journalFormat, sequenceOf(1, 2), encodeZones([]zoneContent{{3, []byte("b")}}))
	gap := make([]byte, pages(len(state))-len(state))
	f.Add(slices.Concat(state, gap, round, make([]byte, 3*blockBytes)))
	f.Add(slices.Concat(state, gap, encodeBlocks(journalFormat, sequenceOf(1, 2), testContent(2, 900))[:700]))
	f.Add(slices.Concat(encodeBlocks(journalFormat, sequenceOf(3, 1), nil), round))
	f.Add(state[:blockBytes])
	f.Add(encodeBlocks(journalFormat, sequenceOf(1, 1), []byte{0, 0, 0, 0, 0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff}))
	f.Fuzz(func(t *testing.T, file []byte) {
		got, err := readJournal(file)
		if err != nil && (got.whole || got.zones != nil) {
			t.Errorf("with %v it says more", err)
		}
		size := 0
		for _, content := range got.zones {
			size += len(content)
		}
		if size > len(file) || !got.whole && len(got.zones) > 0 || got.whole && got.number == 0 ||
			got.at > int64(pages(len(file))) {
			t.Errorf("of %d bytes, whole %t, %d zones have %d", len(file), got.whole, len(got.zones), size)
		}
	})
}
