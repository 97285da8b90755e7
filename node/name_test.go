package node_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/nexi-lab/nexus-raft/node"
)

// lockedBuffer is a bytes.Buffer for many goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A node keeps the name that it has, and says so if it is given another one.
func TestAnotherNameIsIgnoredAloud(t *testing.T) {
	c := testConfig(t, "n2")
	if _, err := node.Init(c); err != nil {
		t.Fatal(err)
	}
	for name, warned := range map[string]int{"n2": 0, "": 0, "other": 1} {
		var log lockedBuffer
		c.Name, c.Logger = name, slog.New(slog.NewTextHandler(&log, nil))
		n, err := node.Open(c)
		if err != nil {
			t.Fatal(err)
		}
		n.Close()
		if got := strings.Count(log.String(),
			"this node is called n2 since it joined; --name other is ignored"); got != warned {
			t.Errorf("--name %q: %d warnings, want %d: %s", name, got, warned, log.String())
		}
	}
}
