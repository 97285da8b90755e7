//go:build linux

package program

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
)

// The collector of garbage knows the least of a process's limits of memory; GOMEMLIMIT holds instead.
func TestMemoryLimitIsHeeded(t *testing.T) {
	unset := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(unset) })
	// far above what the test needs, and below what a control group may have
	const data, space = 1 << 45, 1 << 46
	for resource, bytes := range map[int]uint64{syscall.RLIMIT_DATA: data, syscall.RLIMIT_AS: space} {
		limitTo(t, resource, bytes)
	}
	limit, err := memoryLimit()
	if err != nil || limit > data {
		t.Fatalf("the limit is %d, %v; want %d or what the control group has", limit, err, data)
	}
	heeded := func() (int64, string) {
		var log bytes.Buffer
		debug.SetMemoryLimit(math.MaxInt64)
		HeedMemoryLimit(slog.New(slog.NewTextHandler(&log, nil)))
		return debug.SetMemoryLimit(-1), log.String()
	}
	want := int64(float64(limit) * collectAt)
	if got, log := heeded(); got != want || !strings.Contains(log, fmt.Sprintf("collected_at_bytes=%d\n", want)) {
		t.Errorf("with a limit of %d garbage is collected at %d, and the log says %q", limit, got, log)
	}
	t.Setenv("GOMEMLIMIT", "1GiB")
	if got, log := heeded(); got != math.MaxInt64 || log != "" { // the runtime has read the variable before main
		t.Errorf("with GOMEMLIMIT garbage is collected at %d, and the log says %q", got, log)
	}
}

// limitTo sets a soft limit until the test ends.
func limitTo(t *testing.T, resource int, bytes uint64) {
	t.Helper()
	var was syscall.Rlimit
	if err := syscall.Getrlimit(resource, &was); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(resource, &syscall.Rlimit{Cur: min(bytes, was.Max), Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Setrlimit(resource, &was); err != nil {
			t.Error(err)
		}
	})
}
