package program

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestFlagsThatMakeNoSense(t *testing.T) {
	for _, tc := range []struct {
		args []string
		says []string // none: they are fine
	}{
		{[]string{"--listen", "127.0.0.1:2027"}, nil},
		{[]string{"--listen", "[::1]:2027"}, nil},
		{[]string{"--listen", "[::ffff:127.0.0.1]:2027"}, nil},
		{[]string{"--listen", "localhost:2027"}, nil},
		{[]string{"--listen", "127.0.0.1:0"}, nil},
		{[]string{"--listen", "192.0.2.1:2027"}, nil}, // with TLS
		{[]string{"--listen", "192.0.2.1:2027", "--insecure"}, nil},
		{[]string{"--listen", ":2027", "--insecure", "--advertise", "w.example:2027"}, nil},
		{[]string{"--listen", "[::]:2027", "--insecure", "--advertise", "[2001:db8::1]:2027"}, nil},
		{[]string{"--join", "a.example:1,[2001:db8::1]:2"}, nil},

		{[]string{"--listen", "0.0.0.0:2027"}, []string{"--listen 0.0.0.0:2027", "--advertise"}},
		{[]string{"--listen", ":2027"}, []string{"--advertise"}},
		{[]string{"--listen", "[::]:2027"}, []string{"--advertise"}},
		{[]string{"--listen", ":2027", "--insecure"}, []string{"--listen :2027", "--advertise"}},
		{[]string{"--listen", "[::]:2027", "--insecure"}, []string{"--advertise"}},
		{[]string{"--listen", "nonsense"}, []string{"--listen", `"nonsense" is not host:port`}},
		{[]string{"--listen", "127.0.0.1"}, []string{"--listen", "host:port"}},
		{[]string{"--listen", "::1:2027"}, []string{"--listen", "[::1]:2026"}},
		{[]string{"--listen", "127.0.0.1:http"}, []string{"--listen", "port"}},
		{[]string{"--listen", "127.0.0.1:65536"}, []string{"--listen", "port"}},
		{[]string{"--listen", "unix:/run/nexus.sock"}, []string{"--listen", "TCP"}},
		{[]string{"--listen", "/run/nexus.sock"}, []string{"--listen", "TCP"}},
		// refused without asking a server
		{[]string{"--listen", "no..host:2027"}, []string{"--listen no..host:2027", "no such host"}},
		{[]string{"--advertise", "w.example"}, []string{"--advertise", "host:port"}},
		{[]string{"--advertise", "0.0.0.0:2027"}, []string{"--advertise 0.0.0.0:2027", "no machine"}},
		{[]string{"--advertise", "[::]:2027"}, []string{"--advertise", "no machine"}},
		{[]string{"--advertise", ":2027"}, []string{"--advertise", "no machine"}},
		{[]string{"--advertise", "w.example:0"}, []string{"--advertise w.example:0", "port 0"}},
		{[]string{"--join", "a.example:1,b.example"}, []string{"--join", `"b.example" is not host:port`}},
		{[]string{"--join", "a.example:1, b.example:1"}, []string{"--join", `" b.example:1"`}},
		{[]string{"--join", "0.0.0.0:1"}, []string{"--join", "no machine"}},
		{[]string{"--join-timeout", "0s"}, []string{"--join-timeout 0s"}},
		{[]string{"--election-timeout", "99ms"}, []string{"--election-timeout 99ms", "100ms", "1m0s"}},
		{[]string{"--election-timeout", "61s"}, []string{"--election-timeout 1m1s", "100ms", "1m0s"}},
		{[]string{"--log-level", "loud"}, []string{"--log-level", "loud"}},
		{[]string{"--log-format", "xml"}, []string{"--log-format", "xml"}},
	} {
		_, status, stdout, stderr := parse(t, nil, append([]string{"run", "--data-dir", "d"}, tc.args...)...)
		if want := len(tc.says) > 0; (status == ExitUsage) != want || stdout != "" || (stderr != "") != want ||
			strings.Count(stderr, "\n") > 2 {
			t.Errorf("%q: got status %d, %q, %q; want them refused: %t", tc.args, status, stdout, stderr, want)
		}
		for _, want := range tc.says {
			if !strings.Contains(stderr, want) {
				t.Errorf("%q: got %q, want %q in it", tc.args, stderr, want)
			}
		}
	}
}

func TestPortInUse(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	dir := filepath.Join(t.TempDir(), "w")
	c := Witness{Daemon{
		DataDir: dir, Listen: lis.Addr().String(), Join: []string{"127.0.0.1:1"},
		JoinTimeout: time.Second,
	}}
	err = c.Run(t.Context(), Standard{Err: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "--listen "+c.Listen+" is in use by another program; give --listen "+
		"another address or stop that one") {
		t.Errorf("got %v, want the way out", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the data directory: %v, want it untouched", err)
	}
}

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	d := Daemon{LogLevel: "warn", LogFormat: "json"}
	l := d.Logger(&out)
	l.Info("quiet")
	l.Warn("told", "zone", 1)
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line["msg"] != "told" || line["level"] != "WARN" ||
		line["zone"] != 1.0 {
		t.Errorf("got %q, %v; want one line, the warning", &out, err)
	}
	out.Reset()
	d = Daemon{LogLevel: "debug", LogFormat: "text"}
	d.Logger(&out).Debug("told")
	if !strings.Contains(out.String(), "level=DEBUG msg=told") {
		t.Errorf("got %q, want the line as text", &out)
	}
}

func TestServeStopsWithItsInput(t *testing.T) {
	in, closeIn := io.Pipe()
	d := Daemon{Listen: "127.0.0.1:0", StopWhenStdinCloses: true}
	wanted := errors.New("ended in order")
	closeIn.Close()
	err := d.Serve(t.Context(), in, func(ctx context.Context, lis net.Listener) error {
		defer lis.Close()
		<-ctx.Done()
		return wanted
	})
	if !errors.Is(err, wanted) {
		t.Errorf("got %v, want what run returned", err)
	}
}

// A run that hangs does not hold up the end of the process.
func TestServeGivesUpAStopThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		defer close(hang)
		ctx, cancel := context.WithCancel(t.Context())
		cancelled := time.Now().Add(time.Hour)
		time.AfterFunc(time.Hour, cancel)
		err := watch(ctx, func(context.Context) error {
			<-hang
			return nil
		})
		if took := time.Since(cancelled); err == nil || !strings.Contains(err.Error(), "nothing acknowledged is lost") ||
			took < 0 || took >= 5*time.Second {
			t.Errorf("got %v, %v after the stop; want the reason within 5 s", err, took)
		}
	})
}

func TestQuickEndIsPassedOn(t *testing.T) {
	d := Daemon{Listen: "127.0.0.1:0"}
	wanted := errors.New("no")
	if err := d.Serve(t.Context(), nil, func(context.Context, net.Listener) error { return wanted }); !errors.Is(err,
		wanted) {
		t.Errorf("got %v, want %v", err, wanted)
	}
}

// Writing the log to a pipe that nobody reads any more must not kill a node.
func TestServeIgnoresBrokenPipes(t *testing.T) {
	signal.Reset(syscall.SIGPIPE)
	t.Cleanup(func() { signal.Reset(syscall.SIGPIPE) })
	ignored := false
	d := Daemon{Listen: "127.0.0.1:0"}
	err := d.Serve(t.Context(), nil, func(_ context.Context, lis net.Listener) error {
		ignored = signal.Ignored(syscall.SIGPIPE)
		return lis.Close()
	})
	if err != nil || !ignored {
		t.Errorf("got %v, SIGPIPE ignored: %v", err, ignored)
	}
}
