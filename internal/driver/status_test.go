package driver

import (
	"errors"
	"slices"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// TestStatusesInBoundedCalls: a worker with many zones says their status in calls of a bounded length, and of
// one zone without a look at the others.
func TestStatusesInBoundedCalls(t *testing.T) {
	const zones, gone = 1000, 777
	b := newInbox(NewBacklog(Bounds{Calls: 1}, 1))
	asked, most, listed := 0, 0, 0
	all := func() (ids []nexusraft.ZoneID) {
		listed++
		for i := zones; i > 0; i-- {
			ids = append(ids, nexusraft.ZoneID(i))
		}
		return ids
	}
	status := func(id nexusraft.ZoneID) (nexusraft.ZoneStatus, bool) {
		asked++
		return nexusraft.ZoneStatus{Zone: id}, id != gone && id <= zones
	}
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() { // the worker
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			case <-b.Woken():
			}
			for _, call := range b.take().calls {
				before := asked
				call(nil)
				most = max(most, asked-before)
			}
		}
	}()
	ids := func(only nexusraft.ZoneID) (ids []nexusraft.ZoneID) {
		t.Helper()
		got, err := Statuses(t.Context(), b, only, all, status)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range got {
			ids = append(ids, s.Zone)
		}
		return ids
	}
	whole := ids(0)
	if len(whole) != zones-1 || !slices.IsSorted(whole) || slices.Contains(whole, gone) {
		t.Errorf("got %d zones, in order: %t; want %d", len(whole), slices.IsSorted(whole), zones-1)
	}
	for only, want := range map[nexusraft.ZoneID][]nexusraft.ZoneID{1: {1}, 5: {1, 5}, gone: {1}, zones + 1: {1}} {
		if got := ids(only); !slices.Equal(got, want) {
			t.Errorf("zone %v: got %v, want %v", only, got, want)
		}
	}
	close(stop)
	<-ended
	if most > statusZones || listed != 1 {
		t.Errorf("%d zones in one call, limit %d; all were listed %d times, want once", most, statusZones, listed)
	}
	b.Close()
	if _, err := Statuses(t.Context(), b, 0, all, status); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("of a worker that has ended: %v, want ErrClosed", err)
	}
}
