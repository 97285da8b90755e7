package etcdtest

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// reference is an etcd of one member, built from this module's tools: what the cluster is compared with.
type reference struct {
	address string
	cmd     *exec.Cmd
	stdin   io.Closer
	log     string
}

// underShell ends the program that it starts when its own stdin closes, as it does if this process ends,
// however it ends.
const underShell = `"$@" <&- & p=$!; cat >/dev/null; kill -9 $p; wait $p 2>/dev/null`

// newReference starts an etcd and removes it, and its data, when the test ends.
func newReference(t testing.TB) *reference {
	t.Helper()
	dir, err := os.MkdirTemp("", "etcdtest-reference-*")
	if err != nil {
		t.Fatal(err)
	}
	r := &reference{address: freeAddress(), log: filepath.Join(dir, "log")}
	t.Cleanup(func() {
		r.stop()
		if log, err := os.ReadFile(r.log); err == nil && t.Failed() {
			t.Logf("--- etcd\n%s", log)
		}
		os.RemoveAll(dir)
	})
	if err := r.start(filepath.Join(dir, "data"), "http://"+freeAddress()); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *reference) start(data, peers string) error {
	clients := "http://" + r.address
	r.cmd = exec.Command("sh", "-c", underShell, "sh", programs.etcd, "--name", "e1", "--data-dir", data,
		"--listen-client-urls", clients, "--advertise-client-urls", clients,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "e1="+peers,
		"--log-level", "error", "--unsafe-no-fsync")
	log, err := os.Create(r.log)
	if err != nil {
		return err
	}
	defer log.Close()
	r.cmd.Stdout, r.cmd.Stderr = log, log
	if r.stdin, err = r.cmd.StdinPipe(); err != nil {
		return err
	}
	if err := r.cmd.Start(); err != nil {
		return err
	}
	return r.awaitReady()
}

// awaitReady returns once the etcd answers a read, for which it needs a leader.
func (r *reference) awaitReady() error {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{r.address}, Logger: zap.NewNop()})
	if err != nil {
		return fmt.Errorf("client of etcd: %w", err)
	}
	defer client.Close()
	return poll("etcd answers", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := client.Get(ctx, "x")
		return err == nil
	})
}

func (r *reference) stop() {
	if r.cmd == nil || r.cmd.Process == nil {
		return
	}
	r.stdin.Close()
	r.cmd.Wait()
}
