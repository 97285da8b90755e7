package storage

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"
)

// TestKilledWriter kills a process that writes to a directory, again and again: what was
// acknowledged to it as synced is there, and of the rest a prefix.
func TestKilledWriter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	last := 0
	for round := range 6 {
		synced, said := killWriter(t, dir, time.Duration(rand.IntN(60))*time.Millisecond)
		s, err := Open(dir, testOptions(nil))
		check(t, err)
		trees := make([]*Tree, crashTrees)
		for i := range trees {
			trees[i] = mustTree(t, s, fmt.Sprint(i))
		}
		found := len(collect(t, trees[0].Scan(nil, nil)))
		verifyNumbered(t, s, found)
		if synced > 0 && !s.Stats().Recovered { // what is not synced, that it is open too, a kill may take
			t.Errorf("round %d: the store says that it was closed in order", round)
		}
		if found < synced || found < last {
			t.Errorf("round %d: found %d batches of %d, %d were synced, %d were there before", round, found, said, synced, last)
		}
		last = found
		check(t, s.Close())
	}
	if last == 0 {
		t.Error("nothing was written in any round")
	}
}

// verifyNumbered makes sure that the trees hold the batches up to last, whole ones.
func verifyNumbered(t *testing.T, s *Store, last int) {
	t.Helper()
	for i := range crashTrees {
		n := 0
		for p, err := range mustTree(t, s, fmt.Sprint(i)).Scan(nil, nil) {
			check(t, err)
			n++
			var tree, number int
			if _, err := fmt.Sscanf(string(p.Value), "%d %d", &tree, &number); err != nil || tree != i || number != n ||
				string(p.Key) != string(numberedKey(n)) {
				t.Fatalf("tree %d: pair %d is %q = %.20q", i, n, p.Key, p.Value)
			}
		}
		if n != last {
			t.Fatalf("tree %d has %d batches, tree 0 has %d", i, n, last)
		}
	}
}

// killWriter runs TestWriterToBeKilled in another process, which it kills some time after its
// first batch. It returns the last batch that was acknowledged with sync, and the last of all.
func killWriter(t *testing.T, dir string, after time.Duration) (synced, said int) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWriterToBeKilled$", "-test.count=1")
	cmd.Env = append(os.Environ(), "STORAGE_TEST_DIR="+dir)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	in := bufio.NewScanner(out)
	for in.Scan() {
		n, err := strconv.Atoi(in.Text())
		if err != nil {
			t.Errorf("the writer said %q", in.Text())
			break
		}
		if said == 0 {
			time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		}
		if said = n; syncsNumber(n) {
			synced = n
		}
	}
	_ = cmd.Process.Kill()
	if err := cmd.Wait(); err == nil {
		t.Error("the writer ended by itself")
	}
	return synced, said
}

// syncsNumber reports whether the writer waits for the sync of batch n.
func syncsNumber(n int) bool { return n%4 == 0 }

// TestWriterToBeKilled is the process that TestKilledWriter kills: it goes on where the one
// before it has ended, and prints the number of each batch that was acknowledged.
func TestWriterToBeKilled(t *testing.T) {
	dir := os.Getenv("STORAGE_TEST_DIR")
	if dir == "" {
		t.Skip("run by TestKilledWriter")
	}
	s, err := Open(dir, testOptions(nil))
	check(t, err)
	trees := make([]*Tree, crashTrees)
	for i := range trees {
		trees[i] = mustTree(t, s, fmt.Sprint(i))
	}
	first, err := trees[0].Len()
	check(t, err)
	for n := first + 1; n < first+100_000; n++ {
		commitNumbered(t, s, trees, n, n*37%2000, syncsNumber(n))
		fmt.Println(n)
	}
}
