package wire

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// fullStatus has no zero field, in all zones together every value of every enum.
func fullStatus() nexusraft.NodeStatus {
	member := nexusraft.Member{Replica: 1 << 63, Node: 0xa, Name: "a", Address: "a:1", Role: nexusraft.RoleMember}
	witness := nexusraft.Member{Replica: 1<<63 + 1, Node: 0xc, Name: "w", Address: "w:1", Role: nexusraft.RoleWitness}
	zone := func(id nexusraft.ZoneID, role nexusraft.Role, state nexusraft.RaftState,
		sync nexusraft.SyncState,
	) nexusraft.ZoneStatus {
		return nexusraft.ZoneStatus{
			Zone: id, Replica: 1 << 63, Role: role, State: state, Leader: 2, Term: 3, Commit: 4, Applied: 5,
			FirstIndex: 6, LastIndex: 7, Sync: sync, SyncSince: time.Unix(8, 9).UTC(), SyncIndex: 10,
			Membership: nexusraft.Membership{
				Shape:   nexusraft.Shape{Members: 2, Witnesses: 1},
				Members: []nexusraft.Member{member, witness},
				Removed: []nexusraft.Tombstone{{Replica: 11, Node: 12}},
			},
			Replicas: []nexusraft.ReplicaStatus{{Member: member, Match: 13, Active: true, State: "replicate"}},
			Snapshots: []nexusraft.SnapshotStatus{{
				Peer: 17, Sending: true, Index: 18, Bytes: 19,
				Since: time.Unix(20, 0).UTC(),
			}},
			MachineVersion: 21, Shape: nexusraft.Shape{Members: 4, Witnesses: 1}, Moving: true,
		}
	}
	return nexusraft.NodeStatus{
		Cluster: math.MaxUint64, Node: 0xa, Name: "a", Address: "a:1", Witness: true, Incarnation: 14,
		Healthy: true, Problem: "none", DiskBytes: 15, DiskFree: 16, CertificateUntil: time.Unix(17, 18).UTC(),
		Refused: map[string]uint64{"streams": 19}, Minor: 24, ClusterVersion: 25,
		MachineVersions: map[string]uint32{"": 26, "orders": 27},
		Peers: []nexusraft.PeerStatus{{
			Node: 0xc, Address: "w:1", Reached: true, Since: time.Unix(20, 21).UTC(), Error: "none",
			Heard: true, HeardAt: time.Unix(22, 23).UTC(),
		}},
		Zones: []nexusraft.ZoneStatus{
			zone(1, nexusraft.RoleMember, nexusraft.Leader, nexusraft.InSync),
			zone(2, nexusraft.RoleLearner, nexusraft.Follower, nexusraft.Closing),
			zone(3, nexusraft.RoleWitness, nexusraft.Candidate, nexusraft.Degraded),
			zone(4, nexusraft.RoleMember, nexusraft.PreCandidate, nexusraft.InSync),
		},
	}
}

// A field that is added to a status and forgotten here would be zero.
func TestFullStatusIsFull(t *testing.T) {
	st := fullStatus()
	for _, v := range []any{
		st, st.Zones[0], st.Zones[0].Membership, st.Zones[0].Membership.Members[0],
		st.Zones[0].Replicas[0], st.Peers[0],
	} {
		rv := reflect.ValueOf(v)
		for i := range rv.NumField() {
			if rv.Field(i).IsZero() {
				t.Errorf("%T: field %s is zero", v, rv.Type().Field(i).Name)
			}
		}
	}
}

