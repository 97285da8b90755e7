package witness

import (
	"fmt"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// openJournal opens the journal, with the zones that the identity names. Where an earlier release has left each zone
// in slots of its own, they are taken over first; until the identity says so that is done again.
func (w *Witness) openJournal() error {
	c, r := w.config, w.keeper.stored()
	var imported map[nexusraft.ZoneID][]byte
	if w.keeper.inSlots {
		imported = make(map[nexusraft.ZoneID][]byte)
		for _, id := range r.Hosted {
			_, content, err := readSlots(c.FS, c.Dir, logName(id))
			if isMissing(err) {
				return errLogGone(c.Dir, id)
			}
			var r record
			if err == nil {
				r, err = decodeRecordOf(id, content)
			}
			if err == nil {
				imported[id], err = r.compactForm()
			}
			if err != nil {
				return fmt.Errorf("open log of zone %v: %w", id, err)
			}
		}
	}
	var err error
	if w.journal, err = openJournal(c.FS, c.Dir, r.Hosted, imported); err != nil {
		return err
	}
	if w.keeper.inSlots {
		w.logger.Info("the logs of all zones go on in one file", "count", len(imported))
		if err := w.keeper.leaveSlots(); err != nil {
			return err
		}
	}
	return removeOldLogs(c.FS, c.Dir, r.Zones)
}

// errLogGone says that what the identity names is not there.
func errLogGone(dir string, zone nexusraft.ZoneID) error {
	return fmt.Errorf("%w: %s: the log of zone %v is gone; what it has voted is unknown: remove this witness and let a "+
		"new one join", nexusraft.ErrCorrupt, dir, zone)
}

// removeOldLogs removes the slots of all zones but those of keep: an earlier release had one for each zone.
func removeOldLogs(f FS, dir string, keep []nexusraft.ZoneID) error {
	names, err := f.Names(dir)
	if err != nil {
		return fmt.Errorf("read data directory: %w", err)
	}
	for _, name := range names {
		id, ok := zoneOfFile(name)
		if !ok || id == nexusraft.RootZone || slices.Contains(keep, id) {
			continue
		}
		if err := removeSlots(f, dir, logName(id)); err != nil {
			return fmt.Errorf("remove what is left of zone %v: %w", id, err)
		}
	}
	return nil
}
