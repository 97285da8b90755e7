package witness

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// testContent makes a content of a length that tells one number from another.
func testContent(number, length int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%06d|", number), length/7+1)[:length]
}

func TestSlotsKeepWhatWasStored(t *testing.T) {
	f := NewMemFS()
	if _, _, err := openSlots(f, "d", "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("open of nothing: got %v, want fs.ErrNotExist", err)
	}
	s, err := createSlots(f, "d", "x", []byte("first"))
	if err != nil {
		t.Fatal(err)
	}
	for i, length := range []int{0, 1, payloadBytes, payloadBytes + 1, 5000, 3, maxContentBytes, 40} {
		want := testContent(i, length)
		if err := s.store(want); err != nil {
			t.Fatal(err)
		}
		var got []byte
		if s, got, err = openSlots(f, "d", "x"); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("after a store of %d bytes: got %d bytes and error %v", length, len(got), err)
		}
	}
	if err := s.store(make([]byte, maxContentBytes+1)); !errors.Is(err, nexusraft.ErrTooLarge) {
		t.Errorf("store over the limit: got %v, want ErrTooLarge", err)
	}
}

// TestSlotsCrashAtEveryStep crashes before each step that reaches the disk, many times,
// each with other sectors surviving. What is opened then is the content whose store had
// returned, or the one that was being stored.
func TestSlotsCrashAtEveryStep(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	f := NewMemFS()
	var acknowledged, next []byte
	steps, outcomes := 0, map[string]int{}
	f.Before = func(string, string) error {
		steps++
		for range 60 {
			got, err := openAfterCrash(t, f.CrashClone(rng, 50), rng)
			switch {
			case errors.Is(err, fs.ErrNotExist) && acknowledged == nil:
				outcomes["nothing"]++
			case err != nil:
				t.Fatalf("step %d: %v", steps, err)
			case acknowledged != nil && bytes.Equal(got, acknowledged):
				outcomes["old"]++
			case bytes.Equal(got, next):
				outcomes["new"]++
			default:
				t.Fatalf("step %d: opened %.20q, neither the old nor the new content", steps, got)
			}
		}
		return nil
	}
	next = testContent(0, 1500)
	s, err := createSlots(f, "d", "x", next)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		acknowledged, next = next, testContent(i+1, rng.IntN(6*payloadBytes))
		if err := s.store(next); err != nil {
			t.Fatal(err)
		}
	}
	if outcomes["nothing"] == 0 || outcomes["old"] == 0 || outcomes["new"] == 0 {
		t.Errorf("outcomes %v: the crashes don't reach all of them", outcomes)
	}
}

// openAfterCrash opens what a crash has left; half of the time it crashes again while
// it opens, and what it finds after that must be the same.
func openAfterCrash(t *testing.T, f *MemFS, rng *rand.Rand) ([]byte, error) {
	t.Helper()
	var clone *MemFS
	if stop := rng.IntN(16); stop < 8 {
		f.Before = func(string, string) error {
			if stop--; stop < 0 && clone == nil {
				clone = f.CrashClone(rng, 50)
			}
			return nil
		}
	}
	_, first, err := openSlots(f, "d", "x")
	if clone == nil || err != nil {
		return first, err
	}
	_, second, err := openSlots(clone, "d", "x")
	if err == nil && !bytes.Equal(first, second) {
		t.Fatalf("opened %.20q, and after another crash %.20q", first, second)
	}
	return second, err
}

// TestSlotsWritesOfTwoAttemptsDontMix: two attempts to store after the same content have
// the same sequence; blocks of both in one file are not a content.
func TestSlotsWritesOfTwoAttemptsDontMix(t *testing.T) {
	one, two := encodeBlocks(firstFormat, 7, testContent(1, 900)), encodeBlocks(firstFormat, 7, testContent(2, 900))
	mixed := append(bytes.Clone(one[:blockBytes]), two[blockBytes:]...)
	if _, _, err := decodeBlocks(mixed); !errors.Is(err, errCutOff) {
		t.Errorf("got %v, want errCutOff", err)
	}
}

