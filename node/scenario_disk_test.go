package node_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/storage"
)

var errBrokenDisk = errors.New("the disk is broken")

// breakable is a file system that fails all that changes it once it is broken.
type breakable struct {
	storage.FS
	mem    *storage.MemFS
	broken atomic.Bool
}

func newBreakable() *breakable {
	b := &breakable{mem: storage.NewMemFS()}
	b.FS = errorfs.Wrap(b.mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if b.broken.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpFileClose {
			return fmt.Errorf("%w: %s", errBrokenDisk, op.Path)
		}
		return nil
	}))
	return b
}

func TestBrokenDiskEndsRun(t *testing.T) {
	disk := newBreakable()
	config := testConfig(t, "n1")
	config.Dir = "data"
	config.Storage.FS = disk
	if _, err := node.Init(config); err != nil {
		t.Fatal(err)
	}
	n, err := node.Open(config)
	if err != nil {
		t.Fatal(err)
	}
	m := &member{t: t, config: config, node: n, ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	m.stop = cancel
	lis := listen(t, "")
	go func() { m.ended <- n.Run(ctx, lis, nil) }()
	t.Cleanup(func() {
		cancel()
		awaitEnd(t, "n1", m.ended)
	})
	h := (&cluster{network: newNetwork(t), nodes: map[string]*member{"n1": m}}).write(3)
	h.more(t, 50)
	disk.broken.Store(true)

	select {
	case err := <-m.ended:
		m.ended <- err
		if !errors.Is(err, errBrokenDisk) && (err == nil || !strings.Contains(err.Error(), errBrokenDisk.Error())) {
			t.Errorf("Run ended with %v, want %v", err, errBrokenDisk)
		}
	case <-time.After(patience):
		t.Fatal("Run goes on with a broken disk")
	}
	if _, err := m.try(t.Context(), time.Second, "late", "1"); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("a write after the end: %v, want ErrClosed", err)
	}
	h.end()

	// What was acknowledged is on the disk, nothing that was refused.
	config.Storage.FS = disk.mem.CrashClone(nil, 0)
	h.verify(t, start(t, config))
}

func TestLeadersDiskBreaks(t *testing.T) {
	disk := newBreakable()
	c := newCluster(t, func(n *node.Config) {
		if n.Name == "n1" {
			n.Storage.FS = disk
		}
	})
	c.awaitSync()
	c.transfer("n1")
	h := c.write(3)
	h.more(t, 50)
	n1 := c.named("n1")
	disk.broken.Store(true)
	select {
	case err := <-n1.ended:
		if err == nil || !strings.Contains(err.Error(), errBrokenDisk.Error()) {
			t.Errorf("Run ended with %v, want %v", err, errBrokenDisk)
		}
		n1.ended <- nil // as far as the test's end is concerned
	case <-time.After(patience):
		t.Fatal("Run goes on with a broken disk")
	}
	h.more(t, 50)
	config := n1.config
	config.Storage.FS = disk.mem.CrashClone(nil, 0)
	c.start(config)
	c.awaitSync()
	c.verify(h)
}

func TestTooLarge(t *testing.T) {
	c := newCluster(t, nil)
	c.awaitSync()
	for _, m := range c.running() {
		_, err := m.zone().ProposeOnce(t.Context(), nexusraft.RequestID{}, make([]byte, nexusraft.MaxCommandBytes+1))
		if !errors.Is(err, nexusraft.ErrTooLarge) {
			t.Errorf("a command over the limit by %s: %v, want ErrTooLarge", m.config.Name, err)
		}
		value := strings.Repeat("x", nexusraft.MaxCommandBytes-100)
		if r := m.put("big", value); r.Index == 0 {
			t.Errorf("a command of almost the limit by %s: %+v", m.config.Name, r)
		}
		if got := m.get("big"); got != value {
			t.Errorf("%s reads %d bytes, want %d", m.config.Name, len(got), len(value))
		}
	}
}
