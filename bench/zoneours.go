package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/witness"
)

// Our side of the zones command: a member that is embedded in the process, as docs/embedding.md has it, and
// the witness, as the package or as the program.

const benchMachine = "bench"

// writesMachine is the state machine of all zones.
type writesMachine struct{}

// Alone implements nexusraft.Batched.
func (writesMachine) Alone([]byte) bool { return false }

func (writesMachine) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	if len(cmd.Data) < writeHead {
		return nil, nexusraft.ErrRefused
	}
	key := cmd.Data[:writerKeyBytes]
	old, _, err := tx.Get(key)
	if err != nil {
		return nil, err
	}
	record, err := nextRecord(old, cmd.Data)
	if err != nil || record == nil {
		return nil, err
	}
	return nil, tx.Set(key, record)
}

// ourMember is a member in this process.
type ourMember struct {
	setup  zoneSetup
	node   *node.Node
	cancel context.CancelFunc
	ended  chan error // what Run has returned

	mu    sync.Mutex
	zones []*node.Zone // those that were found so far, by their numbers; nil for the others
}

func openOurMember(ctx context.Context, s zoneSetup) (zoneSystem, error) {
	config := node.Config{
		Dir: s.Dir, Name: fmt.Sprintf("n%d", s.Replica), StateMachine: writesMachine{}, Workers: s.Workers,
		Machines: map[string]nexusraft.StateMachine{benchMachine: writesMachine{}},
	}
	if s.Replica > 1 {
		config.Join = s.Addresses[:1]
	}
	n, err := node.Open(config)
	if errors.Is(err, nexusraft.ErrNotFounded) && s.Replica == 1 {
		if _, err = node.Init(config); err == nil {
			n, err = node.Open(config)
		}
	}
	if err != nil {
		return nil, err
	}
	lis, err := listen(ctx, s.Addresses[s.Replica-1])
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	m := &ourMember{setup: s, node: n, ended: make(chan error, 1)}
	running, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	go func() { m.ended <- n.Run(running, lis, nil) }()
	if err := n.AwaitReady(ctx); err != nil {
		return nil, errors.Join(err, m.close())
	}
	return m, nil
}

// listen waits for a port that the process before has not given back yet.
func listen(ctx context.Context, address string) (net.Listener, error) {
	for end := time.Now().Add(10 * time.Second); ; {
		lis, err := net.Listen("tcp", address)
		if err == nil || time.Now().After(end) || sleep(ctx, 20*time.Millisecond) != nil {
			return lis, err
		}
	}
}

func zoneName(zone int) string { return fmt.Sprintf("z%05d", zone) }

// create implements zoneSystem: the first member creates the zones, and the other one waits for its replicas.
func (m *ourMember) create(ctx context.Context, n int) error {
	return eachZone(n, func(zone int) error {
		if m.setup.Replica == 1 {
			z, err := m.node.CreateZone(ctx, zoneName(zone), node.ZoneSpec{Machine: benchMachine})
			if err == nil {
				m.keep(zone, z)
			}
			return err
		}
		for {
			_, err := m.zone(ctx, zone)
			if err == nil || sleep(ctx, 20*pollEvery) != nil {
				return err
			}
		}
	})
}

func (m *ourMember) keep(zone int, z *node.Zone) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.zones) <= zone {
		m.zones = append(m.zones, nil)
	}
	m.zones[zone] = z
}

func (m *ourMember) kept(zone int) *node.Zone {
	m.mu.Lock()
	defer m.mu.Unlock()
	if zone < len(m.zones) {
		return m.zones[zone]
	}
	return nil
}

// zone finds a zone by its name. The first call that does not know it asks for all of them.
func (m *ourMember) zone(ctx context.Context, zone int) (*node.Zone, error) {
	if z := m.kept(zone); z != nil {
		return z, nil
	}
	all, err := m.node.Zones(ctx)
	if err != nil {
		return nil, err
	}
	for _, info := range all {
		var number int
		if _, err := fmt.Sscanf(info.Name, "z%d", &number); err != nil || m.kept(number) != nil {
			continue
		}
		if z, err := m.node.Zone(info.ID); err == nil { // otherwise its replica is still to be made here
			m.keep(number, z)
		}
	}
	if z := m.kept(zone); z != nil {
		return z, nil
	}
	return nil, fmt.Errorf("zone %d: %w", zone, nexusraft.ErrZoneNotFound)
}

