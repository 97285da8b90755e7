package main

import nexusraft "github.com/nexi-lab/nexus-raft"

// printable is nexusraft.Printable.
func printable(s string) string { return nexusraft.Printable(s) }
