package main

import (
	"context"
	"errors"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
)

// Watch calls changed with each setting that there is, and then with each change, in order and once, until
// ctx ends or changed returns an error, which Watch returns. Where the events that come next are no
// longer kept it begins again: with all settings, of which those that were deleted meanwhile are not.
//
// n may be any member. If it loses its zone, the error is nexusraft.ErrNoQuorum: watch another one.
func Watch(ctx context.Context, n *node.Node, zone *node.Zone, changed func(Setting) error) error {
	for {
		err := watch(ctx, n, zone, changed)
		if !errors.Is(err, nexusraft.ErrGone) {
			return err
		}
	}
}

// watch subscribes before it reads: so a change is in what was read, or among the events, or in both, which
// its version shows.
func watch(ctx context.Context, n *node.Node, zone *node.Zone, changed func(Setting) error) error {
	known, read := uint64(0), false
	for batch, err := range n.Subscribe(ctx, nexusraft.Subscription{Zone: zone.ID(), Topics: []string{Topic}}) {
		if err != nil {
			return err
		}
		if !read {
			if known, err = begin(ctx, zone, changed); err != nil {
				return err
			}
			read = true
		}
		for _, e := range batch.Events {
			if e.Topic != Topic { // it stands for those that are missing
				return fmt.Errorf("%w: events are missing", nexusraft.ErrGone)
			}
			s, err := ParseEvent(e.Payload)
			if err != nil {
				return err
			}
			if s.Version <= known {
				continue
			}
			known = s.Version
			if err := changed(s); err != nil {
				return err
			}
		}
	}
	return context.Cause(ctx)
}

// begin calls changed with all settings, and returns the version that they are of.
func begin(ctx context.Context, zone *node.Zone, changed func(Setting) error) (version uint64, err error) {
	var all []Setting
	err = zone.Read(ctx, func(r nexusraft.Reader) (err error) {
		all, version, err = All(r)
		return err
	})
	for _, s := range all {
		if err == nil {
			err = changed(s)
		}
	}
	return version, err
}
