package datadir

import "fmt"

// RequireZones makes the directory one that releases refuse to open which know neither zones besides the
// root zone nor sessions: they would pass over what they don't know. It is done once the cluster's version
// is one that has them, before the first other zone is made here, and is on the disk when it returns. It
// does nothing if it was done before.
func (d *Dir) RequireZones() error {
	if err := d.Store.RaiseFormat(); err != nil {
		return fmt.Errorf("keep earlier releases out of the directory: %w", err)
	}
	return nil
}
