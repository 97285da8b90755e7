package node_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/storage"
)

// TestRestoredAsOftenOpened: a backup that is opened as often as the directory was since is
// told apart by its boot number, and if it is opened more often, by what it does not remember.
func TestRestoredAsOftenOpened(t *testing.T) {
	c := newCluster(t, nil)
	config := c.crash(c.other(c.awaitSync()))
	backup := config
	backup.Storage.FS = config.Storage.FS.(*storage.MemFS).CrashClone(nil, 0)
	m := c.start(config)
	c.awaitSync()
	m.put("seen", "1")
	c.crash(m)
	c.start(backup).fenced("another opening")
	c.start(backup).fenced("knows nothing of its incarnation")
	c.start(config)
	c.awaitSync()
}

// TestCopyThatCameFirst: of two copies the one that the others have met is the node from
// then on. The other one ends, and does the first no harm.
func TestCopyThatCameFirst(t *testing.T) {
	c := newCluster(t, nil)
	h := c.write(2)
	config := c.crash(c.other(c.awaitSync()))
	copied := config
	copied.Storage.FS = config.Storage.FS.(*storage.MemFS).CrashClone(nil, 0)
	m := c.start(copied)
	c.awaitSync()
	m.put("seen", "1")
	copied = c.crash(m)
	c.reopen(config, 3)
	c.start(config).fenced("knows nothing of its incarnation")
	h.more(t, 20)
	c.start(copied)
	c.awaitSync()
	c.verify(h)
}

// TestRemovedWhileAway: a witness that was removed while it was down ends when it is back,
// however often.
func TestRemovedWhileAway(t *testing.T) {
	c := newCluster(t, nil)
	lost := c.awaitSync().record("w").Node
	config := c.crashWitness()
	c.change(nexusraft.MembershipChange{Remove: lost})
	for range 2 {
		err := awaitEnd(t, "w", c.runWitness(config).ended)
		if !errors.Is(err, nexusraft.ErrFenced) {
			t.Errorf("the removed witness ended with %v, want ErrFenced", err)
		}
		mentions(t, err, "removed", "clear "+config.Dir)
	}
}

// TestDirectoriesOfOthers: what is no data directory of a node is refused and left alone.
func TestDirectoriesOfOthers(t *testing.T) {
	base := t.TempDir()
	write := func(names ...string) string {
		name := filepath.Join(append([]string{base}, names...)...)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	file := write("file")
	write("thesis", "a.tex")
	write("witness", "identity.a")
	write("witness", "witness.lock")
	for _, tc := range []struct{ dir, says string }{
		{file, "not a directory"},
		{filepath.Join(base, "thesis"), "a.tex"},
		{filepath.Join(base, "witness"), "holds a witness"},
	} {
		config := testConfig(t, "n1")
		config.Dir, config.Join = tc.dir, []string{"127.0.0.1:1"}
		before, _ := os.ReadDir(tc.dir)
		_, errInit := node.Init(config)
		_, errOpen := node.Open(config)
		for _, err := range []error{errInit, errOpen} {
			if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), tc.says) ||
				!strings.Contains(err.Error(), tc.dir) {
				t.Errorf("%s: got %v, want ErrRefused with %q", tc.dir, err, tc.says)
			}
		}
		if after, _ := os.ReadDir(tc.dir); len(after) != len(before) {
			t.Errorf("%s: %d entries, want %d", tc.dir, len(after), len(before))
		}
	}
	config := testConfig(t, "n1")
	config.Dir = filepath.Join(base, "absent")
	if _, err := node.Open(config); !errors.Is(err, nexusraft.ErrNotFounded) {
		t.Errorf("an absent directory: %v, want ErrNotFounded", err)
	}
	if _, err := os.Stat(config.Dir); !os.IsNotExist(err) {
		t.Errorf("an absent directory afterwards: %v, want it absent", err)
	}
	// What a first start that was cut off leaves is no stranger's.
	config.Dir = filepath.Dir(write("half", "LOCK"))
	if _, err := node.Init(config); err != nil {
		t.Errorf("after a start that was cut off: %v", err)
	}
}