func TestNodeStatusRoundTrip(t *testing.T) {
	for name, want := range map[string]nexusraft.NodeStatus{
		"full": fullStatus(), "zero": {},
		"zero zone": {Zones: []nexusraft.ZoneStatus{{}}},
	} {
		b, err := proto.Marshal(NodeStatusToProto(want))
		if err != nil {
			t.Fatalf("%s: marshal: %v", name, err)
		}
		var m pb.NodeStatus
		if err := proto.Unmarshal(b, &m); err != nil {
			t.Fatalf("%s: unmarshal: %v", name, err)
		}
		if diff := cmp.Diff(want, NodeStatusFromProto(&m)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestZoneInfoRoundTrip(t *testing.T) {
	for _, want := range []nexusraft.ZoneInfo{
		{ID: 2, Name: "orders", Machine: "kv", Created: time.Unix(7, 8).UTC()}, {},
	} {
		if diff := cmp.Diff(want, ZoneInfoFromProto(ZoneInfoToProto(want))); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestChecksumRoundTrip(t *testing.T) {
	want := nexusraft.Checksum{Applied: 1, Revision: 2, Sum: []byte{3}, Pairs: 4, Bytes: 5}
	if diff := cmp.Diff(want, ChecksumFromProto(ChecksumToProto(want))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestUnknownEnumsAreEmpty(t *testing.T) {
	for _, number := range []int32{0, -1, 99, math.MaxInt32, math.MinInt32} {
		got := ZoneStatusFromProto(&pb.ZoneStatus{
			Role: pb.Role(number), State: pb.RaftState(number),
			Sync: pb.SyncState(number),
		})
		if got.Role != "" || got.State != "" || got.Sync != "" {
			t.Errorf("%d: got role %q, state %q, sync %q, want none", number, got.Role, got.State, got.Sync)
		}
	}
	if got := RoleToProto("emperor"); got != pb.Role_ROLE_UNSPECIFIED {
		t.Errorf("RoleToProto: got %v, want unspecified", got)
	}
}

func TestAbsurdShapesAreClamped(t *testing.T) {
	got := MembershipToProto(nexusraft.Membership{Shape: nexusraft.Shape{Members: -1, Witnesses: math.MaxInt}}).GetShape()
	if got.GetMembers() != 0 || got.GetWitnesses() != math.MaxInt32 {
		t.Errorf("got %d members and %d witnesses, want 0 and %d", got.GetMembers(), got.GetWitnesses(), math.MaxInt32)
	}
}

// roundTrip sends an error over the wire.
func roundTrip(t *testing.T, err error) error {
	t.Helper()
	b, marshalErr := proto.Marshal(ErrorToProto(err))
	if marshalErr != nil {
		t.Fatalf("marshal: %v", marshalErr)
	}
	var m pb.Error
	if err := proto.Unmarshal(b, &m); err != nil {
		t.Fatalf("unmarshal: %v", err)
	}
	return ErrorFromProto(&m)
}

func TestGoneSurvives(t *testing.T) {
	want := nexusraft.GoneError{Asked: 3, Oldest: 7}
	got, ok := errors.AsType[*nexusraft.GoneError](roundTrip(t, fmt.Errorf("subscribe: %w", &want)))
	if !ok || *got != want || !errors.Is(got, nexusraft.ErrGone) {
		t.Errorf("got %v, want %v", got, &want)
	}
}

func TestEverySentinelSurvives(t *testing.T) {
	for _, row := range table {
		got := roundTrip(t, fmt.Errorf("do it: %w", row.Sentinel))
		if !errors.Is(got, row.Sentinel) || got.Error() != "do it: "+row.Sentinel.Error() {
			t.Errorf("got %v, want %v with its text", got, row.Sentinel)
		}
		for _, other := range table {
			if other != row && errors.Is(got, other.Sentinel) {
				t.Errorf("%v also matches %v", got, other.Sentinel)
			}
		}
	}
}

func TestErrorsBesideSentinels(t *testing.T) {
	if ErrorToProto(nil) != nil || ErrorFromProto(nil) != nil {
		t.Error("nil does not stay nil")
	}
	if got := roundTrip(t, errors.New("no such key")); !errors.Is(got, ErrApplication) {
		t.Errorf("got %v, want ErrApplication", got)
	}
	if got := roundTrip(t, fmt.Errorf("wait: %w", context.Canceled)); !errors.Is(got, nexusraft.ErrUncertain) {
		t.Errorf("got %v, want ErrUncertain", got)
	}
	if got := ErrorFromProto(&pb.Error{Kind: 99, Text: "from the future"}); !errors.Is(got, nexusraft.ErrUncertain) {
		t.Errorf("unknown kind: got %v, want ErrUncertain", got)
	}
	long := roundTrip(t, errors.New(strings.Repeat("é", maxErrorText)+"\xff"))
	if n := len(long.Error()); n > maxErrorText+1 || !utf8.ValidString(long.Error()) {
		t.Errorf("got a text of %d bytes, valid %t; want at most %d", n, utf8.ValidString(long.Error()), maxErrorText)
	}
}

func TestNotLeaderKeepsItsHint(t *testing.T) {
	for _, want := range []*nexusraft.NotLeaderError{{Zone: 1, Leader: 2, Address: "b:1"}, {Zone: 1}} {
		got, ok := errors.AsType[*nexusraft.NotLeaderError](roundTrip(t, fmt.Errorf("step: %w", want)))
		if !ok || *got != *want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}
