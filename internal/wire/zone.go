package wire

import (
	"context"
	"fmt"

	"google.golang.org/grpc/metadata"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// ZoneHeader is the metadata with which a request names its zone, where its message has no room for
// that.
const ZoneHeader = "nexus-zone"

// ZoneOf returns the zone that a call's metadata names, the root zone if they name none.
func ZoneOf(ctx context.Context) (nexusraft.ZoneID, error) {
	id := nexusraft.RootZone
	switch names := metadata.ValueFromIncomingContext(ctx, ZoneHeader); len(names) {
	case 0:
	case 1:
		if err := id.UnmarshalText([]byte(names[0])); err != nil {
			return 0, fmt.Errorf("metadata %s: %w", ZoneHeader, err)
		}
	default:
		return 0, fmt.Errorf("metadata %s names %d zones", ZoneHeader, len(names))
	}
	return id, nil
}
