package witness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

// A witness has no copy of the root zone's state, so full nodes tell it of the other zones. It takes
// a list over in steps, each for a few zones that were made, and each in this order:
//
//  1. the logs of the zones that were made are on the disk;
//  2. one write to the identity: the version of the root zone's table, and which zones are hosted as of it;
//  3. the worker gets the new zones and gives up those that were deleted;
//  4. the journal forgets those.
//
// So a log is made once: before the version that made its zone is known. A crash before the second step
// leaves logs of zones in which nothing was voted, and one after it, logs of zones that were deleted:
// Open forgets both. From then on what the identity names must be there, or votes are lost.

const (
	// stepZones is how many zones one step makes at most: what is lost of a call that is given up.
	stepZones = 64

	// takeTime is for how long steps are begun for one call, which is answered with how far they have
	// got: its caller does not wait for long.
	takeTime = time.Second
)

// zonesStep is a step of taking zones over.
type zonesStep struct {
	version uint64
	create  []record // of the zones to make
	hosted  zoneList // as of version
}

// takeOver makes the zones besides the root zone what a full node says they are, and returns the version
// of the root zone's table that is known then: t's, or a lower one if there is more to do. If ctx ends, some
// steps may have been taken.
func (w *Witness) takeOver(ctx context.Context, t transport.HostedZones) (version uint64, err error) {
	select {
	case <-w.ready:
	default:
		return 0, fmt.Errorf("%w: the witness is still starting", nexusraft.ErrOverloaded)
	}
	select {
	case w.taking <- struct{}{}:
		defer func() { <-w.taking }()
	case <-ctx.Done():
		return 0, fmt.Errorf("%w: the witness takes over what it was told before", nexusraft.ErrOverloaded)
	case <-w.stopped:
		return 0, nexusraft.ErrClosed
	}
	steps, err := w.plan(t)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	for i, s := range steps {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if i > 0 && time.Since(began) > takeTime {
			break
		}
		err := w.takeStep(s)
		if errors.Is(err, nexusraft.ErrClosed) {
			return 0, err // the worker has ended; what is stored the next opening goes by
		}
		if err != nil {
			w.stop(err) // a failed write is never tried again (I9)
			return 0, fmt.Errorf("%w: %w", nexusraft.ErrClosed, err)
		}
	}
	return w.keeper.stored().ZonesVersion, nil
}

// plan returns how to get to what t says, or why not: then nothing is changed.
func (w *Witness) plan(t transport.HostedZones) (steps []zonesStep, err error) {
	r := w.keeper.stored()
	if t.Version < r.ZonesVersion {
		return nil, fmt.Errorf("%w: witness %v knows version %d of the table of zones, and %d is older", nexusraft.ErrRefused,
			r.Node, r.ZonesVersion, t.Version)
	}
	if err := t.Validate(); err != nil {
		return nil, err
	}
	if _, err := zoneList(t.Live).encode(); err != nil {
		return nil, err
	}
	var create []record
	var made []transport.HostedZone
	for _, z := range t.Created {
		if _, hosted := slices.BinarySearch(r.Hosted, z.Zone); hosted || z.Version <= r.ZonesVersion {
			continue
		}
		log, err := newRecord(r, z)
		if err != nil {
			return nil, err
		}
		create, made = append(create, log), append(made, z)
	}
	if err := checkComplete(r, t, made); err != nil {
		return nil, err
	}
	for len(create) > stepZones {
		last := made[stepZones-1]
		steps = append(steps, zonesStep{last.Version, create[:stepZones], without(t.Live, made[stepZones:])})
		create, made = create[stepZones:], made[stepZones:]
	}
	if len(create) > 0 || t.Version > r.ZonesVersion || !slices.Equal(r.Hosted, t.Live) {
		steps = append(steps, zonesStep{t.Version, create, slices.Clone(t.Live)})
	}
	return steps, nil
}

// newRecord is what the witness begins with in a zone that was made.
func newRecord(r identityRecord, z transport.HostedZone) (record, error) {
	o := Origin{Cluster: r.Cluster, Node: r.Node, Zone: z.Zone, Replica: z.Replica}
	members := nexusraft.Membership{Shape: nexusraft.DefaultShape, Members: z.Members}
	self, founds := members.Node(r.Node)
	other, taken := members.Replica(z.Replica)
	log := record{Origin: o, Membership: members}
	switch {
	case founds && (self.Replica != z.Replica || self.Role != nexusraft.RoleWitness):
		return record{}, fmt.Errorf("%w: witness %v is %s %v of zone %v by its record, not witness %v", nexusraft.ErrRefused,
			r.Node, self.Role, self.Replica, z.Zone, z.Replica)
	case !founds && taken:
		return record{}, fmt.Errorf("%w: replica %v of zone %v is that of node %v, not of witness %v", nexusraft.ErrRefused,
			z.Replica, z.Zone, other.Node, r.Node)
	case founds:
		log = foundingRecord(o, members)
	}
	if err := log.valid(); err != nil {
		return record{}, fmt.Errorf("%w: zone %v: %w", nexusraft.ErrRefused, z.Zone, err)
	}
	return log, nil
}

// checkComplete refuses zones that are there, are not hosted and are not made now either: the full node
// believes that the witness knows more than it does, or says what a newer one has taken back.
func checkComplete(r identityRecord, t transport.HostedZones, made []transport.HostedZone) error {
	for _, id := range t.Live {
		if _, hosted := slices.BinarySearch(r.Hosted, id); hosted {
			continue
		}
		if _, now := slices.BinarySearchFunc(made, id, byZone); !now {
			return fmt.Errorf("%w: witness %v, which knows version %d of the table of zones, has no zone %v, and is not told "+
				"how to make it", nexusraft.ErrRefused, r.Node, r.ZonesVersion, id)
		}
	}
	return nil
}

func byZone(z transport.HostedZone, id nexusraft.ZoneID) int {
	switch {
	case z.Zone < id:
		return -1
	case z.Zone > id:
		return 1
	}
	return 0
}

// without returns the zones that are not made later.
func without(live []nexusraft.ZoneID, later []transport.HostedZone) (left zoneList) {
	for _, id := range live {
		if _, is := slices.BinarySearchFunc(later, id, byZone); !is {
			left = append(left, id)
		}
	}
	return left
}

// takeStep takes a step. After an error the witness can't go on.
func (w *Witness) takeStep(s zonesStep) error {
	logs, err := w.journal.create(s.create)
	if err != nil {
		return fmt.Errorf("create the logs of zones: %w", err)
	}
	groups, err := w.newGroups(logs)
	if err != nil {
		return err
	}
	deleted := slices.DeleteFunc(slices.Clone(w.keeper.stored().Hosted), func(id nexusraft.ZoneID) bool {
		_, still := slices.BinarySearch(s.hosted, id)
		return still
	})
	if err := w.keeper.update(func(r *identityRecord) { r.ZonesVersion, r.Hosted = s.version, s.hosted }); err != nil {
		return err
	}
	if err := w.hand(context.Background(), groups, deleted); err != nil {
		return err
	}
	w.journal.drop(deleted)
	w.logger.Info("zones taken over", "version", s.version, "created", len(groups), "deleted", len(deleted),
		"count", len(s.hosted))
	return nil
}
