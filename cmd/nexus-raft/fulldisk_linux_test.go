package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// smallDisk mounts a disk of 192 MiB, of half of which a ballast file is in the way.
func smallDisk(t *testing.T) (dir, ballast string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: not root")
	}
	dir = filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=192m"); err != nil {
		if os.Getenv("NEXUS_RAFT_CI") == "" {
			t.Skipf("skipped: not allowed to mount: %v", err)
		}
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	ballast = filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 96<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, ballast
}

// fill puts large values until one is refused, and returns what the refusal said.
func (c *trio) fill(t *testing.T) string {
	t.Helper()
	value := strings.Repeat("x", 1<<20)
	for i := range 96 {
		status, _, stderr := command(t, "put", fmt.Sprint("large/", i), value, "--endpoints", c.endpoints(), "--timeout",
			"20s")
		if status != exitOK {
			return stderr
		}
	}
	t.Fatal("96 MiB went onto a disk that has as much, less a reserve")
	return ""
}

// A full disk refuses writes before the engine fails: of a leader all of them, of a follower
// none, which then is out of sync. Reads go on, and so does everything when there is room.
func TestFullDisk(t *testing.T) {
	disk, ballast := smallDisk(t)
	c := &trio{dir: t.TempDir(), a1: freeAddress(t), a2: freeAddress(t), aw: freeAddress(t)}
	if err := os.Symlink(filepath.Join(disk, "n1"), c.data("n1")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(disk, "n1"), 0o755); err != nil {
		t.Fatal(err)
	}
	if status, _, stderr := command(t, "init", "--data-dir", c.data("n1"), "--name", "n1", "--listen",
		c.a1); status != exitOK {
		t.Fatalf("init: status %d, %s", status, stderr)
	}
	c.n1, c.n2, c.w1 = c.serve1(t, "--disk-reserve", "32MiB"), c.serve2(t), c.witness(t)
	c.awaitSync(t)
	c.put(t, "k", "v")

	said := c.fill(t)
	if !strings.Contains(said, "disk full") || strings.Contains(said, "outcome unknown") {
		t.Errorf("the refusal says %q, want a full disk, and nothing uncertain", said)
	}
	c.wants(t, "k", "v")
	if s := statusOf(t, c.a1); !strings.Contains(s.Problem, "disk full") {
		t.Errorf("n1's problem is %q, want its full disk", s.Problem)
	}

	if status, _, stderr := command(t, "transfer", "n2", "--endpoints", c.endpoints()); status != exitOK {
		t.Fatalf("transfer: status %d, %s", status, stderr)
	}
	c.put(t, "k", "with a full follower")
	eventually(t, "the zone says that it is degraded", func() bool {
		leader, ok := c.leader(t)
		return ok && leader.Sync == nexusraft.Degraded
	})

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	c.awaitSync(t)
	c.wants(t, "k", "with a full follower")
	if status, _, stderr := command(t, "transfer", "n1", "--endpoints", c.endpoints()); status != exitOK {
		t.Fatalf("transfer back: status %d, %s", status, stderr)
	}
	c.put(t, "k", "there is room")
	c.wants(t, "k", "there is room")
}
