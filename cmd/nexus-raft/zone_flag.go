package main

import (
	"context"
	"errors"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// zoneFlag is a zone as a command line names it: by its ID, or by its name, for which the cluster is asked.
// No name could be an ID.
type zoneFlag struct {
	id   nexusraft.ZoneID // 0: not known yet
	name string           // "" if the ID was given
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (z *zoneFlag) UnmarshalText(text []byte) error {
	*z = zoneFlag{}
	if z.id.UnmarshalText(text) == nil {
		if z.id == 0 {
			return fmt.Errorf("%.20s is no zone; 1 is the root zone", text)
		}
		return nil
	}
	z.name = string(text)
	if z.name == nexusraft.RootZoneName {
		z.id = nexusraft.RootZone
		return nil
	}
	if err := nexusraft.ValidateZoneName(z.name); err != nil {
		return fmt.Errorf("no zone has such an ID, which is hexadecimal, or such a name: %w", err)
	}
	return nil
}

// String is for people.
func (z zoneFlag) String() string {
	switch {
	case z.name == "":
		return "zone " + z.id.String()
	case z.id == 0:
		return "zone " + z.name
	}
	return fmt.Sprintf("zone %s (%v)", z.name, z.id)
}

// find makes the ID known. Only for a name's is the cluster asked, at most for its timeout.
func (z *zoneFlag) find(ctx context.Context, a *asking) error {
	if z.id != 0 {
		return nil
	}
	conn, ctx, end, err := a.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	info, err := z.info(ctx, conn)
	if err != nil {
		return err
	}
	z.id = info.ID
	return nil
}

// info returns what the cluster keeps of the zone.
func (z zoneFlag) info(ctx context.Context, conn *client.Client) (info nexusraft.ZoneInfo, err error) {
	if z.name != "" {
		info, err = conn.ZoneNamed(ctx, z.name)
	} else {
		info, err = conn.Zone(ctx, z.id)
	}
	switch {
	case errors.Is(err, nexusraft.ErrZoneNotFound):
		return info, fmt.Errorf("there is no %v; nexus-raft zone list shows which there are", z)
	case err != nil && z.name != "":
		return info, fmt.Errorf("%v: its ID is not known: %w; its ID can be given instead of its name", z, err)
	}
	return info, err
}

// zoneNames returns the names of the zones but for the root zone, as far as they can be had, and whether
// these are all.
func zoneNames(ctx context.Context, conn *client.Client) (names map[nexusraft.ZoneID]string, all bool) {
	names = make(map[nexusraft.ZoneID]string)
	for info, err := range conn.Zones(ctx) {
		if err != nil {
			return names, false
		}
		names[info.ID] = info.Name
	}
	return names, true
}

// whichZone is one zone, or all: nexusraft.EveryZone.
type whichZone struct {
	zoneFlag
	all bool
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (z *whichZone) UnmarshalText(text []byte) error {
	*z = whichZone{all: string(text) == nexusraft.EveryZoneName}
	if z.all {
		return nil
	}
	if err := z.zoneFlag.UnmarshalText(text); err != nil {
		return fmt.Errorf("%w; give all for every zone", err)
	}
	return nil
}

// String is for people.
func (z whichZone) String() string {
	if z.all {
		return "all zones"
	}
	return z.zoneFlag.String()
}

func (z *whichZone) find(ctx context.Context, a *asking) error {
	if z.all {
		return nil
	}
	return z.zoneFlag.find(ctx, a)
}
