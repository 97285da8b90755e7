package nexusraft_test

import (
	"strings"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func TestSubscriptionWants(t *testing.T) {
	for _, tc := range []struct {
		topics, types string
		topic, kind   string
		want          bool
	}{
		{"", "", "anything", "at all", true},
		{"member", "", "member", "added", true},
		{"member", "", "member/added", "x", true},
		{"member/", "", "member/added", "x", true},
		{"member", "", "members", "x", false},
		{"member/added", "", "member", "x", false},
		{"key member", "", "member", "x", true},
		{"key sync", "", "member", "x", false},
		{"", "put", "key", "put", true},
		{"", "put", "key", "delete", false},
		{"", "put delete", "key", "delete", true},
		{"", "put", "key", "put/x", false},
		{"key", "put", "key", "put", true},
		{"key", "put", "key", "delete", false},
		{"key", "put", "member", "put", false},
		{"/", "", "anything", "x", true},
	} {
		s := nexusraft.Subscription{Topics: strings.Fields(tc.topics), Types: strings.Fields(tc.types)}
		if got := s.Wants(tc.topic, tc.kind); got != tc.want {
			t.Errorf("topics %q, types %q: %s %s: got %t, want %t", tc.topics, tc.types, tc.topic, tc.kind, got, tc.want)
		}
	}
}
