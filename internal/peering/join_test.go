package peering

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

var (
	errNotYet  = fmt.Errorf("%w: not yet", nexusraft.ErrOverloaded)
	errSilence = fmt.Errorf("%w: nobody listens", transport.ErrUnreachable)
)

// asking has a node that belongs to no cluster join for timeout, of which answer says what each
// address answers after how long, and returns how long that took, and its error.
func asking(
	t *testing.T, timeout time.Duration, role nexusraft.Role, answer func(addr string, since time.Duration) error,
) (took time.Duration, asked []string, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := open(t, &memory{}, Options{
			Join: []string{"a:1", "b:1"}, JoinTimeout: timeout, Role: role, Advertise: "me:1",
		})
		defer n.peers.Close()
		began := time.Now()
		n.ask = func(ctx context.Context, addr string, r transport.JoinRequest) (transport.JoinResult, error) {
			asked = append(asked, addr)
			if r.Role != role {
				t.Errorf("it asks to join as a %s, want %s", r.Role, role)
			}
			time.Sleep(100 * time.Millisecond)
			return transport.JoinResult{Cluster: testCluster, Zone: 1, Replica: 3}, answer(addr, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
		defer cancel()
		err = n.Join(ctx)
		took = time.Since(began)
		if admitted := n.store.admitted != nil; admitted != (err == nil) || (n.Self().Cluster != 0) != admitted {
			t.Errorf("stored: %+v, with the error %v; it is of cluster %v", n.store.admitted, err, n.Self().Cluster)
		}
	})
	return took, asked, err
}

// roles are the programs' that join.
var roles = []nexusraft.Role{nexusraft.RoleMember, nexusraft.RoleWitness}

// TestJoinTimeout: --join-timeout is for addresses that do not answer, in both programs. A member
// that answers "not yet" is waited for, however long, and starts the time anew.
func TestJoinTimeout(t *testing.T) {
	const timeout = 30 * time.Second
	for _, role := range roles {
		for _, tc := range []struct {
			what     string
			answer   func(addr string, since time.Duration) error
			want     error
			from, to time.Duration // how long it takes
		}{
			{
				"no address answers", func(string, time.Duration) error { return errSilence },
				transport.ErrUnreachable, timeout, timeout + time.Second,
			},
			{
				"one says not yet for an hour, then admits", func(addr string, since time.Duration) error {
					switch {
					case addr == "a:1":
						return errSilence
					case since < time.Hour:
						return errNotYet
					}
					return nil
				}, nil, time.Hour, time.Hour + time.Second,
			},
			{
				"one says not yet, as long as it is asked", func(addr string, _ time.Duration) error {
					if addr == "a:1" {
						return errNotYet
					}
					return errSilence
				}, context.DeadlineExceeded, 2 * time.Hour, 2*time.Hour + time.Second,
			},
			{
				"one says not yet, and dies", func(addr string, since time.Duration) error {
					if addr == "a:1" && since < time.Minute {
						return errNotYet
					}
					return errSilence
				}, transport.ErrUnreachable, time.Minute + timeout - time.Second, time.Minute + timeout + time.Second,
			},
		} {
			took, _, err := asking(t, timeout, role, tc.answer)
			if !errors.Is(err, tc.want) || took < tc.from || took > tc.to {
				t.Errorf("%s, %s: got %v after %v, want %v within %v and %v", role, tc.what, err, took, tc.want, tc.from, tc.to)
			}
		}
	}
}

func TestJoinEnds(t *testing.T) {
	for _, role := range roles {
		for _, tc := range []struct {
			answer error
			text   string
		}{
			{fmt.Errorf("%w: the name is taken", nexusraft.ErrRefused), "the name is taken"},
			{fmt.Errorf("%w: an old disk", nexusraft.ErrFenced), "clear data and join as a new node"},
			{fmt.Errorf("%w: no zone is named", nexusraft.ErrCorrupt), "no zone is named"},
		} {
			_, asked, err := asking(t, time.Hour, role, func(string, time.Duration) error { return tc.answer })
			if !errors.Is(err, tc.answer) || !strings.Contains(err.Error(), tc.text) || len(asked) != 1 {
				t.Errorf("got %v after asking %v, want %q after one call", err, asked, tc.text)
			}
		}
	}
}

// A leader that is named is asked at once, but for this node itself: its disk has lost that life.
func TestJoinFollowsTheHint(t *testing.T) {
	for _, tc := range []struct{ hint, want string }{
		{"l:1", "a:1 l:1"}, {"", "a:1 b:1"}, {"me:1", "a:1 b:1"}, {"a:1", "a:1 b:1"},
	} {
		_, asked, _ := asking(t, time.Hour, nexusraft.RoleWitness, func(addr string, _ time.Duration) error {
			if addr == "a:1" {
				return &nexusraft.NotLeaderError{Zone: 1, Leader: 5, Address: tc.hint}
			}
			return nil
		})
		if got := strings.Join(asked, " "); got != tc.want {
			t.Errorf("hint %q: asked %s, want %s", tc.hint, got, tc.want)
		}
	}
}

func TestJoinAtItsOwnAddress(t *testing.T) {
	n := open(t, &memory{}, Options{Join: []string{"127.0.0.1:7"}, Advertise: "localhost:7"})
	if err := n.Join(t.Context()); !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), "own address") {
		t.Errorf("got %v", err)
	}
}
