package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// etcdPrograms are what is measured: ours from the module around this one, in whose directory it is run, etcd from
// this one's tools.
type etcdPrograms struct{ member, witness, etcd string }

func buildPrograms(ctx context.Context, dir string) (p etcdPrograms, err error) {
	for _, b := range []struct{ from, into, path string }{
		{"..", "nexus-raft", "./cmd/nexus-raft"},
		{"..", "nexus-witness", "./cmd/nexus-witness"},
		{".", "etcd", "go.etcd.io/etcd/server/v3"},
	} {
		cmd := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, b.into), b.path)
		cmd.Dir = b.from
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return p, fmt.Errorf("build %s: %w\n%s", b.path, err, out)
		}
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	return etcdPrograms{in("nexus-raft"), in("nexus-witness"), in("etcd")}, nil
}

// etcdStore is three processes that serve etcd's API, asked at their leader.
type etcdStore struct {
	ours      bool
	processes []*etcdProcess
	kv        etcdserverpb.KVClient
	leader    *etcdProcess
	conns     []*grpc.ClientConn
}

type etcdProcess struct {
	cmd     *exec.Cmd
	stdin   io.Closer
	log     string
	address string // "" for a witness
}

// startStore starts a new store below dir and returns once it has a leader. The caller ends it by stop, also after
// an error.
func startStore(ctx context.Context, dir string, p etcdPrograms, ours bool) (*etcdStore, error) {
	s := &etcdStore{ours: ours}
	free, err := freeAddresses(6)
	if err != nil {
		return s, err
	}
	if ours {
		err = s.startOurs(ctx, dir, p, free)
	} else {
		err = s.startEtcd(dir, p, free)
	}
	if err != nil {
		return s, err
	}
	return s, s.findLeader(ctx)
}

func (s *etcdStore) startOurs(ctx context.Context, dir string, p etcdPrograms, free []string) error {
	data := func(i int) string { return filepath.Join(dir, strconv.Itoa(i)) }
	out, err := exec.CommandContext(ctx, p.member, "init", "--data-dir", data(0), "--name", "n1", "--listen",
		free[0]).CombinedOutput()
	if err != nil {
		return fmt.Errorf("init: %w: %s", err, out)
	}
	for i, args := range [][]string{
		{p.member, "serve", "--name", "n1"},
		{p.member, "serve", "--name", "n2", "--join", free[0]},
		{p.witness, "--name", "w1", "--join", free[0]},
	} {
		args = append(args, "--data-dir", data(i), "--listen", free[i], "--stop-when-stdin-closes")
		address := free[i]
		if i == 2 {
			address = ""
		}
		if err := s.start(filepath.Join(dir, "log"+strconv.Itoa(i)), address, args...); err != nil {
			return err
		}
	}
	return nil
}

func (s *etcdStore) startEtcd(dir string, p etcdPrograms, free []string) error {
	var cluster []string
	for i := range 3 {
		cluster = append(cluster, fmt.Sprintf("e%d=http://%s", i, free[3+i]))
	}
	for i := range 3 {
		clients, peers := "http://"+free[i], "http://"+free[3+i]
		// The shell ends the program when its standard input closes, as it does if this process ends.
		err := s.start(filepath.Join(dir, "log"+strconv.Itoa(i)), free[i], "sh", "-c",
			`"$@" <&- & p=$!; cat >/dev/null; kill -9 $p; wait $p 2>/dev/null`, "sh", p.etcd,
			"--name", "e"+strconv.Itoa(i), "--data-dir", filepath.Join(dir, strconv.Itoa(i)),
			"--listen-client-urls", clients, "--advertise-client-urls", clients, "--listen-peer-urls", peers,
			"--initial-advertise-peer-urls", peers, "--initial-cluster", strings.Join(cluster, ","), "--log-level", "error",
			"--quota-backend-bytes", "8589934592")
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *etcdStore) start(log, address string, args ...string) error {
	p := &etcdProcess{log: log, address: address, cmd: exec.Command(args[0], args[1:]...)}
	f, err := os.Create(log)
	if err != nil {
		return err
	}
	defer f.Close()
	p.cmd.Stdout, p.cmd.Stderr = f, f
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return err
	}
	s.processes = append(s.processes, p)
	return p.cmd.Start()
}

