// Package processes starts stores for the test suites of others: an etcd, or a cluster of nexus-raft.
//
// The environment names the programs: SUITE_ETCD, or SUITE_MEMBER and SUITE_WITNESS. On a machine that
// has more to do SUITE_ELECTION_TIMEOUT, for example 1s, keeps a leader of ours its office.
package processes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// patience bounds every wait.
const patience = 30 * time.Second

// Set is an etcd, or a cluster of ours. Its processes share a directory, which Remove removes.
type Set struct {
	Members []*Process // those that a test asked for

	dir    string
	beside []*Process // a witness, and the second member where a test asked for one
}

// New returns a set of so many members, with the first one at an address, or at any if that is empty.
// Both says what etcd and ours have flags of one name for, etcd what only an etcd knows. It does not run
// yet.
func New(size int, address string, both, etcd []string) (*Set, error) {
	dir, err := os.MkdirTemp("", "suite-*")
	if err != nil {
		return nil, err
	}
	s := &Set{dir: dir}
	if os.Getenv("SUITE_ETCD") != "" {
		s.addEtcds(size, address, append(etcd[:len(etcd):len(etcd)], both...))
		return s, nil
	}
	return s, s.addOurs(size, address, both)
}

// addEtcds adds the members of an etcd.
func (s *Set) addEtcds(size int, address string, flags []string) {
	var peers, all []string
	for i := range size {
		peers = append(peers, "http://"+freeAddress())
		all = append(all, fmt.Sprintf("m%d=%s", i, peers[i]))
	}
	for i := range size {
		p := s.add(os.Getenv("SUITE_ETCD"), i, address)
		p.args = append([]string{
			"--name", p.Name, "--data-dir", p.dir, "--listen-client-urls", "http://" + p.Address,
			"--advertise-client-urls", "http://" + p.Address, "--listen-peer-urls", peers[i],
			"--initial-advertise-peer-urls", peers[i], "--initial-cluster", strings.Join(all, ","),
			"--heartbeat-interval", "10", "--election-timeout", "100", "--unsafe-no-fsync", "--log-level", "error",
		}, flags...)
		s.Members = append(s.Members, p)
	}
}

// addOurs adds members of ours. A test that wants one of etcd's gets one of two and a witness; one that
// wants two sees both; three are three full members.
func (s *Set) addOurs(size int, address string, flags []string) error {
	var timeout []string
	if d := os.Getenv("SUITE_ELECTION_TIMEOUT"); d != "" {
		timeout = []string{"--election-timeout", d}
	}
	var first *Process
	for i := range max(size, 2) {
		p := s.add(os.Getenv("SUITE_MEMBER"), i, address)
		p.args = append([]string{"serve", "--data-dir", p.dir, "--name", p.Name, "--listen", p.Address},
			slices.Concat(flags, timeout)...)
		if i == 0 {
			first = p
		} else {
			p.args = append(p.args, "--join", first.Address)
		}
		if i < size {
			s.Members = append(s.Members, p)
		} else {
			s.beside = append(s.beside, p)
		}
	}
	if size <= 2 {
		w := &Process{Name: "w", dir: filepath.Join(s.dir, "w"), Address: freeAddress(), program: os.Getenv("SUITE_WITNESS")}
		w.args = append([]string{"--data-dir", w.dir, "--name", w.Name, "--listen", w.Address, "--join", first.Address},
			timeout...)
		s.beside = append(s.beside, w)
	}
	out, err := exec.Command(first.program, "init", "--data-dir", first.dir, "--name", first.Name, "--listen",
		first.Address).CombinedOutput()
	if err != nil {
		return fmt.Errorf("init: %w: %s", err, out)
	}
	return nil
}

func (s *Set) add(program string, i int, first string) *Process {
	name, address := fmt.Sprintf("m%d", i), first
	if i > 0 || address == "" {
		address = freeAddress()
	}
	return &Process{Name: name, dir: filepath.Join(s.dir, name), Address: address, program: program}
}

func (s *Set) all() []*Process {
	return append(s.Members[:len(s.Members):len(s.Members)], s.beside...)
}

// Start starts all processes and waits until all members are in.
func (s *Set) Start() error {
	for _, p := range s.all() {
		if err := p.Start(); err != nil {
			return err
		}
	}
	for _, p := range s.Members {
		if err := s.awaitMember(p); err != nil {
			return err
		}
	}
	return nil
}

// awaitMember returns once a member names all the others as voters, and answers a read.
func (s *Set) awaitMember(p *Process) error {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{p.Address}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer client.Close()
	return Poll(p.Name+" is in, and all others", func(ctx context.Context) bool {
		list, err := client.MemberList(ctx)
		if err != nil || len(list.Members) != len(s.all()) || s.promote(list) {
			return false
		}
		_, err = client.Get(ctx, "x")
		return err == nil
	})
}

// promote makes learners members, and returns whether there was one. The second node of ours with data
// becomes a member by itself, a third one does not.
func (s *Set) promote(list *clientv3.MemberListResponse) (found bool) {
	for _, member := range list.Members {
		found = found || member.IsLearner
		if program := os.Getenv("SUITE_MEMBER"); member.IsLearner && len(s.Members) > 2 {
			exec.Command(program, "member", "promote", member.Name, "--timeout", "5s", "--endpoints",
				s.Members[0].Address).Run() // and if it failed, again: the caller looks until there is none
		}
	}
	return found
}

// Remove ends all processes and removes their data.
func (s *Set) Remove() {
	for _, p := range s.all() {
		p.Stop()
	}
	os.RemoveAll(s.dir)
}

// Logs returns what the processes said.
func (s *Set) Logs() string {
	var all strings.Builder
	for _, p := range s.all() {
		log, _ := os.ReadFile(p.dir + ".log")
		fmt.Fprintf(&all, "--- %s\n%s", p.Name, log)
	}
	return all.String()
}

// Process is a program that runs, or ran.
type Process struct {
	Name, Address string

	dir, program string
	args         []string
	cmd          *exec.Cmd
	stdin        io.Closer // when it closes the process ends
}

// given are the ports that freeAddress has returned.
var given sync.Map

// freeAddress returns a loopback address at which nobody listens, and that it has not returned before.
// Its port is none of those that connections get by themselves, which may have it when a member that
// was stopped starts again.
func freeAddress() string {
	for {
		address := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		lis, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		lis.Close()
		if _, twice := given.LoadOrStore(address, true); !twice {
			return address
		}
	}
}

// underShell ends the program that it starts when its own stdin closes, as it does if the test ends,
// however it ends.
const underShell = `"$@" <&- & p=$!; cat >/dev/null; kill -9 $p; wait $p 2>/dev/null`

// Start starts the process on what it has of data.
func (p *Process) Start() error {
	log, err := os.OpenFile(p.dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = exec.Command("sh", append([]string{"-c", underShell, "sh", p.program}, p.args...)...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return err
	}
	return p.cmd.Start()
}

// Runs says whether it was started and not stopped since.
func (p *Process) Runs() bool { return p.cmd != nil }

// Stop ends the process at once, if it runs; its data stay.
func (p *Process) Stop() {
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	p.stdin.Close()
	p.cmd.Wait()
	p.cmd = nil
}

// Poll waits until ok, which is asked again and again.
func Poll(what string, ok func(context.Context) bool) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		done := ok(ctx)
		cancel()
		if done {
			return nil
		}
	}
	return errors.New("waited in vain until " + what)
}
