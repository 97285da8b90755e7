package wire

import (
	"testing"

	"google.golang.org/grpc/metadata"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func TestRequestOf(t *testing.T) {
	for _, tc := range []struct {
		values []string
		want   nexusraft.RequestID
		ok     bool
	}{
		{nil, nexusraft.RequestID{}, true},
		{[]string{"71/3"}, nexusraft.RequestID{Session: 71, Sequence: 3}, true},
		{[]string{RequestText(nexusraft.RequestID{Session: 1<<64 - 1, Sequence: 1})}, nexusraft.RequestID{
			Session: 1<<64 - 1, Sequence: 1,
		}, true},
		{values: []string{"71/3", "71/3"}},
		{values: []string{"0/0"}}, // would be a write without a session
		{values: []string{"71/0"}},
		{values: []string{"0/3"}},
		{values: []string{""}},
		{values: []string{"71"}},
		{values: []string{"71/"}},
		{values: []string{"71/3/1"}},
		{values: []string{"71/-3"}},
		{values: []string{"+71/3"}},
		{values: []string{"71 / 3"}},
		{values: []string{"0x47/3"}},
		{values: []string{"18446744073709551616/1"}},
	} {
		ctx := metadata.NewIncomingContext(t.Context(), metadata.MD{SessionHeader: tc.values})
		if got, err := RequestOf(ctx); got != tc.want || (err == nil) != tc.ok {
			t.Errorf("%q: got %v, %v; want %v, and no error: %t", tc.values, got, err, tc.want, tc.ok)
		}
	}
}
