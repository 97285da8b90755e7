package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

type statusCommand struct {
	asking
	Check bool `help:"End with status 1 unless every zone can lose any one of its voters now: for monitoring."`
}

func (*statusCommand) Help() string {
	return `Asks the endpoints, and every node that they name as a replica, all at once. Prints a table for
each zone, whether it is in sync, which one of its nodes can be lost for good now, and what to
do if some can't. LAG is how many entries of the leader's log a node is not known to have on
its disk; SILENT is a node that the leader does not hear, and a node that "does not answer"
is one that can't be reached from here. Where that leaves doubts it asks twice. It fails if no endpoint answers.

With --json: one object, with each answer as it came, and the verdict on each zone.

Examples:

  nexus-raft status --endpoints 127.0.0.1:2026,127.0.0.1:2036
  nexus-raft status --check --json`
}

// answer is what one node said.
type answer struct {
	Endpoint string                `json:"endpoint"`
	Error    string                `json:"error,omitempty"`
	Status   *nexusraft.NodeStatus `json:"status,omitempty"`
}

// zoneReport is the verdict on one zone.
type zoneReport struct {
	Cluster nexusraft.ClusterID `json:"cluster"`
	Zone    nexusraft.ZoneID    `json:"zone"`
	Leader  nexusraft.NodeID    `json:"leader,omitzero"` // 0 if none answers
	Sync    nexusraft.SyncState `json:"sync,omitempty"`
	Since   time.Time           `json:"sync_since,omitzero"`
	verdict
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
	answers := conn.Survey(ctx)
	views, others := zoneViews(answers)
	if slices.ContainsFunc(views, zoneView.unsettled) {
		sleep(ctx, silenceTime)
		answers = conn.Survey(ctx)
		views, others = zoneViews(answers)
	}
	r := newReport(answers, views)
	if c.JSON {
		err = printJSON(s.out, r)
	} else {
		err = printReport(s.out, r, views, others)
	}
	if err != nil {
		return err
	}
	return c.judge(ctx, r)
}

// silenceTime is above the time after which a leader calls a replica silent, and its
// followers another leader.
const silenceTime = time.Second

// unsettled reports whether the zone may look different in a moment: no leader answers, or
// the leader hears a replica that does not answer here, or the other way round.
func (v zoneView) unsettled() bool {
	return v.leader == nil || slices.ContainsFunc(v.rows, func(r row) bool { return (r.own == nil) != r.silent() })
}

// judge returns why the command failed, if it did.
func (c *statusCommand) judge(ctx context.Context, r report) error {
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
	case c.Check && len(r.Zones) == 0:
		return errors.New("status: the nodes that answer have no zone")
	case c.Check && len(weak) > 0:
		return fmt.Errorf("status: can't lose any one node now: zone %s", strings.Join(weak, ", "))
	}
	return nil
}

func newReport(answers []client.Answer, views []zoneView) (r report) {
	for _, a := range answers {
		x := answer{Endpoint: a.Address}
		if a.Err != nil {
			x.Error = cause(a)
		} else {
			x.Status = &a.Status
		}
		r.Answers = append(r.Answers, x)
	}
	for _, v := range views {
		z := zoneReport{Cluster: v.cluster, Zone: v.zone, verdict: assess(v)}
		if v.leader != nil {
			m, _ := v.membership.Replica(v.leader.Replica)
			z.Leader, z.Sync, z.Since = m.Node, v.leader.Sync, v.leader.SyncSince
		}
		r.Zones = append(r.Zones, z)
	}
	return r
}

// cause is why an address did not answer, without the address.
func cause(a client.Answer) string {
	text := strings.TrimPrefix(a.Err.Error(), "client: ")
	return strings.TrimPrefix(text, a.Address+": ")
}

func printReport(w io.Writer, r report, views []zoneView, others []client.Answer) error {
	for i, v := range views {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := printZone(w, v); err != nil {
			return err
		}
		for _, line := range r.Zones[i].lines() {
			if _, err := fmt.Fprintln(w, line); err != nil {
				return err
			}
		}
	}
	for _, a := range others {
		if _, err := fmt.Fprintf(w, "%s: %s\n", a.Address, otherText(a)); err != nil {
			return err
		}
	}
	return nil
}

