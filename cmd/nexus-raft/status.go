package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
	"github.com/nexi-lab/nexus-raft/internal/availability"
)

type statusCommand struct {
	asking
	Zone  *zoneFlag `help:"Only this zone, by its name or its ID." env:"-" placeholder:"NAME"`
	All   bool      `help:"A table for each zone, however many there are." env:"-"`
	Check bool      `help:"End with status 1 unless every zone can lose any one of its voters now: for monitoring."`
}

func (*statusCommand) Help() string {
	return `Asks the endpoints, and every node that they name as a replica, all at once. Prints a table for
each zone, whether it is in sync, which one of its nodes can be lost for good now, and what to
do if some can't. LAG is how many entries of the leader's log a node is not known to have on
its disk. SILENT is a node that the leader does not hear; a node that "does not answer" can't be
reached from here. A line "link:" is about two nodes of which one can't call the other: what works,
what does not, and what to check. If the answers contradict each other, it asks twice. It fails if
no endpoint answers.

Of more than 8 zones only the root zone has its table; the others have a line for each group of them that
is in the same state, those that can't lose any one node first. --zone shows one, --all each of them.

With --json: one object, with each answer as it came, and for each zone what it can lose; of all zones,
or of the one that --zone names.

Examples:

  nexus-raft status --endpoints 127.0.0.1:2026,127.0.0.1:2036
  nexus-raft status --zone orders
  nexus-raft status --check --json`
}

// answer is what one node said.
type answer struct {
	Endpoint string                `json:"endpoint"`
	Error    string                `json:"error,omitempty"`
	Status   *nexusraft.NodeStatus `json:"status,omitempty"`
}

// zoneReport is what status says of one zone.
type zoneReport struct {
	Cluster nexusraft.ClusterID `json:"cluster"`
	Zone    nexusraft.ZoneID    `json:"zone"`
	Name    string              `json:"name,omitempty"`  // of the zone, if it is known
	Leader  nexusraft.NodeID    `json:"leader,omitzero"` // 0 if none answers
	Sync    nexusraft.SyncState `json:"sync,omitempty"`
	Since   time.Time           `json:"sync_since,omitzero"`
	availability.Report
}

// report is everything that status has found out.
type report struct {
	Answers []answer     `json:"answers"`
	Zones   []zoneReport `json:"zones"`
}

func (c *statusCommand) Run(ctx context.Context, s streams) error {
	conn, err := c.client(client.Options{DialTimeout: c.Timeout, AttemptTimeout: c.Timeout})
	if err != nil {
		return err
	}
	defer conn.Close()
	if c.Zone != nil {
		if err := c.Zone.find(ctx, &c.asking); err != nil {
			return err
		}
	}
	answers, zones, others := c.survey(ctx, conn)
	if slices.ContainsFunc(zones, availability.Zone.Unsettled) {
		sleep(ctx, silenceTime)
		answers, zones, others = c.survey(ctx, conn)
	}
	c.nameZones(ctx, conn, zones)
	r := newReport(answers, zones)
	if c.JSON {
		err = printJSON(s.out, r)
	} else {
		err = availability.Print(s.out, zones, others, c.All)
	}
	if err != nil {
		return err
	}
	return c.failure(ctx, r)
}

// survey returns what the nodes answer: of all zones, or of the one that was asked for. Others are
// answers of nodes that are in none.
func (c *statusCommand) survey(
	ctx context.Context, conn *client.Client,
) (answers []client.Answer, zones []availability.Zone, others []client.Answer) {
	if c.Zone != nil {
		answers = conn.SurveyZone(ctx, c.Zone.id)
	} else {
		answers = conn.Survey(ctx)
	}
	zones, others = availability.Zones(answers)
	return answers, zones, others
}

// nameZones gives zones their names as far as they can be had at once: nodes answer with IDs, and the root
// zone, which has the names, may be without a leader.
func (c *statusCommand) nameZones(ctx context.Context, conn *client.Client, zones []availability.Zone) {
	names := map[nexusraft.ZoneID]string{}
	if c.Zone != nil && c.Zone.name != "" {
		names[c.Zone.id] = c.Zone.name
	}
	unnamed, led := false, c.Zone != nil // of one zone alone, it is not known whether the root zone has a leader
	for _, v := range zones {
		root := v.Zone == nexusraft.RootZone
		unnamed = unnamed || !root && names[v.Zone] == ""
		led = led || root && v.Leader != nil
		if v.Cluster != zones[0].Cluster { // the names are those of one cluster
			return
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	switch {
	case !unnamed || !led:
	case c.Zone != nil:
		if info, err := conn.Zone(ctx, c.Zone.id); err == nil {
			names[info.ID] = info.Name
		}
	default:
		names, _ = zoneNames(ctx, conn)
	}
	for i, v := range zones {
		if v.Zone != nexusraft.RootZone {
			zones[i].Name = names[v.Zone]
		}
	}
}

// silenceTime is above the time after which a leader calls a replica silent, and its
// followers another leader.
const silenceTime = time.Second

// failure returns why the command failed, if it did.
func (c *statusCommand) failure(ctx context.Context, r report) error {
	answered, weak := false, []string(nil)
	for _, a := range r.Answers {
		answered = answered || a.Status != nil
	}
	for _, z := range r.Zones {
		if !z.Any {
			weak = append(weak, z.Zone.String())
		}
	}
	switch {
	case ctx.Err() != nil:
		return errors.New("status: interrupted")
	case !answered:
		return errors.New("status: no endpoint answered")
	case c.Zone != nil && len(r.Zones) == 0:
		return fmt.Errorf("status: no node that answers has a replica of %v; nexus-raft zone list shows which zones there "+
			"are", *c.Zone)
	case c.Check && len(r.Zones) == 0:
		return errors.New("status: the nodes that answer have no zone")
	case c.Check && len(weak) > 0:
		return fmt.Errorf("status: can't lose any one node now: zone %s", briefly(weak))
	}
	return nil
}

func newReport(answers []client.Answer, zones []availability.Zone) (r report) {
	for _, a := range answers {
		x := answer{Endpoint: a.Address}
		if a.Err != nil {
			x.Error = availability.Cause(a)
		} else {
			x.Status = &a.Status
		}
		r.Answers = append(r.Answers, x)
	}
	for _, v := range zones {
		z := zoneReport{Cluster: v.Cluster, Zone: v.Zone, Name: v.Name, Report: availability.Assess(v)}
		if v.Leader != nil {
			m, _ := v.Membership.Replica(v.Leader.Replica)
			z.Leader, z.Sync, z.Since = m.Node, v.Leader.Sync, v.Leader.SyncSince
		}
		r.Zones = append(r.Zones, z)
	}
	return r
}

// briefly lists zones for an error's text.
func briefly(zones []string) string {
	const most = 8
	if len(zones) <= most {
		return strings.Join(zones, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(zones[:most], ", "), len(zones)-most)
}
