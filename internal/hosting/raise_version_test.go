package hosting

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/storage"
)

// versionZone is a root zone of a state that leaders share, with two members, a learner and a witness.
type versionZone struct {
	state   *storage.Overlay
	members nexusraft.Membership
	failing error // what commands fail with
	raised  []uint32
}

func newVersionZone(t *testing.T) *versionZone {
	t.Helper()
	store, err := storage.Open("data", &storage.Options{FS: storage.NewMemFS()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	z := &versionZone{state: storage.NewOverlay(store.Default())}
	for node, role := range map[nexusraft.NodeID]nexusraft.Role{
		1: nexusraft.RoleMember, 2: nexusraft.RoleMember, 3: nexusraft.RoleLearner, 4: nexusraft.RoleWitness,
	} {
		z.members = z.members.With(nexusraft.Member{
			Replica: nexusraft.ReplicaID(node), Node: node, Address: fmt.Sprintf("h%d:1", node), Role: role,
		})
	}
	return z
}

func (z *versionZone) Command(_ context.Context, c *pb.NodeCommand) ([]byte, error) {
	if z.failing != nil {
		return nil, z.failing
	}
	if raise := c.GetRaiseClusterVersion(); raise != nil {
		z.raised = append(z.raised, raise.GetMinor())
	}
	b, err := proto.Marshal(c)
	if err != nil {
		return nil, err
	}
	r, err := system.Apply(z.state, nil, 1, 1, b)
	answer, _ := system.CutAnswer(r.Answer)
	return answer, errors.Join(err, r.Refused)
}

func (z *versionZone) ReadLocal(fn func(nexusraft.Reader) error) error {
	return fn(z.state)
}

func (z *versionZone) Read(_ context.Context, fn func(nexusraft.Reader) error) error {
	return fn(z.state)
}

func (z *versionZone) Members() (nexusraft.Membership, error) { return z.members, nil }

func (z *versionZone) LeadsIn() nexusraft.Term { return 1 }

// version is the cluster's.
func (z *versionZone) version(t *testing.T) uint32 {
	t.Helper()
	version, err := system.ClusterVersion(z.state)
	if err != nil {
		t.Fatal(err)
	}
	return version
}

// spoken is what the nodes have said that they speak.
type spoken struct {
	mu sync.Mutex
	by map[nexusraft.NodeID]uint32
}

func (s *spoken) say(node nexusraft.NodeID, minor uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.by[node] = minor
}

func (s *spoken) Speaks(node nexusraft.NodeID) (uint32, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	minor, ok := s.by[node]
	return minor, ok
}

// leader is a service whose node leads z, and its log.
func leader(z *versionZone, s *spoken) (*Registry, *bytes.Buffer) {
	log := &bytes.Buffer{}
	return New(Options{Zone: z, Logger: slog.New(slog.NewTextHandler(log, nil)), Speaks: s.Speaks}), log
}

// TestRaiseVersion: the version rises when the first zone is wanted, once, if each node of the root zone
// has said that it speaks it; otherwise the refusal names the node, and nothing is done.
func TestRaiseVersion(t *testing.T) {
	for name, tc := range map[string]struct {
		spoken map[nexusraft.NodeID]uint32
		says   string // of the refusal; "" if it is raised
	}{
		"all speak it":              {map[nexusraft.NodeID]uint32{1: 4, 2: 4, 3: 4, 4: 4}, ""},
		"some speak more":           {map[nexusraft.NodeID]uint32{1: 7, 2: 6, 3: 5, 4: 7}, ""},
		"all but the witness do":    {map[nexusraft.NodeID]uint32{1: 7, 2: 7, 3: 7, 4: 5}, ""},
		"a member is silent":        {map[nexusraft.NodeID]uint32{1: 4, 3: 4, 4: 4}, "0002 has not been heard of"},
		"a learner is silent":       {map[nexusraft.NodeID]uint32{1: 4, 2: 4, 4: 4}, "0003 has not"},
		"the witness is silent":     {map[nexusraft.NodeID]uint32{1: 4, 2: 4, 3: 4}, "0004 has not"},
		"a member is older":         {map[nexusraft.NodeID]uint32{1: 4, 2: 3, 3: 4, 4: 4}, "0002 speaks version 3"},
		"a learner is older":        {map[nexusraft.NodeID]uint32{1: 4, 2: 4, 3: 3, 4: 4}, "node 0000000000000003 speaks"},
		"the witness is older":      {map[nexusraft.NodeID]uint32{1: 4, 2: 4, 3: 4, 4: 3}, "node 0000000000000004 speaks"},
		"one is of the first":       {map[nexusraft.NodeID]uint32{1: 4, 2: 4, 3: 0, 4: 4}, "0003 speaks version 0"},
		"this program is the older": {map[nexusraft.NodeID]uint32{1: 3, 2: 4, 3: 4, 4: 4}, "node 0000000000000001 speaks"},
		"a node of no zone":         {map[nexusraft.NodeID]uint32{1: 4, 2: 4, 3: 4, 4: 4, 5: 3}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			z := newVersionZone(t)
			s, log := leader(z, &spoken{by: tc.spoken})
			s.tend(t.Context(), 1)
			if z.raised != nil {
				t.Fatalf("raised to %v before a zone is wanted", z.raised)
			}
			for i := range 3 {
				_, err := s.Create(t.Context(), fmt.Sprintf("zone-%d", i), "kv", nexusraft.ZonePlan{})
				if tc.says == "" && err != nil || tc.says != "" && (!errors.Is(err, nexusraft.ErrRefused) ||
					!strings.Contains(err.Error(), tc.says)) {
					t.Errorf("create: got %v, want it to say %q", err, tc.says)
				}
			}
			want := []uint32{system.ZonesVersion}
			if tc.says != "" {
				want = nil
			}
			if fmt.Sprint(z.raised) != fmt.Sprint(want) {
				t.Errorf("raised to %v, want %v", z.raised, want)
			}
			if said := strings.Count(log.String(), "cluster version raised"); said != len(want) {
				t.Errorf("%d lines say that it was raised, want %d:\n%s", said, len(want), log)
			}
		})
	}
}

// TestRaiseVersionLater: a node that is replaced in time is all that is needed, and what failed is tried
// again by the next one that wants a zone.
func TestRaiseVersionLater(t *testing.T) {
	z, said := newVersionZone(t), &spoken{by: map[nexusraft.NodeID]uint32{1: 4, 2: 3, 3: 4, 4: 4}}
	s, log := leader(z, said)
	create := func(want error) {
		t.Helper()
		if _, err := s.Create(t.Context(), "a-zone", "kv", nexusraft.ZonePlan{}); !errors.Is(err, want) {
			t.Errorf("create: got %v, want %v", err, want)
		}
	}
	create(nexusraft.ErrRefused)
	said.say(2, 4)
	z.failing = nexusraft.ErrNoQuorum
	create(nexusraft.ErrNoQuorum)
	if z.raised != nil || strings.Contains(log.String(), "raised") {
		t.Fatalf("raised to %v too early:\n%s", z.raised, log)
	}
	z.failing = nil
	create(nil)
	if fmt.Sprint(z.raised) != "[4]" || z.version(t) != 4 {
		t.Errorf("raised to %v, version %d, want 4, once", z.raised, z.version(t))
	}
}

// TestRaiseVersionFurther: the version rises to what all nodes speak, also from one that is enough for what is
// wanted, and where some speak less that is no refusal.
func TestRaiseVersionFurther(t *testing.T) {
	z, said := newVersionZone(t), &spoken{by: map[nexusraft.NodeID]uint32{1: 6, 2: 6, 3: 6, 4: 5}}
	s, _ := leader(z, said)
	want := func(raised string) {
		t.Helper()
		for range 2 {
			if err := s.RequireVersion(t.Context()); err != nil || fmt.Sprint(z.raised) != raised {
				t.Fatalf("raised to %v, %v, want %s", z.raised, err, raised)
			}
		}
	}
	want("[4]")
	delete(said.by, 3)
	want("[4]")
	said.say(3, 6)
	said.say(4, 3)
	want("[4]")
	said.say(4, 7)
	want("[4 6]")
	said.say(4, 3)
	want("[4 6]")
}

// TestRaiseVersionAtOnce: an earlier cluster of nodes that all run this release skips what is between.
func TestRaiseVersionAtOnce(t *testing.T) {
	z := newVersionZone(t)
	s, _ := leader(z, &spoken{by: map[nexusraft.NodeID]uint32{1: 6, 2: 6, 3: 6, 4: 6}})
	if err := s.RequireVersion(t.Context()); err != nil || z.version(t) != system.NewestVersion {
		t.Errorf("version %d, %v, want %d", z.version(t), err, system.NewestVersion)
	}
}

// TestWarnsOfDowngradedNodes: a node on which an earlier program was put back is named, once for each
// time, and nothing else is done.
func TestWarnsOfDowngradedNodes(t *testing.T) {
	z, said := newVersionZone(t), &spoken{by: map[nexusraft.NodeID]uint32{1: 4, 2: 4, 3: 4, 4: 3}}
	s, log := leader(z, said)
	s.tend(t.Context(), 1)
	if log.Len() > 0 {
		t.Errorf("before the version is raised: %s", log)
	}
	said.say(4, 4)
	if _, err := s.Create(t.Context(), "a-zone", "kv", nexusraft.ZonePlan{}); err != nil {
		t.Fatal(err)
	}
	warnings := func(want int) {
		t.Helper()
		s.tend(t.Context(), 1)
		s.tend(t.Context(), 1)
		if got := strings.Count(log.String(), "level=WARN"); got != want {
			t.Errorf("%d warnings, want %d:\n%s", got, want, log)
		}
	}
	warnings(0)
	said.say(2, 3)
	warnings(1)
	if line := log.String(); !strings.Contains(line, "peer=0000000000000002 addr=h2:1 minor=3 version=4") {
		t.Errorf("the warning does not name the node and both versions:\n%s", line)
	}
	said.say(2, 4)
	warnings(1)
	said.say(2, 3)
	warnings(2)
	if fmt.Sprint(z.raised) != "[4]" {
		t.Errorf("raised to %v, want 4, once", z.raised)
	}
}
