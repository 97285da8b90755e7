package datadir

import "fmt"

// RequireZones makes the directory one that earlier releases, which know of no zone besides the root
// zone, refuse to open: they would serve what they don't know as if it were the root zone's alone. It
// comes before the first other zone is made here, and is on the disk when it returns. It does nothing
// if it was done before.
func (d *Dir) RequireZones() error {
	if err := d.Store.RaiseFormat(); err != nil {
		return fmt.Errorf("keep earlier releases out of the directory: %w", err)
	}
	return nil
}
