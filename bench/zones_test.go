package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func testZonesCommand(t *testing.T) zonesCommand {
	return zonesCommand{
		Zones: 1000, Rounds: 3, Idle: time.Second, Time: time.Second, Writers: 256, Kills: 10, KillZones: 100,
		Dragonboat: "off", Most: 3 * time.Minute, Dir: t.TempDir(), JSON: true,
	}
}

// TestZones runs every part with ours, small.
func TestZones(t *testing.T) {
	t.Parallel() // it mostly waits
	c := testZonesCommand(t)
	c.Quick = true
	var out, progress bytes.Buffer
	rep, err := c.measure(t.Context(), &progress)
	if err == nil {
		err = c.print(rep, &out)
	}
	if err != nil {
		t.Fatalf("%v, after\n%s", err, &progress)
	}
	var got zoneReport
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%v in %s", err, out.Bytes())
	}
	measured := make(map[string]zoneLine)
	for _, l := range got.Rows {
		measured[l.Name] = l
	}
	_, unknown := usageOf(os.Getpid())
	for _, row := range zoneRows {
		l, ok := measured[row.name]
		switch {
		case strings.Contains(row.name, "100 ") || strings.Contains(row.name, "1,000 "):
			continue // more zones than it has
		case !ok && errors.Is(unknown, errNotMeasured) && strings.Contains(row.name, "of the"):
			continue // the system doesn't tell
		case !ok:
			t.Errorf("%s: not measured", row.name)
		case l.Unit != row.unit || l.Goal != row.goal.text || len(l.Results) != 2 || len(l.Results[0].Rounds) != 1:
			t.Errorf("%s: got %+v", row.name, l)
		case strings.Contains(row.name, "lost") != (l.Results[0].Median == 0):
			t.Errorf("%s: got %v", row.name, l.Results[0].Median)
		}
	}
	if left, err := os.ReadDir(c.Dir); err != nil || len(left) > 0 {
		t.Errorf("it has left %v, %v", left, err)
	}
}

// TestZonesBesideDragonboat runs one part with both. What dragonboat can't do is told, and no failure.
func TestZonesBesideDragonboat(t *testing.T) {
	t.Parallel()
	c := testZonesCommand(t)
	c.Quick, c.Dragonboat, c.Only = true, "on", []string{"many"}
	rep, err := c.measure(t.Context(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range rep.Rows {
		theirs := l.Results[1]
		if len(theirs.Rounds) != 1 && len(rep.Failures) == 0 {
			t.Errorf("%s: got %+v, and no failure is told", l.Name, l)
		}
	}
	var table bytes.Buffer
	if err := rep.table(&table); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"dragonboat", "create all zones, s", "load average"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("there is no %q in the table:\n%s", want, &table)
		}
	}
}

// An interrupted run ends its processes and removes its data.
func TestZonesInterrupted(t *testing.T) {
	c := testZonesCommand(t)
	c.Quick = true
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := &seeing{what: "create all zones", do: cancel}
	if _, err := c.measure(ctx, seen); err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("got %v, want that it was interrupted", err)
	}
	if left, err := os.ReadDir(c.Dir); err != nil || len(left) > 0 {
		t.Errorf("it has left %v, %v", left, err)
	}
}

// seeing does something when it sees some text.
type seeing struct {
	what string
	do   func()
}

func (s *seeing) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte(s.what)) {
		s.do()
	}
	return len(b), nil
}

