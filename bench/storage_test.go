package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nexi-lab/nexus-raft/storage"
)

// TestMain is the program when it is started to be killed, to receive, or to have zones.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && slices.Contains([]string{"fill", "receive", "zone-host"}, os.Args[1]) {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestStorage runs every row with every engine, small.
func TestStorage(t *testing.T) {
	dir := t.TempDir()
	c := storageCommand{Keys: 1000, Rounds: 1, Time: 10 * time.Millisecond, Dir: dir, JSON: true}
	var out, progress bytes.Buffer
	r, err := c.measure(&progress)
	if err == nil {
		err = c.print(r, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	if last := rows[len(rows)-1].name; !strings.Contains(progress.String(), last) {
		t.Errorf("it tells of no progress: %s", progress.String())
	}
	var got report
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%v in %s", err, out.Bytes())
	}
	if got.Keys != 1000 || got.Rounds != 1 || got.DiskSyncs <= 0 {
		t.Errorf("got %d keys, %d rounds, %v disk syncs", got.Keys, got.Rounds, got.DiskSyncs)
	}
	if len(got.Rows) != len(rows) {
		t.Fatalf("got %d rows, want %d", len(got.Rows), len(rows))
	}
	for i, line := range got.Rows {
		checkLine(t, rows[i], line)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it has left %v, %v", left, err)
	}
}

func checkLine(t *testing.T, row row, got line) {
	t.Helper()
	if got.Name != row.name || got.Unit != row.unit || got.LowerIsBetter != row.lower {
		t.Errorf("got %q in %q, want %q in %q", got.Name, got.Unit, row.name, row.unit)
	}
	if len(got.Results) != len(engines) {
		t.Fatalf("%s: got %d results, want one for each engine", row.name, len(got.Results))
	}
	if _, err := written(); err != nil && strings.HasPrefix(row.name, "write amplification") {
		return // the system doesn't tell
	}
	for i, r := range got.Results {
		if r.Engine != engines[i].name || len(r.Rounds) != 1 || r.Median <= 0 || r.Ratio <= 0 {
			t.Errorf("%s: got %+v, want one round of %s", row.name, r, engines[i].name)
		}
		if r.Engine == raw && r.Ratio != 1 {
			t.Errorf("%s: %s compared with itself is %v", row.name, raw, r.Ratio)
		}
	}
}

// TestSameOptions compares what our store and raw Pebble say of themselves in the options
// files of their directories.
func TestSameOptions(t *testing.T) {
	dirs := map[string]string{ours: t.TempDir(), raw: t.TempDir()}
	for _, e := range engines {
		if dir := dirs[e.name]; dir != "" {
			s, err := e.open(dir, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	got, want := optionsFile(t, dirs[raw]), optionsFile(t, dirs[ours])
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("options of storage (-) and of the Pebble it is compared with (+):\n%s", diff)
	}
	if !strings.Contains(want, "BloomFilter") {
		t.Errorf("these are no options:\n%s", want)
	}
}

func optionsFile(t *testing.T, dir string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "OPTIONS-*"))
	if err != nil || len(names) == 0 {
		t.Fatalf("got %v, %v", names, err)
	}
	b, err := os.ReadFile(slices.Max(names))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestFullMemTable holds what the reopening row says of its store.
func TestFullMemTable(t *testing.T) {
	s, err := openPebbleSame(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range fullMemTable {
		if err := s.put(newKey(i), value(i)); err != nil {
			t.Fatal(err)
		}
	}
	m := s.(*pebbleStore).db.Metrics()
	if size := sameOptions().MemTableSize; m.Flush.Count > 0 || m.MemTable.Size < size*9/10 || m.MemTable.Size > size {
		t.Errorf("got %d flushes and %d bytes in memory tables, want none and almost %d", m.Flush.Count, m.MemTable.Size,
			size)
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
}

// TestEngines has each engine tell what was put into it.
func TestEngines(t *testing.T) {
	for _, e := range engines {
		for _, writers := range []int{0, 1, 8} {
			s, err := e.open(t.TempDir(), writers)
			if err != nil {
				t.Fatal(err)
			}
			err = s.put(newKey(1999), value(7))
			if err == nil {
				err = load(s, 1500)
			}
			if err != nil {
				t.Errorf("%s: %v", e.name, err)
			}
			checkEngine(t, e.name, s)
			if err := s.close(); err != nil {
				t.Errorf("%s: close: %v", e.name, err)
			}
		}
	}
}

func checkEngine(t *testing.T, name string, s store) {
	t.Helper()
	for i, want := range map[int][]byte{0: value(0), 1499: value(1499), 1999: value(7), 1500: nil} {
		got, err := s.get(newKey(i))
		got2, err2 := s.getTo([]byte("x"), newKey(i))
		if want == nil {
			if err != errAbsent || err2 != errAbsent {
				t.Errorf("%s: absent key: got %v, %v", name, err, err2)
			}
			continue
		}
		if err != nil || err2 != nil || !bytes.Equal(got, want) || string(got2) != "x"+string(want) {
			t.Errorf("%s: key %d: got %x, %v and %x, %v", name, i, got, err, got2, err2)
		}
	}
	for prefix, want := range map[int]int{0: 1000, 1000: 501, 2000: 0} {
		if got, err := s.scan(newKey(prefix)[:scanPrefix]); got != want || err != nil {
			t.Errorf("%s: scan at %d: got %d keys, %v, want %d", name, prefix, got, err, want)
		}
	}
}

// TestKilledStoreKeepsWhatItSynced shows that the process of the reopening row is killed with its
// writes done.
func TestKilledStoreKeepsWhatItSynced(t *testing.T) {
	dir := t.TempDir()
	if err := fillAndKill(engine{name: ours}, dir, 1234); err != nil {
		t.Fatal(err)
	}
	s, err := storage.Open(dir, &storage.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if n, err := s.Len(); n != 1234 || err != nil {
		t.Errorf("got %d keys, %v", n, err)
	}
	if !s.Stats().Recovered {
		t.Error("the store was closed, not killed")
	}
}

func TestRatios(t *testing.T) {
	measured := map[string][]float64{ours: {1, 6, 30}, raw: {2, 4, 10}, "other": nil}
	three := []engine{{name: ours}, {name: raw}, {name: "other"}}
	for _, c := range []struct {
		lower bool
		want  float64
	}{{false, 1.5}, {true, 4.0 / 6}} { // of 0.5, 1.5 and 3, and of what they are upside down
		got := newLine(row{name: "r", unit: "u", lower: c.lower}, three, measured)
		want := line{Name: "r", Unit: "u", LowerIsBetter: c.lower, Results: []result{
			{Engine: ours, Rounds: []float64{1, 6, 30}, Median: 6, Ratio: c.want},
			{Engine: raw, Rounds: []float64{2, 4, 10}, Median: 4, Ratio: 1},
			{Engine: "other"},
		}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("lower is better: %v (-want +got):\n%s", c.lower, diff)
		}
	}
}

func TestFigures(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.012345: "0.0123", 2.216: "2.22", 99.95: "100", 1234: "1,230",
		123456: "123,000", 9876543: "9,880,000",
	} {
		if got := figure(v); got != want {
			t.Errorf("%v: got %s, want %s", v, got, want)
		}
	}
}

func TestTable(t *testing.T) {
	r := report{Machine: "m", Keys: 5, KeyBytes: 16, ValueBytes: 128, Rounds: 3, DiskSyncs: 1234.5, Rows: []line{
		newLine(row{name: "r", unit: "keys/s"}, []engine{{name: ours}, {name: "other"}},
			map[string][]float64{ours: {1500}, raw: {2000}}),
	}}
	var out bytes.Buffer
	if err := r.table(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`5 keys of 16 bytes`, `syncs 1,230 times`, `nexus-raft +other`,
		`r, keys/s +1,500 \(0\.75\) +–`,
	} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("got no %s in\n%s", want, out.String())
		}
	}
}

func TestWrongArguments(t *testing.T) {
	good := storageCommand{Keys: 1000, Rounds: 1, Time: time.Second, Dir: t.TempDir()}
	for want, change := range map[string]func(*storageCommand){
		"--keys":    func(c *storageCommand) { c.Keys = 10 },
		"--rounds":  func(c *storageCommand) { c.Rounds = 0 },
		"--time":    func(c *storageCommand) { c.Time = 0 },
		`no row`:    func(c *storageCommand) { c.Only = []string{"seq", "nonsense"} },
		`no engine`: func(c *storageCommand) { c.Engine = []string{"nonsense"} },
		"directory": func(c *storageCommand) { c.Dir = filepath.Join(c.Dir, "absent") },
	} {
		c := good
		change(&c)
		if _, err := c.measure(io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error that says %s", err, want)
		}
	}
}
