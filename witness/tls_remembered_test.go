package witness

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/peering"
)

// What the record says of how a directory has been served is what peering goes by. (S7)
func TestServedWithTLSBefore(t *testing.T) {
	for _, tc := range []struct {
		what string
		r    identityRecord
		want peering.TLSMode
	}{
		{"without it", identityRecord{Cluster: 1}, peering.Plain},
		{"with the cluster's certificates", identityRecord{Cluster: 1, Key: []byte("k"), Files: true}, peering.ClustersOwn},
		{"with files", identityRecord{Cluster: 1, Files: true}, peering.FromFiles},
	} {
		if got := tc.r.tlsMode(); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.what, got, tc.want)
		}
	}
	f := NewMemFS()
	must(f.MkdirAll("d"))
	content, err := json.Marshal(identityRecord{
		Node: 7, Incarnation: 1, Cluster: 1, Zones: []nexusraft.ZoneID{1}, Files: true,
	})
	must(err)
	_, err = createSlots(f, "d", identityName, content)
	must(err)
	if _, err := Open(Config{Dir: "d", FS: f}); !errors.Is(err, nexusraft.ErrRefused) ||
		!strings.Contains(err.Error(), "--tls-cert") {
		t.Errorf("served with files, now without: got %v, want ErrRefused with the flags", err)
	}
}