func (m *ourMember) led(ctx context.Context, zone int) (mine, known bool, err error) {
	z, err := m.zone(ctx, zone)
	if err != nil {
		return false, false, err
	}
	s, err := z.Status(ctx)
	return s.State == nexusraft.Leader, s.Leader != 0, err
}

func (m *ourMember) whole(ctx context.Context, zone int) error {
	z, err := m.zone(ctx, zone)
	if err != nil {
		return err
	}
	return z.AwaitWhole(ctx)
}

func (m *ourMember) handOver(ctx context.Context, zone int) error {
	z, err := m.zone(ctx, zone)
	if err != nil {
		return err
	}
	_, err = z.TransferLeader(ctx, 0)
	return err
}

func (m *ourMember) write(ctx context.Context, zone int, command []byte) error {
	z, err := m.zone(ctx, zone)
	if err != nil {
		return err
	}
	_, err = z.Propose(ctx, nexusraft.RequestID{}, command)
	return err
}

func (m *ourMember) read(ctx context.Context, zone int, key []byte) (found []byte, err error) {
	z, err := m.zone(ctx, zone)
	if err != nil {
		return nil, err
	}
	err = z.Read(ctx, func(r nexusraft.Reader) error {
		v, _, err := r.Get(key)
		found = append(found, v...)
		return err
	})
	return found, err
}

func (m *ourMember) pid() int { return os.Getpid() }

func (m *ourMember) close() error {
	m.cancel()
	return <-m.ended
}

// thirdProcess is a system's process that has no zones to ask.
type thirdProcess struct {
	process int
	end     func() error
}

func (thirdProcess) create(context.Context, int) error                       { return nil }
func (thirdProcess) led(context.Context, int) (mine, known bool, err error)  { return false, true, nil }
func (thirdProcess) whole(context.Context, int) error                        { return nil }
func (thirdProcess) handOver(context.Context, int) error                     { return nil }
func (thirdProcess) write(context.Context, int, []byte) error                { return errNoData }
func (thirdProcess) read(context.Context, int, []byte) (_ []byte, err error) { return nil, errNoData }
func (t thirdProcess) pid() int                                              { return t.process }
func (t thirdProcess) close() error                                          { return t.end() }

var errNoData = errors.New("a witness has no data")

// openOurWitness runs the package witness in this process.
func openOurWitness(ctx context.Context, s zoneSetup) (zoneSystem, error) {
	w, err := witness.Open(witness.Config{Dir: s.Dir, Name: "w", Join: s.Addresses[:2]})
	if err != nil {
		return nil, err
	}
	lis, err := listen(ctx, s.Addresses[s.Replica-1])
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	running, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(running, lis) }()
	select {
	case <-w.Ready():
	case err := <-ended:
		cancel()
		return nil, err
	case <-ctx.Done():
		cancel()
		return nil, errors.Join(ctx.Err(), <-ended)
	}
	return thirdProcess{process: os.Getpid(), end: func() error {
		cancel()
		return <-ended
	}}, nil
}

// openWitnessProgram runs the program nexus-witness, until this process closes it.
func openWitnessProgram(ctx context.Context, s zoneSetup) (zoneSystem, error) {
	cmd := exec.Command(s.Program, "--data-dir", s.Dir, "--listen", s.Addresses[s.Replica-1], "--name", "w",
		"--join", s.Addresses[0]+","+s.Addresses[1], "--log-format", "json")
	log, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	t := thirdProcess{process: cmd.Process.Pid, end: func() error {
		late := time.AfterFunc(endTimeout/2, func() { _ = cmd.Process.Kill() })
		defer late.Stop()
		return errors.Join(cmd.Process.Signal(os.Interrupt), cmd.Wait())
	}}
	ready := make(chan string, 1)
	go tellReady(bufio.NewScanner(log), ready)
	select {
	case last := <-ready:
		if last != "" {
			return nil, errors.Join(fmt.Errorf("%s: %s", s.Program, last), cmd.Wait())
		}
		return t, nil
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), t.end())
	}
}

// tellReady reads a program's log to its end. It tells ready an empty line once the program is, and the
// log's last line if that never comes.
func tellReady(log *bufio.Scanner, ready chan<- string) {
	last, told := "it has ended and said nothing", false
	for log.Scan() {
		if strings.Contains(log.Text(), `"msg":"ready"`) && !told {
			told = true
			ready <- ""
		}
		last = log.Text()
	}
	if !told {
		ready <- last
	}
}
