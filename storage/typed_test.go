package storage

import (
	"encoding/json"
	"errors"
	"iter"
	"math"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// session is what a user might store.
type session struct {
	User    string
	Started time.Time
	Visits  map[string]int
	Score   float64
	Tags    []string
	Parent  *session
	Raw     []byte
}

var genSession = rapid.Custom(func(t *rapid.T) session {
	s := session{
		User: rapid.String().Draw(t, "user"),
		Started: time.Unix(rapid.Int64Range(0, 1<<34).Draw(t, "seconds"),
			rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).UTC(),
		Visits: rapid.MapOf(rapid.String(), rapid.Int()).Draw(t, "visits"),
		Score:  rapid.Float64Range(-math.MaxFloat64, math.MaxFloat64).Draw(t, "score"),
		Tags:   rapid.SliceOf(rapid.String()).Draw(t, "tags"),
		Raw:    rapid.SliceOf(rapid.Byte()).Draw(t, "raw"),
	}
	if rapid.Bool().Draw(t, "child") {
		s.Parent = &session{User: "parent", Visits: map[string]int{}, Tags: []string{}, Raw: []byte{}}
	}
	return s
})

// TestCodecs brings values to bytes and back. The bytes must not be kept, what is before
// them must be, and equal values must be equal bytes.
func TestCodecs(t *testing.T) {
	for name, c := range map[string]Codec[session]{"JSON": JSON[session]{}, "CBOR": CBOR[session]{}} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				want := genSession.Draw(t, "session")
				b, err := c.Append([]byte("before"), want)
				check(t, err)
				again, err := c.Append(nil, want)
				check(t, err)
				encoded, ok := strings.CutPrefix(string(b), "before")
				if !ok || encoded != string(again) {
					t.Fatalf("got %q and %q", b, again)
				}
				var got session
				check(t, c.Decode(again, &got))
				clear(again)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("(-want +got):\n%s", diff)
				}
				if err := c.Decode([]byte(encoded[:len(encoded)-1]), new(session)); err == nil {
					t.Fatal("a part of the bytes was decoded")
				}
				if err := c.Decode([]byte(encoded+"x"), new(session)); err == nil {
					t.Fatal("more than the bytes was decoded")
				}
			})
		})
	}
}

func TestCBORIsCompact(t *testing.T) {
	type entry struct {
		_    struct{} `cbor:",toarray"`
		Term uint64
		Data []byte
	}
	b, err := CBOR[entry]{}.Append(nil, entry{Term: 7, Data: []byte("0123456789")})
	check(t, err)
	if got, want := len(b), 1+1+1+10; got != want {
		t.Errorf("got %d bytes, want %d", got, want)
	}
}

func TestCBORLimits(t *testing.T) {
	want := make([]int, 200_000) // above the library's own limit for decoding
	b, err := CBOR[[]int]{}.Append(nil, want)
	check(t, err)
	var got []int
	check(t, CBOR[[]int]{}.Decode(b, &got))
	if len(got) != len(want) {
		t.Errorf("got %d elements, want %d", len(got), len(want))
	}
}

