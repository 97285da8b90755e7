package node_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// lab is a cluster of real processes, each of which has a network of its own: a namespace
// with a cable to a switch, which is a bridge in another namespace. What the kernel does to
// connections when cables are pulled and packets vanish, no proxy can show. It needs root.
type lab struct {
	t        *testing.T
	programs string              // where they are
	dir      string              // of the data directories
	nodes    map[string]*machine // by name
	written  map[string]bool     // keys that were acknowledged
	sequence int                 // of keys
}

// machine is one node of a lab.
type machine struct {
	name, address string // the address is host:port
	args          []string
	cmd           *exec.Cmd
	log           *logged
}

// logged is what a process says, for when the test fails.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// How long things may take before a test here fails: several times what they should, since
// the machine builds and tests other things meanwhile.
const (
	electBound = 10 * time.Second // until a write succeeds without the leader
	healBound  = 15 * time.Second // until both members have every write again
	talkBound  = 3 * time.Second  // until they do after a silence: election timeouts, not TCP's
	labBound   = time.Minute      // until the cluster is complete
)

// TestNetworkNamespaces runs every scenario on a cluster of its own. It builds the programs and then waits for
// timeouts, most of a minute, and is for where everything is checked.
func TestNetworkNamespaces(t *testing.T) {
	t.Parallel()
	if os.Getenv("NEXUS_RAFT_CI") == "" {
		t.Skip("skipped: NEXUS_RAFT_CI is not set")
	}
	if reason := cannotHaveLab(); reason != "" {
		t.Fatalf("skipped: %s", reason)
	}
	programs := t.TempDir()
	out, err := exec.Command("go", "build", "-ldflags", "-s -w", "-o", programs, "../cmd/nexus-raft",
		"../cmd/nexus-witness").CombinedOutput()
	if err != nil {
		t.Fatalf("build the programs: %v: %s", err, out)
	}
	for _, tt := range []struct {
		name string
		run  func(*lab)
	}{
		{"leader's link down", leaderLinkDown},
		{"leader hears nothing", leaderHearsNothing},
		{"one way lost between the members", oneWayLost},
		{"silence", silence},
		{"power loss", powerLoss},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.run(newLab(t, programs)) })
	}
}

// newLab starts two members and a witness, and returns once any of them can be lost.
func newLab(t *testing.T, programs string) *lab {
	t.Helper()
	l := &lab{t: t, programs: programs, dir: t.TempDir(), nodes: make(map[string]*machine), written: make(map[string]bool)}
	l.namespace("hub")
	l.ip("-n", l.space("hub"), "link", "add", "switch", "type", "bridge")
	l.ip("-n", l.space("hub"), "addr", "add", "10.77.0.254/24", "dev", "switch")
	l.ip("-n", l.space("hub"), "link", "set", "switch", "up")
	n1, n2, w1 := l.machine("n1", 1), l.machine("n2", 2), l.machine("w1", 3)
	data := func(m *machine) string { return filepath.Join(l.dir, m.name) }
	if out, err := l.program("nexus-raft", "init", "--data-dir", data(n1), "--name", n1.name, "--listen",
		n1.address); err != nil {
		t.Fatalf("init: %v: %s", err, out)
	}
	l.start(n1, "nexus-raft", "serve", "--data-dir", data(n1), "--listen", n1.address, "--insecure")
	l.start(n2, "nexus-raft", "serve", "--data-dir", data(n2), "--name", n2.name, "--listen", n2.address, "--insecure",
		"--join", n1.address)
	l.start(w1, "nexus-witness", "--data-dir", data(w1), "--name", w1.name, "--listen", w1.address, "--insecure", "--join",
		n1.address)
	l.within("the cluster is complete", labBound, func() error {
		out, err := l.program("nexus-raft", "status", "--check", "--endpoints", n1.address)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	return l
}

// cannotHaveLab says why this machine can't run a lab, if so.
func cannotHaveLab() string {
	if os.Geteuid() != 0 {
		return "not root"
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return "there is no ip command"
	}
	name := fmt.Sprintf("nr%d-probe", os.Getpid())
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		return fmt.Sprintf("no network namespaces: %s", bytes.TrimSpace(out))
	}
	if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
		return fmt.Sprintf("no network namespaces: %s", bytes.TrimSpace(out))
	}
	return ""
}

// space is the full name of a namespace; it is this process's own.
func (l *lab) space(name string) string { return fmt.Sprintf("nr%d-%s", os.Getpid(), name) }

// namespace makes one, and removes it, with everything in it, when the test ends.
func (l *lab) namespace(name string) {
	l.t.Helper()
	l.ip("netns", "add", l.space(name))
	l.t.Cleanup(func() { l.ip("netns", "del", l.space(name)) })
	l.ip("-n", l.space(name), "link", "set", "lo", "up")
}

