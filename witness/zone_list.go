package witness

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// zoneList are zones besides the root zone, ascending. Its stored form is base64 of the distance of
// each to the one before, as a uvarint: a byte for most.
type zoneList []nexusraft.ZoneID

// maxZoneListBytes bounds a stored list, before base64, so that there is room for the rest of the record: 4
// for each zone that there may be.
const maxZoneListBytes = 4 * nexusraft.MaxZones

// encode returns ErrTooLarge if the list is larger than what is stored.
func (l zoneList) encode() (b []byte, err error) {
	last := nexusraft.RootZone
	for _, id := range l {
		b, last = binary.AppendUvarint(b, uint64(id-last)), id
	}
	if len(b) > maxZoneListBytes {
		return nil, fmt.Errorf("%w: a list of %d zones takes %d bytes, limit %d", nexusraft.ErrTooLarge, len(l), len(b),
			maxZoneListBytes)
	}
	return b, nil
}

// MarshalJSON implements json.Marshaler.
func (l zoneList) MarshalJSON() ([]byte, error) {
	b, err := l.encode()
	if err != nil {
		return nil, err
	}
	return json.Marshal(b)
}

// UnmarshalJSON implements json.Unmarshaler.
func (l *zoneList) UnmarshalJSON(text []byte) error {
	var b []byte
	if err := json.Unmarshal(text, &b); err != nil {
		return err
	}
	if len(b) > maxZoneListBytes {
		return fmt.Errorf("a list of zones of %d bytes, limit %d", len(b), maxZoneListBytes)
	}
	var zones zoneList
	for last := nexusraft.RootZone; len(b) > 0; {
		distance, n := binary.Uvarint(b)
		id := last + nexusraft.ZoneID(distance)
		if n <= 0 || id <= last || len(zones) == nexusraft.MaxZones {
			return errors.New("a list of zones that do not ascend, or of too many")
		}
		zones, last, b = append(zones, id), id, b[n:]
	}
	*l = zones
	return nil
}