// otherText says what is to be said of an answer that no zone's table has.
func otherText(a client.Answer) string {
	if a.Err != nil {
		return "no answer: " + cause(a)
	}
	kind := "member"
	if a.Status.Witness {
		kind = "witness"
	}
	text := fmt.Sprintf("%s %s (%v), which is in none of the zones above", kind, cmp.Or(printable(a.Status.Name), "without a name"), a.Status.Node)
	if a.Status.Problem != "" {
		text += ": " + printable(a.Status.Problem)
	}
	return text
}

func printZone(w io.Writer, v zoneView) error {
	fmt.Fprintf(w, "zone %v of cluster %v: %s\n", v.zone, v.cluster, v.syncText(time.Now()))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tNODE\tROLE\tSTATE\tTERM\tCOMMIT\tAPPLIED\tLAG\tDISK\tADDRESS\tHEALTH")
	for _, r := range v.rows {
		fmt.Fprintln(t, strings.Join(v.cells(r), "\t"))
	}
	return t.Flush()
}

// shortNode is how many digits of a node's ID a table shows; they will do where one is asked for.
const shortNode = 8

func (v zoneView) cells(r row) []string {
	name := cmp.Or(printable(r.Name), "-")
	term, commit, applied, disk, health := "-", "-", "-", "-", "does not answer"
	switch {
	case r.heir != 0:
		health = "does not answer; its address is now node " + r.heir.String()[:shortNode]
	case r.err != nil:
		health = "does not answer: " + cause(client.Answer{Address: r.Address, Err: r.err})
	}
	if r.own != nil {
		term, commit, applied = fmt.Sprint(r.own.Term), fmt.Sprint(r.own.Commit), fmt.Sprint(r.own.Applied)
	}
	if r.node != nil {
		disk, health = size(r.node.DiskBytes), "healthy"
		if r.node.Problem != "" {
			health = "PROBLEM: " + printable(r.node.Problem)
		}
		if until := r.node.CertificateUntil; !until.IsZero() {
			health += "; certificate until " + until.Local().Format(time.DateOnly)
		}
	}
	if r.own != nil {
		health += snapshotsText(r.own.Snapshots)
	}
	return []string{name, r.Node.String()[:shortNode], string(r.Role), v.state(r), term, commit, applied, v.lagText(r), disk, r.Address, health}
}

// snapshotsText says which snapshots are on their way, and how far they are.
func snapshotsText(list []nexusraft.SnapshotStatus) string {
	var b strings.Builder
	for _, s := range list {
		way := "from"
		if s.Sending {
			way = "to"
		}
		fmt.Fprintf(&b, "; snapshot %s %s: %s", way, s.Peer.String()[:shortNode], size(int64(min(s.Bytes, math.MaxInt64))))
	}
	return b.String()
}

func (v zoneView) lagText(r row) string {
	n, ok := v.lag(r)
	if !ok {
		return "-"
	}
	return fmt.Sprint(n)
}

// state is a replica's state in Raft, and whether the leader hears it.
func (v zoneView) state(r row) string {
	switch {
	case r.seen != nil && !r.seen.Active:
		return "SILENT"
	case r.own == nil && r.seen != nil:
		return "active"
	case r.own == nil:
		return "unknown"
	case v.leads(r):
		return "LEADER"
	}
	return string(r.own.State)
}

// syncText says how the zone's copies stand.
func (v zoneView) syncText(now time.Time) string {
	if v.leader == nil {
		return "NO LEADER answers"
	}
	z := v.leader
	since := ""
	if !z.SyncSince.IsZero() {
		since = fmt.Sprintf(" since %s (%v)", z.SyncSince.Local().Format(time.DateTime), max(0, now.Sub(z.SyncSince)).Round(time.Second))
	}
	if z.Sync == nexusraft.Degraded {
		return fmt.Sprintf("DEGRADED%s, from index %d on writes may be on one copy only", since, z.SyncIndex)
	}
	return string(z.Sync) + since
}

// size is a number of bytes for people.
func size(bytes int64) string {
	const k = 1 << 10
	switch {
	case bytes < k:
		return fmt.Sprintf("%d B", bytes)
	case bytes < k*k:
		return fmt.Sprintf("%d KiB", bytes/k)
	case bytes < k*k*k:
		return fmt.Sprintf("%d MiB", bytes/k/k)
	}
	return fmt.Sprintf("%.1f GiB", float64(bytes)/k/k/k)
}
