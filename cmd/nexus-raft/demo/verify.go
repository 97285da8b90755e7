package demo

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// How long each step of the verification may take at most.
const (
	listTimeout     = 5 * time.Minute
	checksumTimeout = 2 * time.Minute
)

// verify asks each member by itself for everything, with nothing being written any more,
// and notes in s what is not as it must be. Its error means that it could not ask.
func verify(ctx context.Context, c *cluster, l *ledger, w *walker, s *Summary, t *timeline) error {
	listings := make(map[string]map[string]client.KeyValue)
	bad := make(map[string]outcome)
	for _, u := range c.members() {
		held, err := listing(ctx, u)
		if err != nil {
			return err
		}
		listings[u.name] = held
		found := l.compare(held)
		for _, f := range found {
			s.Findings = append(s.Findings, u.name+": "+f.String())
			if bad[f.key] != lost {
				bad[f.key] = f.outcome
			}
		}
		t.add("verified", "%d records through %s, linearizably: %d not as they must be", len(held), u.name, len(found))
	}
	for _, v := range bad {
		if v == lost {
			s.Lost++
		} else {
			s.Unexpected++
		}
	}
	if err := compareStates(ctx, c, s, t); err != nil {
		return err
	}
	return restore(ctx, c, listings, w, s, t)
}

// listing reads everything through one member alone.
func listing(ctx context.Context, u *unit) (map[string]client.KeyValue, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	c, err := client.New(client.Options{Endpoints: []string{u.address}})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	held := make(map[string]client.KeyValue)
	for kv, err := range c.List(ctx, nil) {
		if err != nil {
			return nil, fmt.Errorf("read all records through %s: %w%s", u.name, err, u.tail())
		}
		held[string(kv.Key)] = kv
	}
	return held, nil
}

// compareStates asks the members for checksums of their states until both are of the same
// applied index, and compares these.
func compareStates(ctx context.Context, c *cluster, s *Summary, t *timeline) error {
	var sums []nexusraft.Checksum
	err := c.await(ctx, "both members report a checksum of the same applied index", checksumTimeout,
		func(ctx context.Context) (string, bool) {
			sums = sums[:0]
			for _, u := range c.members() {
				sum, err := c.checksum(ctx, u)
				if err != nil {
					return err.Error(), false
				}
				sums = append(sums, sum)
			}
			return fmt.Sprintf("%s is at %d, %s at %d", c.units[0].name, sums[0].Applied, c.units[1].name, sums[1].Applied),
				sums[0].Applied == sums[1].Applied
		})
	if err != nil {
		return err
	}
	a, b := sums[0], sums[1]
	s.StateChecksumsEqual = bytes.Equal(a.Sum, b.Sum) && len(a.Sum) > 0 && a.Pairs == b.Pairs && a.Bytes == b.Bytes &&
		a.Revision == b.Revision
	s.StateApplied = uint64(a.Applied)
	if !s.StateChecksumsEqual {
		s.Findings = append(s.Findings,
			fmt.Sprintf("states differ at index %d: %x of %d pairs and %d bytes, %x of %d pairs and %d bytes",
				a.Applied, a.Sum, a.Pairs, a.Bytes, b.Sum, b.Pairs, b.Bytes))
		t.add("states differ", "at index %d", a.Applied)
		return nil
	}
	s.StateChecksum = hex.EncodeToString(a.Sum)
	t.add("states equal", "%d pairs at index %d, checksum %s", a.Pairs, a.Applied, s.StateChecksum)
	return nil
}

func (c *cluster) checksum(ctx context.Context, u *unit) (nexusraft.Checksum, error) {
	ctx, cancel := context.WithTimeout(ctx, checksumTimeout)
	defer cancel()
	return c.asker.Checksum(ctx, u.address, nexusraft.RootZone)
}

// restore turns each member's records back into a listing of the directory and compares it
// with a fresh walk. What differs has changed since it was recorded: that the records are
// those that were written is verified already.
func restore(
	ctx context.Context, c *cluster, listings map[string]map[string]client.KeyValue, w *walker, s *Summary, t *timeline,
) error {
	now, err := w.fresh(ctx)
	if err != nil {
		return err
	}
	for _, u := range c.members() {
		same, changed := changes(listings[u.name], now)
		s.Changed = append(s.Changed, changed...)
		t.add("restored", "the listing from %s: %d files as they are in the directory, %d changed meanwhile", u.name, same,
			len(changed))
	}
	slices.Sort(s.Changed)
	s.Changed = slices.Compact(s.Changed)
	return nil
}

// changes counts the files whose records agree with what is there now, and names the
// others: changed, gone or new.
func changes(held map[string]client.KeyValue, now map[string]record) (same int, changed []string) {
	for path, kv := range held {
		rec, err := decodeRecord(kv.Value)
		if cur, ok := now[path]; ok && err == nil && cur.sameFile(rec) {
			same++
		} else {
			changed = append(changed, path)
		}
	}
	for path := range now {
		if _, ok := held[path]; !ok {
			changed = append(changed, path)
		}
	}
	slices.Sort(changed)
	return same, changed
}
