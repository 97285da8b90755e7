package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What the witness may take at most, and how far the README's figures may be off.
const (
	maxWitnessProgram = 15 << 20
	maxWitnessMemory  = 40_000_000
	readmeTolerance   = 0.10
)

// TestFootprint builds both programs as they are released, compares their sizes with the
// README's, and measures the witness's memory while members are under load. How long it
// loads them is in NEXUS_RAFT_FOOTPRINT, 60s for example.
func TestFootprint(t *testing.T) {
	load, err := time.ParseDuration(os.Getenv("NEXUS_RAFT_FOOTPRINT"))
	if err != nil {
		t.Skip("skipped: NEXUS_RAFT_FOOTPRINT does not say for how long, as in 60s")
	}
	dir := t.TempDir()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	sizes := make(map[string]int64)
	for _, name := range []string{"nexus-raft", "nexus-witness"} {
		sizes[name] = build(t, dir, name)
		claimed(t, string(readme), name, float64(sizes[name]))
	}
	if sizes["nexus-witness"] > maxWitnessProgram {
		t.Errorf("nexus-witness has %d bytes, limit %d", sizes["nexus-witness"], maxWitnessProgram)
	}

	n1, n2, w := freeAddress(t), freeAddress(t), freeAddress(t)
	member, d1 := filepath.Join(dir, "nexus-raft"), filepath.Join(dir, "n1")
	finish(t, exec.Command(member, "init", "--data-dir", d1, "--name", "n1", "--listen", n1))
	start(t, member, "serve", "--data-dir", d1, "--listen", n1)
	start(t, member, "serve", "--data-dir", filepath.Join(dir, "n2"), "--name", "n2", "--listen", n2, "--join", n1)
	witness := start(t, filepath.Join(dir, "nexus-witness"), "--data-dir", filepath.Join(dir, "w"), "--name", "w",
		"--listen", w, "--join", n1)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		if exec.Command(member, "status", "--check", "--endpoints", n1).Run() == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the cluster can't lose any one node after a minute")
		}
	}
	finish(t, exec.Command(member, "bench", "put", "--endpoints", n1+","+n2, "--duration", load.String()))

	resident, peak := memory(t, witness.Process.Pid, "VmRSS"), memory(t, witness.Process.Pid, "VmHWM")
	t.Logf("nexus-raft %d bytes, nexus-witness %d bytes; the witness's memory after %v of load: %d MiB, at most %d MiB",
		sizes["nexus-raft"], sizes["nexus-witness"], load, resident>>20, peak>>20)
	if resident >= maxWitnessMemory {
		t.Errorf("the witness has %d bytes resident after %v of load, limit %d", resident, load, maxWitnessMemory)
	}
}

// build makes a program the way the README says, and returns its size.
func build(t *testing.T, dir, name string) int64 {
	t.Helper()
	program := filepath.Join(dir, name)
	cmd := exec.Command("go", "build", "-tags", "grpcnotrace", "-trimpath", "-ldflags", "-s -w", "-o", program, "../"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	finish(t, cmd)
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// claimed compares a size with the README's, in the row of the program.
func claimed(t *testing.T, readme, name string, size float64) {
	t.Helper()
	row := regexp.MustCompile("(?m)^\\| `" + name + "` \\| ([0-9.]+) MB \\|").FindStringSubmatch(readme)
	if row == nil {
		t.Errorf("README.md has no row with the size of %s", name)
		return
	}
	mb, err := strconv.ParseFloat(row[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	if off := size/(mb*1e6) - 1; off > readmeTolerance || off < -readmeTolerance {
		t.Errorf("%s has %.1f MB, and README.md says %.1f", name, size/1e6, mb)
	}
}

// memory reads one of the kernel's figures of a process, in bytes.
func memory(t *testing.T, pid int, field string) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("process %d has no %s", pid, field)
	return 0
}

// start runs a program until the test ends.
func start(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(program, args...)
	var log strings.Builder // read once the process has ended
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%v:\n%s", args, log.String())
		}
	})
	return cmd
}

// finish runs a command to its end.
func finish(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
}

// freeAddress returns a loopback address at which nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	return lis.Addr().String()
}
