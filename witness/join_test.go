package witness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

// freeAddress returns an address where nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	return lis.Addr().String()
}

func TestJoinIsKept(t *testing.T) {
	f := NewMemFS()
	m, w := joined(t, f)
	before := w.peering.Self()
	w.stopInOrder()
	for incarnation := before.Incarnation + 1; incarnation < before.Incarnation+4; incarnation++ {
		// --join changes nothing any more, whoever it names.
		w = start(t, Config{Dir: "d", FS: f.CrashClone(nil, 0), Join: []string{freeAddress(t)}}).awaitReady()
		if got := w.peering.Self(); got.Node != before.Node || got.Cluster != m.id.Cluster {
			t.Errorf("got %+v, want node %v of cluster %v", got, before.Node, m.id.Cluster)
		}
		w.stopInOrder()
		w = start(t, Config{Dir: "d", FS: f}).awaitReady()
		if got := w.peering.Introduce().Incarnation; got != incarnation {
			t.Errorf("incarnation: got %d, want %d", got, incarnation)
		}
		w.stopInOrder()
	}
	if got := m.asked(); got != 1 {
		t.Errorf("it has asked %d times to join, want once", got)
	}
}

func TestJoinFollowsTheHint(t *testing.T) {
	leader, follower := newFakeMember(t, 1), newFakeMember(t, 2)
	follower.onJoin(func(transport.JoinRequest) (transport.JoinResult, error) {
		return transport.JoinResult{}, &nexusraft.NotLeaderError{Zone: 1, Leader: leader.id.Node, Address: leader.id.Address}
	})
	start(t, Config{Dir: "d", FS: NewMemFS(), Join: []string{follower.id.Address}}).awaitReady()
	if got := leader.asked(); got != 1 {
		t.Errorf("the leader was asked %d times, want once", got)
	}
}

// TestJoinWaits: "not yet" is no refusal, however long it takes.
func TestJoinWaits(t *testing.T) {
	m := newFakeMember(t, 1)
	m.onJoin(func(r transport.JoinRequest) (transport.JoinResult, error) {
		if m.asked() < 4 {
			return transport.JoinResult{}, fmt.Errorf("not yet: %w", nexusraft.ErrOverloaded)
		}
		return m.admit(r)
	})
	w := start(t, Config{
		Dir: "d", FS: NewMemFS(), Join: []string{freeAddress(t), m.id.Address},
		JoinTimeout: time.Millisecond,
	})
	if st, err := w.Status(t.Context()); err != nil || st.Healthy || st.Problem == "" {
		t.Errorf("status before it is admitted: %+v, %v", st, err)
	}
	w.awaitReady()
}

func TestJoinEndsWithItsContext(t *testing.T) {
	m := newFakeMember(t, 1)
	asked := make(chan struct{}, 1000)
	m.onJoin(func(transport.JoinRequest) (transport.JoinResult, error) {
		asked <- struct{}{}
		return transport.JoinResult{}, nexusraft.ErrOverloaded
	})
	w := start(t, Config{Dir: "d", FS: NewMemFS(), Join: []string{m.id.Address}})
	<-asked
	w.stopInOrder()
}

func TestJoinErrors(t *testing.T) {
	refusing := newFakeMember(t, 1)
	refusing.onJoin(func(transport.JoinRequest) (transport.JoinResult, error) {
		return transport.JoinResult{}, fmt.Errorf("%w: the name is taken", nexusraft.ErrRefused)
	})
	nobody := freeAddress(t)
	for _, tc := range []struct {
		name, join string
		want       error
		text       string
	}{
		{"refused", refusing.id.Address, nexusraft.ErrRefused, "the name is taken"},
		{"nobody listens", nobody, transport.ErrUnreachable, "no address has answered"},
		{"own address", "localhost:SELF", nexusraft.ErrRefused, "own address"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lis, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			_, port, _ := net.SplitHostPort(lis.Addr().String())
			w, err := Open(Config{
				Dir: "d", FS: NewMemFS(), Join: []string{strings.ReplaceAll(tc.join, "SELF", port)},
				JoinTimeout: 300 * time.Millisecond,
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Run(t.Context(), lis); !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got %v, want %v with %q", err, tc.want, tc.text)
			}
		})
	}
}