// machine adds a namespace with a cable to the switch: its own end is eth0, the other one
// has the machine's name.
func (l *lab) machine(name string, number int) *machine {
	l.t.Helper()
	l.namespace(name)
	l.ip("-n", l.space("hub"), "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", l.space(name))
	l.ip("-n", l.space("hub"), "link", "set", name, "master", "switch", "up")
	l.ip("-n", l.space(name), "addr", "add", fmt.Sprintf("10.77.0.%d/24", number), "dev", "eth0")
	l.ip("-n", l.space(name), "link", "set", "eth0", "up")
	m := &machine{name: name, address: fmt.Sprintf("10.77.0.%d:2026", number), log: &logged{}}
	l.nodes[name] = m
	return m
}

func (l *lab) ip(args ...string) {
	l.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		l.t.Errorf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// port changes a machine's port at the switch.
func (l *lab) port(m *machine, args ...string) {
	l.t.Helper()
	l.ip(append([]string{"-n", l.space("hub"), "link", "set", "dev", m.name}, args...)...)
}

// start runs a program on a machine until the test ends.
func (l *lab) start(m *machine, args ...string) {
	l.t.Helper()
	m.args = args
	l.t.Cleanup(func() {
		l.stop(m)
		if l.t.Failed() {
			l.t.Logf("%s said:\n%s", m.name, m.log)
		}
	})
	l.restart(m)
}

// restart runs a machine's program again.
func (l *lab) restart(m *machine) {
	l.t.Helper()
	args := append([]string{"netns", "exec", l.space(m.name), filepath.Join(l.programs, m.args[0])}, m.args[1:]...)
	m.cmd = exec.Command("ip", args...) // which becomes the program
	m.cmd.Stderr = m.log
	if err := m.cmd.Start(); err != nil {
		l.t.Fatalf("start %s: %v", m.name, err)
	}
}

// stop kills a machine's program.
func (l *lab) stop(m *machine) {
	_ = m.cmd.Process.Kill() // an error is that it has ended
	_ = m.cmd.Wait()         // it was killed
}

// program runs one at the switch to its end, as an operator's.
func (l *lab) program(name string, args ...string) ([]byte, error) {
	all := append([]string{"netns", "exec", l.space("hub"), filepath.Join(l.programs, name)}, args...)
	cmd := exec.Command("ip", all...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s %s: %w: %s", name, args[0], err, bytes.TrimSpace(said.Bytes()))
	}
	return out, nil
}

// within polls until f succeeds, and fails the test if that takes too long.
func (l *lab) within(what string, bound time.Duration, f func() error) {
	l.t.Helper()
	begun := time.Now()
	for {
		err := f()
		if err == nil {
			l.t.Logf("%s after %v", what, time.Since(begun).Round(10*time.Millisecond))
			return
		}
		if time.Since(begun) > bound {
			l.t.Fatalf("%s: not within %v: %v", what, bound, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// put writes a new key through a machine, and returns on how many data copies it was.
func (l *lab) put(by *machine) (copies int, err error) {
	l.sequence++
	key := fmt.Sprintf("key-%04d", l.sequence)
	out, err := l.program("nexus-raft", "put", key, "value of "+key, "--json", "--timeout", "2s", "--endpoints",
		by.address)
	if err != nil {
		return 0, err
	}
	l.written[key] = true
	var got struct{ Copies int }
	if err := json.Unmarshal(out, &got); err != nil {
		return 0, err
	}
	return got.Copies, nil
}

// putBy returns a write through a machine.
func (l *lab) putBy(m *machine) func() error {
	return func() error {
		_, err := l.put(m)
		return err
	}
}

// putOnBoth returns a write that has to be on both members when it is acknowledged.
func (l *lab) putOnBoth(by *machine) func() error {
	return func() error {
		copies, err := l.put(by)
		if err == nil && copies != 2 {
			err = fmt.Errorf("a write is on %d data copies", copies)
		}
		return err
	}
}

// mustPut writes keys, each of which has to succeed.
func (l *lab) mustPut(by *machine, n int) {
	l.t.Helper()
	for range n {
		if _, err := l.put(by); err != nil {
			l.t.Fatalf("put through %s: %v", by.name, err)
		}
	}
}

// leader returns the member that leads, and the other.
func (l *lab) leader() (leader, other *machine) {
	l.t.Helper()
	l.within("a leader is known", electBound, func() error {
		for _, m := range []*machine{l.nodes["n1"], l.nodes["n2"]} {
			st, err := l.status(m)
			if err == nil && len(st.Zones) == 1 && st.Zones[0].State == nexusraft.Leader {
				leader = m
				return nil
			}
		}
		return errors.New("nobody leads")
	})
	if leader == l.nodes["n1"] {
		return leader, l.nodes["n2"]
	}
	return leader, l.nodes["n1"]
}

// status is what one machine says of itself.
func (l *lab) status(m *machine) (nexusraft.NodeStatus, error) {
	out, err := l.program("nexus-raft", "status", "--json", "--timeout", "1s", "--endpoints", m.address)
	var r struct {
		Answers []struct{ Status *nexusraft.NodeStatus }
	}
	if err := errors.Join(err, json.Unmarshal(out, &r)); err != nil {
		return nexusraft.NodeStatus{}, err
	}
	for _, a := range r.Answers {
		if a.Status != nil && a.Status.Name == m.name {
			return *a.Status, nil
		}
	}
	return nexusraft.NodeStatus{}, fmt.Errorf("%s does not answer", m.name)
}

// verify waits until every write is on both members, has each of them lead, and compares
// what they hold: the same, and all that was acknowledged.
func (l *lab) verify() {
	l.t.Helper()
	n1, n2 := l.nodes["n1"], l.nodes["n2"]
	l.within("a write on both members", healBound, l.putOnBoth(n1))
	states := make(map[string]string)
	for _, m := range []*machine{n1, n2} {
		l.within(m.name+" leads", healBound, func() error {
			_, err := l.program("nexus-raft", "transfer", m.name, "--endpoints", n1.address+","+n2.address)
			return err
		})
		out, err := l.program("nexus-raft", "list", "", "--endpoints", m.address)
		if err != nil {
			l.t.Fatalf("list by %s: %v", m.name, err)
		}
		states[m.name] = string(out)
	}
	if states["n1"] != states["n2"] {
		l.t.Errorf("n1 holds:\n%s\nn2 holds:\n%s", states["n1"], states["n2"])
	}
	for _, key := range slices.Sorted(maps.Keys(l.written)) {
		if !strings.Contains(states["n1"], key+"\tvalue of "+key+"\n") {
			l.t.Errorf("%s was acknowledged and is lost", key)
		}
	}
}

// leaderLinkDown takes the leader's link down: the others go on without it, and it follows
// when the link is back.
func leaderLinkDown(l *lab) {
	leader, other := l.leader()
	l.mustPut(leader, 5)

	l.ip("-n", l.space(leader.name), "link", "set", "eth0", "down")
	l.within("a write without the leader", electBound, l.putBy(other))
	l.mustPut(other, 10)

	l.ip("-n", l.space(leader.name), "link", "set", "eth0", "up")
	l.within("the old leader follows", healBound, func() error {
		st, err := l.status(leader)
		if err == nil && (len(st.Zones) != 1 || st.Zones[0].State != nexusraft.Follower || st.Zones[0].Leader == 0) {
			err = fmt.Errorf("its status is %+v", st)
		}
		return err
	})
	l.verify()
}

// leaderHearsNothing has what is sent to the leader vanish, while it is heard: it has to
// step down by itself.
func leaderHearsNothing(l *lab) {
	leader, other := l.leader()
	deaf := []string{
		"type", "bridge_slave", "learning", "off", "flood", "off", "mcast_flood", "off", "bcast_flood", "off",
		"fdb_flush",
	}
	l.port(leader, deaf...)
	l.within("a write without the leader", electBound, l.putBy(other))
	l.mustPut(other, 5)
	l.port(leader, "type", "bridge_slave", "learning", "on", "flood", "on", "mcast_flood", "on", "bcast_flood", "on")
	l.verify()
}

// oneWayLost has one member unable to send to the other; the witness hears both.
func oneWayLost(l *lab) {
	n1, n2 := l.nodes["n1"], l.nodes["n2"]
	for _, pair := range [][2]*machine{{n1, n2}, {n2, n1}} {
		from, to := pair[0], pair[1]
		host, _, _ := strings.Cut(to.address, ":")
		l.ip("-n", l.space(from.name), "route", "add", "blackhole", host)
		l.within("a write while "+from.name+" can't send to "+to.name, electBound, func() error {
			_, err1 := l.put(to)
			if err1 == nil {
				return nil
			}
			_, err2 := l.put(from)
			if err2 == nil {
				return nil // it leads, and the witness hears it
			}
			return errors.Join(err1, err2)
		})
		l.ip("-n", l.space(from.name), "route", "del", "blackhole", host)
		l.verify()
	}
}

// silence has the leader's packets vanish while its link stays up, as behind a router that
// has died: no connection is told anything. It lasts so long that TCP tries again only
// seconds later; the members are to talk before that.
func silence(l *lab) {
	leader, other := l.leader()
	l.port(leader, "nomaster")
	begun := time.Now()
	l.within("a write without the leader", electBound, l.putBy(other))
	for time.Since(begun) < 7*time.Second {
		l.mustPut(other, 5)
	}
	l.port(leader, "master", "switch")
	l.within("a write on both members after the silence", talkBound, l.putOnBoth(other))
	l.verify()
}

// powerLoss has each machine in turn lose its power: its connections are half-open at the
// others until they notice, and it comes back at the same address.
func powerLoss(l *lab) {
	leader, other := l.leader()
	for _, m := range []*machine{other, leader, l.nodes["w1"]} {
		l.port(m, "nomaster") // so that nobody sees its connections end
		l.stop(m)
		by := other
		if m == other {
			by = leader
		}
		l.within("a write without "+m.name, electBound, l.putBy(by))
		l.restart(m)
		l.port(m, "master", "switch")
		l.verify()
	}
}