// findLeader waits until a process says that it leads, and, of ours, until each write is on both members: until
// old revisions are kept, by a compaction at 0.
func (s *etcdStore) findLeader(ctx context.Context) error {
	for ctx.Err() == nil {
		for _, p := range s.processes {
			if p.address != "" && s.leads(ctx, p) {
				return nil
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("no leader: %w", context.Cause(ctx))
}

func (s *etcdStore) leads(ctx context.Context, p *etcdProcess) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	const most = 1 << 30
	conn, err := grpc.NewClient(p.address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(most)))
	if err != nil {
		return false
	}
	status, err := etcdserverpb.NewMaintenanceClient(conn).Status(ctx, &etcdserverpb.StatusRequest{})
	if err != nil || status.Leader != status.Header.MemberId {
		conn.Close()
		return false
	}
	kv := etcdserverpb.NewKVClient(conn)
	del := &etcdserverpb.RequestOp_RequestDeleteRange{RequestDeleteRange: &etcdserverpb.DeleteRangeRequest{Key: []byte{0}}}
	_, err = kv.Txn(ctx, &etcdserverpb.TxnRequest{Success: []*etcdserverpb.RequestOp{{Request: del}}})
	if err != nil {
		conn.Close()
		return false
	}
	s.conns, s.kv, s.leader = append(s.conns, conn), kv, p
	return true
}

func (s *etcdStore) revision(ctx context.Context) (int64, error) {
	resp, err := s.kv.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte{0}})
	return resp.GetHeader().GetRevision(), err
}

// storeUsage is what the processes of a store have used.
type storeUsage struct {
	cpu      float64 // seconds, of all
	resident float64 // bytes, of the leader
	written  float64 // bytes to the disk, of the leader
}

func (s *etcdStore) used() (u storeUsage, err error) {
	for _, p := range s.processes {
		pid := p.cmd.Process.Pid
		if !s.ours {
			if pid, err = childOf(pid); err != nil {
				return u, err
			}
		}
		one, err := usageOf(pid)
		if err != nil {
			return u, err
		}
		u.cpu += one.cpu
		if p != s.leader {
			continue
		}
		u.resident = one.resident
		io, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "io"))
		if err != nil {
			return u, err
		}
		for line := range strings.Lines(string(io)) {
			_, _ = fmt.Sscanf(line, "write_bytes: %f", &u.written)
		}
	}
	return u, nil
}

// childOf returns the program that a shell has started first.
func childOf(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errNotMeasured, err)
	}
	for child := range strings.FieldsSeq(string(b)) {
		id, err := strconv.Atoi(child)
		name, readErr := os.ReadFile(fmt.Sprintf("/proc/%s/comm", child))
		if err == nil && readErr == nil && strings.TrimSpace(string(name)) == "etcd" {
			return id, nil
		}
	}
	return 0, fmt.Errorf("%w: the shell %d has no etcd", errNotMeasured, pid)
}

// stop ends what runs.
func (s *etcdStore) stop() {
	for _, c := range s.conns {
		c.Close()
	}
	for _, p := range s.processes {
		if p.cmd.Process == nil {
			continue
		}
		p.stdin.Close()
		_ = p.cmd.Wait()
	}
}

func (s *etcdStore) logs() error {
	var all []error
	for _, p := range s.processes {
		if b, err := os.ReadFile(p.log); err == nil {
			all = append(all, fmt.Errorf("--- %s\n%s", p.log, b))
		}
	}
	return errors.Join(all...)
}
