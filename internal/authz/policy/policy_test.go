package policy

import (
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

func TestOf(t *testing.T) {
	admin := nexusraft.Permission{Role: nexusraft.AccessAdmin, In: nexusraft.InRootZone}
	for method, want := range map[string]Policy{
		pb.Cluster_Join_FullMethodName:        {Callers: pb.Callers_CALLERS_ANYBODY},
		pb.Zones_Propose_FullMethodName:       {Callers: pb.Callers_CALLERS_NODES},
		pb.Access_Grant_FullMethodName:        OfClients(admin),
		pb.EventStream_Publish_FullMethodName: OfClients(nexusraft.Permission{Role: nexusraft.AccessWrite}),
		pb.Cluster_Status_FullMethodName: {
			pb.Callers_CALLERS_CLIENTS_AND_NODES,
			nexusraft.Permission{Role: nexusraft.AccessRead, In: nexusraft.InAnyZone},
		},
	} {
		if got, ok := Of(method); !ok || got != want {
			t.Errorf("%s: got %+v, %t, want %+v", method, got, ok, want)
		}
	}
}

// A method of a later release is for those that its service is for, if they are nodes or anybody:
// a node that is asked says that it does not know it, as any server does.
func TestOfUnknownMethods(t *testing.T) {
	for method, want := range map[string]pb.Callers{
		"/nexusraft.v1.RaftTransport/Later": pb.Callers_CALLERS_NODES,
		"/grpc.health.v1.Health/Later":      pb.Callers_CALLERS_ANYBODY,
		"/nexusraft.v1.Cluster/Later":       pb.Callers_CALLERS_UNSPECIFIED,
		"/nexusraft.v1.Access/Later":        pb.Callers_CALLERS_UNSPECIFIED,
		"/app.Service/Method":               pb.Callers_CALLERS_UNSPECIFIED,
		"/etcdserverpb.KV/Put":              pb.Callers_CALLERS_UNSPECIFIED, // unless this module serves it
		"":                                  pb.Callers_CALLERS_UNSPECIFIED,
	} {
		if got, ok := Of(method); ok || got.Callers != want || got.Role != nexusraft.AccessNone {
			t.Errorf("%s: got %+v, %t, want %v", method, got, ok, want)
		}
	}
}

// A program says what its own methods ask, and those of etcd that it serves, of no other.
func TestIsFixed(t *testing.T) {
	for method, want := range map[string]bool{
		pb.Cluster_Status_FullMethodName: true, "/grpc.health.v1.Health/Check": true, "/app.Service/Method": false,
		"/nexusraft.v1.RaftTransport/Later": true, "/etcdserverpb.KV/Put": false, "/etcdserverpb.Lease/Grant": false,
	} {
		if got := IsFixed(method); got != want {
			t.Errorf("%s: got %t", method, got)
		}
	}
}