// TestSlotsRotIsNoCrash: damage that a cut-off write can't explain is never answered by
// falling back to the older content, whichever byte it hits.
func TestSlotsRotIsNoCrash(t *testing.T) {
	for _, length := range []int{100, 1200} {
		f := NewMemFS()
		s, err := createSlots(f, "d", "x", []byte("old"))
		if err != nil {
			t.Fatal(err)
		}
		want := testContent(1, length)
		if err := s.store(want); err != nil {
			t.Fatal(err)
		}
		newest := s.path(slotOf(s.sequence))
		content := f.files[newest].now
		for at := range content {
			rotten := f.CrashClone(nil, 0)
			rotten.files[newest].now[at] ^= 1 << (at % 8)
			_, _, err := openSlots(rotten, "d", "x")
			if err == nil || !strings.Contains(err.Error(), newest) {
				t.Fatalf("byte %d of %d flipped: got error %v, want one that names %s", at, len(content), err, newest)
			}
			if version := at >= 8 && at < 12; !version && !errors.Is(err, nexusraft.ErrCorrupt) {
				t.Fatalf("byte %d of %d flipped: got error %v, want ErrCorrupt", at, len(content), err)
			}
		}
	}
}

func TestSlotsRefuseWhatCannotBe(t *testing.T) {
	build := func(mutate func(f *MemFS, a, b string)) error {
		f := NewMemFS()
		s, err := createSlots(f, "d", "x", []byte("1"))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []string{"2", "3"} { // a has sequence 3, b has 4
			if err := s.store([]byte(c)); err != nil {
				t.Fatal(err)
			}
		}
		mutate(f, s.path(0), s.path(1))
		_, _, err = openSlots(f, "d", "x")
		return err
	}
	for _, tc := range []struct {
		name, want string
		mutate     func(f *MemFS, a, b string)
	}{
		{"the newer file is gone", "x.b", func(f *MemFS, a, b string) { delete(f.files, b) }},
		{"the older file is gone", "x.a", func(f *MemFS, a, b string) { delete(f.files, a) }},
		{"both are damaged", "x.a", func(f *MemFS, a, b string) { f.files[a].now[40]++; f.files[b].now[40]++ }},
		{"the newer one is empty", "x.b", func(f *MemFS, a, b string) { f.files[b].now = nil }},
		{"one is from a backup", "don't belong together", func(f *MemFS, a,
			b string,
		) {
			f.files[a].now = encodeBlocks(firstFormat, 1, []byte("1"))
		}},
		{"they are swapped", "x.", func(f *MemFS, a, b string) { f.files[a], f.files[b] = f.files[b], f.files[a] }},
		{"a file is huge", "limit", func(f *MemFS, a, b string) { f.files[b].now = make([]byte, 4<<20) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := build(tc.mutate)
			if errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("got %v, which reads as if nothing had ever been stored", err)
			}
			if !errors.Is(err, nexusraft.ErrCorrupt) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want ErrCorrupt with %q", err, tc.want)
			}
		})
	}
	err := build(func(f *MemFS, a, b string) { f.files[a].now[11] = 9 })
	if err == nil || !strings.Contains(err.Error(), "format version is 9") {
		t.Errorf("unknown format: got %v", err)
	}
}

// TestSlotsMakeDurableWhatTheyRead: the process died after it had written and before it
// had synced. Its successor believes what it reads, so a crash must not take it back.
func TestSlotsMakeDurableWhatTheyRead(t *testing.T) {
	f := NewMemFS()
	s, err := createSlots(f, "d", "x", []byte("old"))
	if err != nil {
		t.Fatal(err)
	}
	dead := errors.New("killed")
	f.Before = func(step, _ string) error {
		if step == "sync" {
			return dead
		}
		return nil
	}
	if err := s.store([]byte("new")); !errors.Is(err, dead) {
		t.Fatalf("store: got %v, want the sync's error", err)
	}
	f.Before = nil
	_, got, err := openSlots(f, "d", "x")
	if err != nil || string(got) != "new" {
		t.Fatalf("reopened: got %q, %v", got, err)
	}
	_, got, err = openSlots(f.CrashClone(nil, 0), "d", "x")
	if diff := cmp.Diff("new", string(got)); err != nil || diff != "" {
		t.Errorf("after a crash: %v %s", err, diff)
	}
}

func FuzzDecodeBlocks(f *testing.F) {
	f.Add(encodeBlocks(firstFormat, 1, nil))
	f.Add(encodeBlocks(firstFormat, 9, testContent(1, 1000)))
	f.Add(append(encodeBlocks(firstFormat, 3, testContent(1, 600))[:blockBytes],
		encodeBlocks(slotsFormat, 5, testContent(2, 700))[blockBytes:]...))
	f.Fuzz(func(t *testing.T, file []byte) {
		sequence, content, err := decodeBlocks(file)
		if err != nil {
			return
		}
		again := encodeBlocks(formatOf(file), sequence, content)
		if !bytes.HasPrefix(file, again) {
			t.Errorf("decoded %d bytes that encode to something else", len(content))
		}
	})
}
