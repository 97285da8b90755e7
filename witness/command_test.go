package witness

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// lockedBuffer is a log that a test can read while it is written.
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

func TestCommandServes(t *testing.T) {
	m := newFakeMember(t, 1)
	c := Command{
		DataDir: filepath.Join(t.TempDir(), "w"), Listen: "127.0.0.1:0", Join: []string{m.id.Address},
		Name: "w1", LogLevel: "info", LogFormat: "json",
	}
	for range 2 { // the same command line starts it again
		ctx, cancel := context.WithCancel(t.Context())
		log, done := &lockedBuffer{}, make(chan error, 1)
		go func() { done <- c.Serve(ctx, log) }()
		m.await("ready line", func() bool { return strings.Contains(log.String(), `"msg":"ready"`) })
		for _, want := range []string{`"name":"w1"`, `"address":"127.0.0.1:`, `"node":"`} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log lacks %s:\n%s", want, log)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
}

func TestCommandRefusesAddresses(t *testing.T) {
	for _, tc := range []struct {
		c    Command
		want string // "": accepted
	}{
		{Command{Listen: "127.0.0.1:2027"}, ""},
		{Command{Listen: "[::1]:2027"}, ""},
		{Command{Listen: "localhost:2027"}, ""},
		{Command{Listen: "0.0.0.0:2027"}, "--insecure"},
		{Command{Listen: ":2027"}, "--insecure"},
		{Command{Listen: "192.0.2.1:2027"}, "--insecure"},
		{Command{Listen: "192.0.2.1:2027", Insecure: true}, ""},
		{Command{Listen: ":2027", Insecure: true}, "--advertise"},
		{Command{Listen: ":2027", Insecure: true, Advertise: "w.example:2027"}, ""},
		{Command{Listen: "127.0.0.1:2027", Advertise: "w.example"}, "host:port"},
		{Command{Listen: "nonsense"}, "--listen"},
	} {
		err := tc.c.checkAddresses()
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%+v: got %v, want %q", tc.c, err, tc.want)
		}
	}
}