// TestZoneProcesses starts a cluster, kills a process, starts it again, and ends all of them.
func TestZoneProcesses(t *testing.T) {
	c, err := newZoneCluster(t.Context(), t.TempDir(), zoneSetup{System: ours}, 3*time.Minute)
	defer c.stop()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.create(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	if err := c.gather(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	killed := c.processes[0]
	if _, err := c.kill(0); err != nil {
		t.Fatal(err)
	}
	if killed.cmd.ProcessState == nil || killed.cmd.ProcessState.Success() {
		t.Errorf("the process that was killed ended as %v", killed.cmd.ProcessState)
	}
	if _, err := c.ask(t.Context(), 1, question{Do: "led", Mine: true}); err != nil {
		t.Fatal(err)
	}
	if err := c.revive(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := c.gather(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	_, err = c.ask(t.Context(), 1, question{Do: "nonsense"})
	if err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("got %v of a question that there is not", err)
	}
	running := c.processes
	c.stop()
	for i, p := range running {
		if p.cmd.ProcessState == nil || !p.cmd.ProcessState.Success() {
			t.Errorf("process %d ended as %v", i+1, p.cmd.ProcessState)
		}
	}
}

// A process that can't start says why, and none is left.
func TestZoneProcessThatCanNotStart(t *testing.T) {
	c, err := newZoneCluster(t.Context(), t.TempDir(), zoneSetup{System: ours, Program: "/absent/witness"},
		3*time.Minute)
	if err == nil || !strings.Contains(err.Error(), "/absent/witness") {
		t.Errorf("got %v, want an error that names the program", err)
	}
	running := c.processes
	c.stop()
	for i, p := range running {
		if p == nil || p.cmd.ProcessState == nil {
			t.Errorf("process %d has not ended", i+1)
		}
	}
}

// fakeZones is a system that loses what it is told to.
type fakeZones struct {
	thirdProcess
	mu     sync.Mutex
	state  map[int]writesMap
	lose   map[uint64]bool // writes that are acknowledged and not applied, by their numbers
	failed map[uint64]int  // how often the attempt at a number fails after it was applied
}

func (f *fakeZones) write(_ context.Context, zone int, command []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := binary.BigEndian.Uint64(command[writerKeyBytes:])
	if f.lose[n] {
		return nil
	}
	writer := binary.BigEndian.Uint64(command)
	record, err := nextRecord(f.state[zone][writer], command)
	if err != nil {
		return err
	}
	if f.state[zone] == nil {
		f.state[zone] = make(writesMap)
	}
	if record != nil {
		f.state[zone][writer] = record
	}
	if f.failed[n] > 0 {
		f.failed[n]--
		return errors.New("nobody answers")
	}
	return nil
}

func (f *fakeZones) read(_ context.Context, zone int, key []byte) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state[zone][binary.BigEndian.Uint64(key)], nil
}

// TestLostWrites has a system lose acknowledged writes, in the middle and at the end.
func TestLostWrites(t *testing.T) {
	for name, c := range map[string]struct {
		lose   map[uint64]bool
		failed map[uint64]int
		acked  uint64 // of these
		want   uint64
	}{
		"none":                       {nil, nil, 5, 0},
		"one in the middle":          {map[uint64]bool{3: true}, nil, 5, 1},
		"the last two":               {map[uint64]bool{4: true, 5: true}, nil, 5, 2},
		"all":                        {map[uint64]bool{1: true, 2: true}, nil, 2, 2},
		"none, one was made again":   {nil, map[uint64]int{2: 3}, 5, 0},
		"one, and one is made again": {map[uint64]bool{3: true}, map[uint64]int{4: 2}, 5, 1},
	} {
		f := &fakeZones{state: make(map[int]writesMap), lose: c.lose, failed: c.failed}
		w := newZoneLoad(f, []loadGroup{{First: 7, Zones: 1, Writers: 1}}, time.Second).writers[0][0]
		for n := range c.acked {
			command := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, w.id), n+1)
			if !w.write(t.Context(), 0, append(command, value(0)...)) {
				t.Fatalf("%s: write %d was not acknowledged", name, n+1)
			}
		}
		acked := w.load.acked()
		if diff := cmp.Diff([]ackedWrites{{Zone: 7, Writer: w.id, N: c.acked}}, acked); diff != "" {
			t.Errorf("%s: acknowledged (-want +got):\n%s", name, diff)
		}
		if got, err := lostWrites(t.Context(), f, acked); got != c.want || err != nil {
			t.Errorf("%s: got %d lost, %v, want %d", name, got, err, c.want)
		}
	}
}

// TestRecovered has a system fail for a while: each zone is again there with the first write that was
// begun after the kill.
func TestRecovered(t *testing.T) {
	f := &fakeZones{state: make(map[int]writesMap)}
	l := newZoneLoad(f, []loadGroup{{Zones: 5, Writers: 2}, {First: 5, Zones: 1, Writers: 1}}, time.Second)
	if err := l.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	since := time.Now().Add(50 * time.Millisecond) // writes before do not count
	seconds, err := l.recovered(t.Context(), since)
	l.end()
	if err != nil || len(seconds) != 6 {
		t.Fatalf("got %v, %v, want one of each of 6 zones", seconds, err)
	}
	for _, s := range seconds {
		if s < 0 {
			t.Errorf("a write from before the kill has counted: %v s", s)
		}
	}
	if lost, err := lostWrites(t.Context(), f, l.acked()); lost > 0 || err != nil {
		t.Errorf("got %d lost, %v", lost, err)
	}
}

