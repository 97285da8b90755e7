package storage

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// damaged makes damage that Pebble has found a nexusraft.ErrCorrupt of one line, which names the
// file, path if Pebble doesn't know better. Any other error it returns as it is.
func damaged(path string, err error) error {
	if !pebble.IsCorruptionError(err) {
		return err
	}
	if info := pebble.ExtractDataCorruptionInfo(err); info != nil {
		path, err = info.Path, info.Details
	}
	if path != "" {
		path += ": "
	}
	return fmt.Errorf("%w: %s%w", nexusraft.ErrCorrupt, path, firstLine(err))
}

// firstLine is err without what Pebble tells its developers.
func firstLine(err error) error {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return errors.New(line)
}
