package availability

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
	"github.com/nexi-lab/nexus-raft/internal/program"
)

// Print writes a table of each zone with what it can lose, which versions of the protocol the nodes
// speak if they differ, and a line for each other answer. If there are more than a few zones, those but
// the root zone, whose table has all nodes, have a line for each group of them that is in the same
// state; unless each is asked for.
func Print(w io.Writer, zones []Zone, others []client.Answer, each bool) error {
	var grouped []Zone
	if !each && len(zones) > maxTables {
		grouped = slices.DeleteFunc(slices.Clone(zones), Zone.isRoot)
		zones = slices.DeleteFunc(slices.Clone(zones), func(v Zone) bool { return !v.isRoot() })
	}
	for i, v := range zones {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := v.print(w); err != nil {
			return err
		}
		for _, line := range Assess(v).Lines() {
			if _, err := fmt.Fprintln(w, line); err != nil {
				return err
			}
		}
	}
	if len(grouped) > 0 {
		if len(zones) > 0 {
			fmt.Fprintln(w)
		}
		if err := printGroups(w, grouped); err != nil {
			return err
		}
	}
	for _, line := range versionLines(zones) {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	for _, a := range others {
		if _, err := fmt.Fprintf(w, "%s: %s\n", nexusraft.Printable(a.Address), otherText(a)); err != nil {
			return err
		}
	}
	return nil
}

// otherText says what is to be said of an answer that no zone's table has.
func otherText(a client.Answer) string {
	if a.Err != nil {
		return "no answer: " + Cause(a)
	}
	kind := "member"
	if a.Status.Witness {
		kind = "witness"
	}
	text := fmt.Sprintf("%s %s (%v), which is in none of the zones above", kind,
		cmp.Or(nexusraft.Printable(a.Status.Name), "without a name"), a.Status.Node)
	if a.Status.Problem != "" {
		text += ": " + nexusraft.Printable(a.Status.Problem)
	}
	return text
}

// print writes the table of a zone.
func (v Zone) print(w io.Writer) error {
	fmt.Fprintf(w, "zone %s of cluster %v: %s\n", v.title(), v.Cluster, v.syncText(time.Now()))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tNODE\tROLE\tSTATE\tTERM\tCOMMIT\tAPPLIED\tLAG\tDISK\tADDRESS\tHEALTH")
	for _, r := range v.Replicas {
		fmt.Fprintln(t, strings.Join(v.cells(r), "\t"))
	}
	return t.Flush()
}

// shortNode is how many digits of a node's ID a table shows; they will do where one is asked for.
const shortNode = 8

func (v Zone) cells(r Replica) []string {
	name := cmp.Or(nexusraft.Printable(r.Name), "-")
	term, commit, applied, disk, health := "-", "-", "-", "-", "does not answer"
	switch {
	case r.successor != 0:
		health = "does not answer; its address is now node " + r.successor.String()[:shortNode]
	case r.err != nil:
		health = "does not answer: " + Cause(client.Answer{Address: r.Address, Err: r.err})
	}
	if r.own != nil {
		term, commit, applied = fmt.Sprint(r.own.Term), fmt.Sprint(r.own.Commit), fmt.Sprint(r.own.Applied)
	}
	if r.node != nil {
		disk, health = program.Size(r.node.DiskBytes), "healthy"
		if r.node.Problem != "" {
			health = "PROBLEM: " + nexusraft.Printable(r.node.Problem)
		}
		if until := r.node.CertificateUntil; !until.IsZero() {
			health += "; certificate until " + until.Local().Format(time.DateOnly)
		}
	}
	switch {
	case r.own != nil:
		health += snapshotsText(r.own.Snapshots)
	case v.lacksReplica(r):
		health += "; has no replica of the zone"
	}
	return []string{
		name, r.Node.String()[:shortNode], string(r.Role), v.state(r), term, commit, applied, v.lagText(r),
		disk, r.where(), health,
	}
}

// snapshotsText says which snapshots are on their way, and how far they are.
func snapshotsText(list []nexusraft.SnapshotStatus) string {
	var b strings.Builder
	for _, s := range list {
		way := "from"
		if s.Sending {
			way = "to"
		}
		size := program.Size(int64(min(s.Bytes, math.MaxInt64)))
		fmt.Fprintf(&b, "; snapshot %s %s: %s", way, s.Peer.String()[:shortNode], size)
	}
	return b.String()
}

func (v Zone) lagText(r Replica) string {
	n, ok := v.Lag(r)
	if !ok {
		return "-"
	}
	return fmt.Sprint(n)
}

// state is a replica's state in Raft, and whether the leader hears it.
func (v Zone) state(r Replica) string {
	switch {
	case r.seen != nil && !r.seen.Active:
		return "SILENT"
	case r.own == nil && r.seen != nil:
		return "active"
	case r.own == nil:
		return "unknown"
	case v.Leads(r):
		return "LEADER"
	}
	return string(r.own.State)
}

// syncText says how the zone's copies stand.
func (v Zone) syncText(now time.Time) string {
	if v.Leader == nil {
		return "NO LEADER answers"
	}
	z := v.Leader
	since := ""
	if !z.SyncSince.IsZero() {
		since = fmt.Sprintf(" since %s (%v)", z.SyncSince.Local().Format(time.DateTime),
			max(0, now.Sub(z.SyncSince)).Round(time.Second))
	}
	if z.Sync == nexusraft.Degraded {
		return fmt.Sprintf("DEGRADED%s, from index %d on writes may be on one copy only", since, z.SyncIndex)
	}
	return string(z.Sync) + since
}

// PrintMembers writes the short table of a zone, which needs its leader's answer alone.
func (v Zone) PrintMembers(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tNODE\tROLE\tADDRESS\tSTATE\tLAG")
	for _, r := range v.Replicas {
		state := "active"
		switch {
		case v.Leads(r):
			state = "LEADER"
		case r.Silent():
			state = "SILENT"
		}
		fmt.Fprintf(t, "%s\t%v\t%s\t%s\t%s\t%s\n", cmp.Or(nexusraft.Printable(r.Name), "-"), r.Node, r.Role, r.where(), state,
			v.lagText(r))
	}
	return t.Flush()
}

// Cause is why an address did not answer, without the address.
func Cause(a client.Answer) string {
	text := strings.TrimPrefix(a.Err.Error(), "client: ")
	return nexusraft.PrintableText(strings.TrimPrefix(text, a.Address+": "))
}