// TestLoadThatFails: a load of which nothing was acknowledged is an error, not a figure.
func TestLoadThatFails(t *testing.T) {
	l := newZoneLoad(thirdProcess{}, []loadGroup{{Zones: 1, Writers: 1}}, time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if r, err := l.measure(ctx, 0, 0); err == nil {
		t.Errorf("got %+v", r)
	}
}

func TestWritersOfZones(t *testing.T) {
	for _, c := range []struct {
		group loadGroup
		want  [][]int
	}{
		{loadGroup{Zones: 2, Writers: 3}, [][]int{{0}, {1}, {0}}},
		{loadGroup{First: 10, Zones: 5, Writers: 2}, [][]int{{10, 12, 14}, {11, 13}}},
		{loadGroup{Zones: 2, Writers: 2}, [][]int{{0}, {1}}},
	} {
		var got [][]int
		ids := make(map[uint64]bool)
		for _, w := range newZoneLoad(nil, []loadGroup{c.group}, 0).writers[0] {
			got = append(got, w.zones)
			ids[w.id] = true
		}
		if diff := cmp.Diff(c.want, got); diff != "" || len(ids) != c.group.Writers {
			t.Errorf("%+v: %d writers (-want +got):\n%s", c.group, len(ids), diff)
		}
	}
}

func TestEachZone(t *testing.T) {
	var mu sync.Mutex
	seen := make(map[int]int)
	err := eachZone(100, func(zone int) error {
		mu.Lock()
		defer mu.Unlock()
		seen[zone]++
		return nil
	})
	if err != nil || len(seen) != 100 {
		t.Errorf("got %v with %d zones", err, len(seen))
	}
	want := errors.New("no")
	if err := eachZone(100, func(int) error { return want }); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
}

func TestQuantile(t *testing.T) {
	values := []float64{5, 1, 4, 2, 3}
	for q, want := range map[float64]float64{0: 1, 0.5: 3, 0.99: 5, 1: 5} {
		if got := quantile(values, q); got != want {
			t.Errorf("%v: got %v, want %v", q, got, want)
		}
	}
	if got := quantile(nil, 0.5); got != 0 {
		t.Errorf("got %v of nothing", got)
	}
}

func TestZoneReport(t *testing.T) {
	rep := zoneReport{Machine: "m", Zones: 7, KillZones: 5, Writers: 16, Rounds: 2, Kills: 3}
	for _, c := range []struct {
		row      zoneRow
		measured map[string][]float64
	}{
		{zoneRow{"a", "s", true, atMost(2)}, map[string][]float64{ours: {1, 3}, dragonboatSystem: {4, 3}}},
		{zoneRow{"b", "1/s", false, asGood}, map[string][]float64{ours: {10}, dragonboatSystem: {40}}},
		{zoneRow{"c", "1/s", false, asGood}, map[string][]float64{ours: {10}}},
		{zoneRow{"d", "writes", true, atMost(0)}, map[string][]float64{ours: {0}, dragonboatSystem: {0}}},
		{zoneRow{"e", "times", false, atLeast(0.5)}, map[string][]float64{ours: {0.4}}},
		{zoneRow{"f", "s", true, noGoal}, map[string][]float64{dragonboatSystem: {1}}},
	} {
		rep.add(c.row, c.measured)
	}
	var table, data bytes.Buffer
	if err := rep.table(&table); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`7 zones, 16 writers`, `3 kills of a node with 5 zones`,
		`a, s +2 +3.5 +2.50 +at most 2 +yes\n`, `b, 1/s +10 +40 +0.25 +ratio 1 +no\n`, `c, 1/s +10 +– +– +ratio 1 +–\n`,
		`d, writes +0 +0 +– +at most 0 +yes\n`, `e, times +0.4 +– +– +at least 0.5 +no\n`,
	} {
		if !regexp.MustCompile(want).MatchString(table.String()) {
			t.Errorf("got no %s in\n%s", want, &table)
		}
	}
	if strings.Contains(table.String(), "f, s") {
		t.Errorf("a row that ours has not been measured for is there:\n%s", &table)
	}
	c := testZonesCommand(t)
	if err := c.print(&rep, &data); err != nil {
		t.Errorf("as JSON: %v", err)
	}
}

func TestZonesWrongArguments(t *testing.T) {
	for want, change := range map[string]func(*zonesCommand){
		"--zones":      func(c *zonesCommand) { c.Zones = 15 },
		"--zones is 1": func(c *zonesCommand) { c.Zones = 10_001 },
		"--kill-zones": func(c *zonesCommand) { c.KillZones = 0 },
		"--writers":    func(c *zonesCommand) { c.Writers = 1 },
		"--rounds":     func(c *zonesCommand) { c.Rounds = 0 },
		"--kills":      func(c *zonesCommand) { c.Kills = 0 },
		"--idle":       func(c *zonesCommand) { c.Idle = 0 },
		"--time":       func(c *zonesCommand) { c.Time = -1 },
		"--most":       func(c *zonesCommand) { c.Most = 0 },
		"no part":      func(c *zonesCommand) { c.Only = []string{"many", "nonsense"} },
		"directory":    func(c *zonesCommand) { c.Dir += "/absent" },
	} {
		c := testZonesCommand(t)
		change(&c)
		if _, err := c.measure(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error that says %s", err, want)
		}
	}
}