// TestJoinCutOffAtEveryStep: a witness that crashes while it joins joins again, as the
// same node, and is the replica that it was admitted as.
func TestJoinCutOffAtEveryStep(t *testing.T) {
	m := newFakeMember(t, 1)
	dead := errors.New("killed")
	for last := 0; ; last++ {
		f, steps := NewMemFS(), 0
		f.Before = func(string, string) error {
			if steps++; steps > last {
				return dead
			}
			return nil
		}
		config := Config{Dir: "d", FS: f, Join: []string{m.id.Address}}
		cutOff := false
		if w, err := Open(config); err != nil {
			cutOff = true
		} else {
			lis, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				select {
				case <-w.Ready():
				case <-ctx.Done():
				}
				cancel()
			}()
			cutOff = w.Run(ctx, lis) != nil
			cancel()
		}
		config.FS = f.CrashClone(nil, 0)
		w := start(t, config).awaitReady()
		if got := w.zone().Replica; got != testOrigin.Replica {
			t.Fatalf("cut off after %d steps: it is replica %v", last, got)
		}
		w.stopInOrder()
		if !cutOff {
			if last < 5 {
				t.Errorf("joining took %d steps; the test sees none of them", last)
			}
			return
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Run("no cluster", func(t *testing.T) {
		for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "absent")} {
			_, err := Open(Config{Dir: dir})
			if !errors.Is(err, nexusraft.ErrNotFounded) ||
				!strings.Contains(err.Error(), "no cluster in "+dir+": give --join ADDRESS") {
				t.Errorf("got %v", err)
			}
			if names, _ := (OSFS{}).Names(dir); len(names) != 0 {
				t.Errorf("it has left %v", names)
			}
		}
	})
	t.Run("a node's directory", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "MANIFEST-000001"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Config{Dir: dir, Join: []string{"a:1"}}); !errors.Is(err, nexusraft.ErrRefused) ||
			!strings.Contains(err.Error(), "member") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a second process", func(t *testing.T) {
		c := Config{Dir: filepath.Join(t.TempDir(), "a", "b"), Join: []string{"a:1"}}
		w, err := Open(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(c); err == nil || !strings.Contains(err.Error(), "another process") {
			t.Errorf("got %v", err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if w, err = Open(c); err != nil {
			t.Fatalf("after Close: %v", err)
		}
		must(w.Close())
	})
	t.Run("a lost log", func(t *testing.T) {
		f := NewMemFS()
		_, w := joined(t, f)
		w.stopInOrder()
		for name := range f.files {
			if zoneFile(name) {
				delete(f.files, name)
			}
		}
		if _, err := Open(Config{Dir: "d", FS: f}); !errors.Is(err, nexusraft.ErrCorrupt) ||
			!strings.Contains(err.Error(), "gone") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("configuration", func(t *testing.T) {
		_, err := Open(Config{Name: strings.Repeat("n", 65), Join: []string{"nowhere"}})
		for _, want := range []string{"Dir", "65", "nowhere"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want it to name %q", err, want)
			}
		}
	})
}

func FuzzDecodeIdentity(f *testing.F) {
	f.Add([]byte(`{"node":"0000000000000003","incarnation":1,"cluster":"00000000000000c1","zones":["1"],` +
		`"peers":[{"node":"1","incarnation":4,"address":"a:1"}]}`))
	f.Add([]byte(`{"node":"3","incarnation":1,"cluster":"c1","zones":["1"],"zones_version":4,"hosted":"AQIs"}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := parseIdentity(b)
		if err != nil && !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("got %v, want ErrCorrupt", err)
		}
		if err == nil && (id.Node == 0 || id.Incarnation == 0) {
			t.Errorf("accepted %+v", id)
		}
	})
}