func TestTyped(t *testing.T) {
	s := newStore(t)
	type count struct{ N int }
	for name, c := range map[string]Codec[count]{"json": JSON[count]{}, "cbor": CBOR[count]{}} {
		tree := Typed(mustTree(t, s, name), c)
		a, b := []byte("a"), []byte("b")
		if _, ok, err := tree.Get(a); ok || err != nil {
			t.Errorf("nothing there: got %v, %v", ok, err)
		}
		check(t, tree.Set(a, count{1}, NoSync))
		if found, swapped, err := tree.CompareAndSwap(a, nil, &count{9}); swapped || err != nil || *found != (count{1}) {
			t.Errorf("wrong: got %v, %v, %v", found, swapped, err)
		}
		if _, swapped, err := tree.CompareAndSwap(a, &count{1}, &count{2}); !swapped || err != nil {
			t.Errorf("right: got %v, %v", swapped, err)
		}
		if found, swapped, err := tree.CompareAndSwap(b, &count{1}, nil); swapped || err != nil || found != nil {
			t.Errorf("absent: got %v, %v, %v", found, swapped, err)
		}
		before, after, err := tree.Update(a, func(old *count) (*count, error) { old.N++; return old, nil })
		if err != nil || *before != (count{2}) || *after != (count{3}) {
			t.Errorf("update: got %v, %v, %v", before, after, err)
		}
		before, after, err = tree.Update(b, func(old *count) (*count, error) { return &count{10}, wantNil(old) })
		if err != nil || before != nil || *after != (count{10}) {
			t.Errorf("update what is absent: got %v, %v, %v", before, after, err)
		}
		if _, _, err = tree.Update(b, func(*count) (*count, error) { return nil, errTest }); err != errTest {
			t.Errorf("update that fails: got %v", err)
		}
		want := []TypedPair[count]{{[]byte("a"), count{3}}, {[]byte("b"), count{10}}}
		if diff := cmp.Diff(want, pairsOf(t, tree.Scan(nil, nil))); diff != "" {
			t.Errorf("scan (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want[:1], pairsOf(t, tree.Prefix(a))); diff != "" {
			t.Errorf("prefix (-want +got):\n%s", diff)
		}
		want[0], want[1] = want[1], want[0]
		if diff := cmp.Diff(want, pairsOf(t, tree.ScanReverse(nil, nil))); diff != "" {
			t.Errorf("reverse (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want[:1], pairsOf(t, tree.PrefixReverse(b))); diff != "" {
			t.Errorf("reverse prefix (-want +got):\n%s", diff)
		}
		check(t, s.Transact(t.Context(), func(tx *Tx) error {
			in := tree.In(tx)
			old, _, err := in.Get(a)
			return errors.Join(err, in.Set(b, count{old.N * 2}), in.Delete(a))
		}))
		if diff := cmp.Diff([]TypedPair[count]{{b, count{6}}}, pairsOf(t, tree.Scan(nil, nil))); diff != "" {
			t.Errorf("after a transaction (-want +got):\n%s", diff)
		}
		check(t, tree.Delete(b))
		if _, ok, err := tree.Get(b); ok || err != nil {
			t.Errorf("deleted: got %v, %v", ok, err)
		}
	}
}

func wantNil[T any](v *T) error {
	if v != nil {
		return errors.New("got a value where none is")
	}
	return nil
}

func pairsOf[T any](t *testing.T, pairs iter.Seq2[TypedPair[T], error]) (out []TypedPair[T]) {
	t.Helper()
	for p, err := range pairs {
		check(t, err)
		out = append(out, TypedPair[T]{[]byte(string(p.Key)), p.Value})
	}
	return out
}

// fragile is a codec that fails halfway with what is negative, after it has written some.
type fragile struct{}

func (fragile) Append(dst []byte, v int) ([]byte, error) {
	dst = append(dst, "half"...)
	if v < 0 {
		return dst, errTest
	}
	return json.Marshal(v)
}

func (fragile) Decode(src []byte, v *int) error {
	*v = 77
	if strings.HasPrefix(string(src), "bad") {
		return errTest
	}
	return json.Unmarshal(src, v)
}

// TestCodecFails has a codec fail in the middle of each call: the error names tree and key,
// nothing is written, and no half of a value is returned.
func TestCodecFails(t *testing.T) {
	s := newStore(t)
	stored := mustTree(t, s, "numbers")
	tree := Typed(stored, fragile{})
	good, bad, minus, two := []byte("good"), []byte("rotten"), -1, 2
	check(t, tree.Set(good, 1))
	check(t, stored.Set(bad, []byte("bad")))
	same := func(old *int) (*int, error) { return old, nil }
	negative := func(*int) (*int, error) { return &minus, nil }
	tx := s.Begin()
	defer tx.Close()
	in := tree.In(tx)
	errs := map[string]error{"Set": tree.Set(good, minus), "Tx.Set": in.Set(good, minus)}
	_, _, errs["Tx.Get"] = in.Get(bad)
	var value int
	value, _, errs["Get"] = tree.Get(bad)
	_, _, errs["CompareAndSwap expected"] = tree.CompareAndSwap(good, &minus, &two)
	_, _, errs["CompareAndSwap value"] = tree.CompareAndSwap(good, nil, &minus)
	_, _, errs["CompareAndSwap found"] = tree.CompareAndSwap(bad, &two, &two)
	_, _, errs["Update old"] = tree.Update(bad, same)
	_, _, errs["Update new"] = tree.Update(good, negative)
	var pairs []TypedPair[int]
	for p, err := range tree.Scan(nil, nil) {
		if errs["Scan"] = err; err == nil {
			pairs = append(pairs, TypedPair[int]{[]byte(string(p.Key)), p.Value})
		}
	}
	for call, err := range errs {
		if !errors.Is(err, errTest) || !regexp.MustCompile(`key "(good|rotten)" of tree "numbers"`).MatchString(err.Error()) {
			t.Errorf("%s: got %v, want the codec's error with tree and key", call, err)
		}
	}
	if diff := cmp.Diff([]TypedPair[int]{{good, 1}}, pairs); diff != "" || value != 0 {
		t.Errorf("Get: %d, pairs (-want +got):\n%s", value, diff)
	}
	want := []kv{{"good", "1"}, {"rotten", "bad"}}
	if diff := cmp.Diff(want, collect(t, stored.Scan(nil, nil))); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

// nothing is a codec whose values take no bytes.
type nothing struct{}

func (nothing) Append(dst []byte, _ struct{}) ([]byte, error) { return nil, nil }
func (nothing) Decode([]byte, *struct{}) error                { return nil }

func TestCodecWithoutBytes(t *testing.T) {
	s := newStore(t)
	tree := Typed(s.Default(), nothing{})
	if _, swapped, err := tree.CompareAndSwap([]byte("k"), nil, &struct{}{}); !swapped || err != nil {
		t.Errorf("create: got %v, %v", swapped, err)
	}
	if _, ok, err := tree.Get([]byte("k")); !ok || err != nil {
		t.Errorf("get: got %v, %v", ok, err)
	}
}

func TestTypedUpdatesConcurrently(t *testing.T) {
	s := newStore(t)
	tree := Typed(s.Default(), CBOR[int]{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if _, _, err := tree.Update(nil, func(old *int) (*int, error) {
					if old == nil {
						old = new(int)
					}
					*old++
					return old, nil
				}, NoSync); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got, _, err := tree.Get(nil); got != 400 || err != nil {
		t.Errorf("got %d, %v, want 400", got, err)
	}
}
