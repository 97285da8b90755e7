package nexusraft_test

import (
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func TestLeaderView(t *testing.T) {
	leads := func(term nexusraft.Term) nexusraft.ZoneStatus {
		return nexusraft.ZoneStatus{State: nexusraft.Leader, Term: term}
	}
	follows := func(term nexusraft.Term) nexusraft.ZoneStatus {
		return nexusraft.ZoneStatus{State: nexusraft.Follower, Term: term}
	}
	for name, tc := range map[string]struct {
		views []nexusraft.ZoneStatus
		want  int
	}{
		"nobody":                     {nil, -1},
		"followers":                  {[]nexusraft.ZoneStatus{follows(3), follows(3)}, -1},
		"a leader":                   {[]nexusraft.ZoneStatus{follows(3), leads(3), follows(3)}, 1},
		"a follower that lags":       {[]nexusraft.ZoneStatus{follows(2), leads(3)}, 1},
		"two leaders":                {[]nexusraft.ZoneStatus{leads(3), leads(4), leads(2)}, 1},
		"an overtaken leader":        {[]nexusraft.ZoneStatus{leads(3), follows(4)}, -1},
		"an overtaken leader, later": {[]nexusraft.ZoneStatus{follows(4), leads(3)}, -1},
	} {
		if got := nexusraft.LeaderView(tc.views); got != tc.want {
			t.Errorf("%s: got %d, want %d", name, got, tc.want)
		}
	}
}
