package storage

import (
	"errors"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
)

var errTest = errors.New("broken")

// writeFile creates a file with some content.
func writeFile(t *testing.T, fs FS, name, content string) vfs.File {
	t.Helper()
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	check(t, err)
	_, err = f.Write([]byte(content))
	check(t, err)
	check(t, f.Sync())
	return f
}

func read(t *testing.T, fs FS, name string) string {
	t.Helper()
	f, err := fs.Open(name)
	check(t, err)
	defer f.Close()
	b, err := io.ReadAll(f)
	check(t, err)
	return string(b)
}

func listing(t *testing.T, fs FS) map[string]string {
	t.Helper()
	names, err := fs.List("")
	check(t, err)
	out := make(map[string]string)
	for _, name := range names {
		out[name] = read(t, fs, name)
	}
	return out
}

// TestFailstopKeepsTheDisk does after death all that Pebble does to a disk.
func TestFailstopKeepsTheDisk(t *testing.T) {
	disk := NewMemFS()
	f := newFailstop(disk, ".", slog.New(slog.DiscardHandler))
	f.opened()
	log, table := writeFile(t, f, "1.log", "log"), writeFile(t, f, "2.sst", "half a ta")
	want := map[string]string{"1.log": "log", "2.sst": "half a ta"}
	f.stop(errTest)
	f.stop(errors.New("too late"))

	_, err := log.Write([]byte("more"))
	fullSync, errSyncTo := log.SyncTo(3)
	for what, err := range map[string]error{
		"write": err, "sync": log.Sync(), "sync data": log.SyncData(),
		"sync to": errSyncTo, "rename": f.Rename("1.log", "3.log"),
	} {
		if err != nil || fullSync {
			t.Errorf("%s of a log: Pebble got %v", what, err)
		}
	}
	_, err = table.Write([]byte("ble"))
	for what, err := range map[string]error{"write": err, "sync": table.Sync()} {
		if !errors.Is(err, errTest) {
			t.Errorf("%s: got %v, want the cause of death", what, err)
		}
	}
	check(t, log.Close())
	check(t, table.Close())
	check(t, f.Remove("1.log"))
	reused, err := f.ReuseForWrite("1.log", "4.log", "pebble-wal")
	check(t, err)
	check(t, reused.Close())
	check(t, writeFile(t, f, "1.log", "other").Close())
	check(t, writeFile(t, f, "5.sst", "flushed").Close())
	if got := read(t, f, "5.sst"); got != "flushed" {
		t.Errorf("a table of after death: got %q", got)
	}
	if got := read(t, f, "2.sst"); got != "half a ta" {
		t.Errorf("a table of before death: got %q", got)
	}
	if diff := cmp.Diff(want, listing(t, disk)); diff != "" {
		t.Errorf("disk (-want +got):\n%s", diff)
	}
}

func TestFailstopHoldsCompactions(t *testing.T) {
	for _, c := range []struct {
		name    string
		release func(*failstop)
		want    error
	}{
		{"until a commit waits", func(f *failstop) { f.stall(true) }, nil},
		{"until the store closes", (*failstop).release, errTest},
		{"not where a commit waits when it closes", func(f *failstop) { f.stall(true); f.release() }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFailstop(NewMemFS(), ".", slog.New(slog.DiscardHandler))
				f.opened()
				f.stop(errTest)
				done := make(chan error, 1)
				go func() {
					_, err := f.Create("1.sst", compactionCategory)
					done <- err
				}()
				synctest.Wait()
				select {
				case err := <-done:
					t.Fatalf("did not wait, got %v", err)
				default:
				}
				c.release(f)
				if got := <-done; !errors.Is(got, c.want) {
					t.Errorf("got %v, want %v", got, c.want)
				}
			})
		})
	}
}
