package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Answer is what the node at an address said of itself, or why it said nothing.
type Answer struct {
	Address string
	Status  nexusraft.NodeStatus // the zero value if Err is not nil
	Err     error
}

// maxSurvey bounds how many addresses a survey asks: what it learns is other nodes' word.
const maxSurvey = 4 * nexusraft.MaxMembers

// Survey asks the endpoints for their status and then every address that they name as a
// replica's, and so on; those known at a time all at once, each within the client's
// timeouts. The answers come in the order in which the addresses became known.
func (c *Client) Survey(ctx context.Context) []Answer { return c.survey(ctx, 0) }

// SurveyZone is Survey of one zone: the answers have no other, and nodes with thousands of zones don't
// send them all. A node without a replica of it answers, too.
func (c *Client) SurveyZone(ctx context.Context, zone nexusraft.ZoneID) []Answer {
	answers := c.survey(ctx, zone)
	for i := range answers {
		zones := &answers[i].Status.Zones
		*zones = slices.DeleteFunc(*zones, func(z nexusraft.ZoneStatus) bool { return z.Zone != zone })
	}
	return answers
}

// survey asks for all zones, or for one and for the root zone, which names all nodes.
func (c *Client) survey(ctx context.Context, only nexusraft.ZoneID) (answers []Answer) {
	known := make(map[string]bool)
	next := c.opts.Endpoints
	for len(next) > 0 {
		var fresh []string
		for _, address := range next {
			if !known[address] && len(known) < maxSurvey {
				known[address] = true
				fresh = append(fresh, address)
			}
		}
		got := c.statuses(ctx, fresh, only)
		answers = append(answers, got...)
		next = addresses(got)
	}
	return answers
}

func (c *Client) statuses(ctx context.Context, at []string, only nexusraft.ZoneID) []Answer {
	answers := make([]Answer, len(at))
	var asking sync.WaitGroup
	for i, address := range at {
		asking.Go(func() {
			status, err := c.status(ctx, address, only)
			answers[i] = Answer{Address: address, Status: status, Err: err}
		})
	}
	asking.Wait()
	return answers
}

// addresses returns the addresses of the replicas that the answers name.
func addresses(answers []Answer) []string {
	var out []string
	for _, a := range answers {
		for _, z := range a.Status.Zones {
			for _, m := range z.Membership.Members {
				if m.Address != "" {
					out = append(out, m.Address)
				}
			}
		}
	}
	return out
}

// findLeader returns the zone as its leader sees it, and the leader's address. It tries until ctx
// ends.
func (c *Client) findLeader(ctx context.Context) (nexusraft.ZoneStatus, string, error) {
	for w := c.waiting(); ; {
		if ctx.Err() != nil {
			return nexusraft.ZoneStatus{}, "", fmt.Errorf("client: %w", ctx.Err())
		}
		answers := c.SurveyZone(ctx, c.opts.Zone)
		view, address, err := leaderOf(c.opts.Zone, answers)
		if err == nil || !errors.Is(err, errNoLeader) {
			return view, address, err
		}
		if err := w.wait(ctx, err); err != nil {
			return nexusraft.ZoneStatus{}, "", err
		}
	}
}

// errNoLeader: no node that answers leads the zone; one may in a while.
var errNoLeader = errors.New("no leader answers")

// leaderOf returns the leader's status of a zone and the leader's address. The error is errNoLeader
// if another survey may find one.
func leaderOf(zone nexusraft.ZoneID, answers []Answer) (nexusraft.ZoneStatus, string, error) {
	if err := oneCluster(answers); err != nil {
		return nexusraft.ZoneStatus{}, "", err
	}
	var views []nexusraft.ZoneStatus
	var from, said []string
	found, silent := false, false
	for _, a := range answers {
		silent = silent || a.Err != nil
		i := slices.IndexFunc(a.Status.Zones, func(z nexusraft.ZoneStatus) bool { return z.Zone == zone })
		if i >= 0 {
			views, from = append(views, a.Status.Zones[i]), append(from, a.Address)
			found = true
		}
		said = append(said, sayOf(zone, a, i))
	}
	if i := nexusraft.LeaderView(views); i >= 0 {
		return views[i], from[i], nil
	}
	err := errNoLeader
	if !found && !silent {
		err = nexusraft.ErrZoneNotFound
	}
	return nexusraft.ZoneStatus{}, "", fmt.Errorf("client: zone %v: %w: %s", zone, err, strings.Join(said, "; "))
}

// oneCluster refuses answers from several clusters: a change might reach the wrong one.
func oneCluster(answers []Answer) error {
	var first Answer
	for _, a := range answers {
		switch {
		case a.Status.Cluster == 0:
		case first.Status.Cluster == 0:
			first = a
		case a.Status.Cluster != first.Status.Cluster:
			return fmt.Errorf("client: %s belongs to cluster %v and %s to cluster %v; name endpoints of one",
				first.Address, first.Status.Cluster, a.Address, a.Status.Cluster)
		}
	}
	return nil
}

// sayOf sums up an answer for people; i is the zone's index in it, -1 if it is not there.
func sayOf(zone nexusraft.ZoneID, a Answer, i int) string {
	switch {
	case a.Err != nil:
		return strings.TrimPrefix(a.Err.Error(), "client: ")
	case a.Status.Problem != "":
		return fmt.Sprintf("%s: %s", a.Address, a.Status.Problem)
	case i < 0:
		return fmt.Sprintf("%s: no replica of zone %v", a.Address, zone)
	}
	z := a.Status.Zones[i]
	if m, ok := z.Membership.Replica(z.Leader); ok {
		return fmt.Sprintf("%s: %s in term %d, led by %v at %s", a.Address, z.State, z.Term, m, m.Address)
	}
	return fmt.Sprintf("%s: %s in term %d, knows no leader", a.Address, z.State, z.Term)
}

// waiter paces what is tried again.
type waiter struct {
	client *Client
	delay  time.Duration
}

func (c *Client) waiting() *waiter { return &waiter{client: c, delay: minBackoff} }

// wait says why and waits, longer each time. Its error is that ctx has ended.
func (w *waiter) wait(ctx context.Context, reason error) error {
	if ctx.Err() == nil && w.client.opts.OnWait != nil {
		w.client.opts.OnWait(reason)
	}
	pause(ctx, w.delay)
	w.delay = min(2*w.delay, maxBackoff)
	if ctx.Err() != nil {
		return gaveUp(ctx, true, []error{reason})
	}
	return nil
}
