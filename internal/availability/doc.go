// Package availability says, from the answers of a zone's nodes, which of its voters can be lost
// now, and what to do if some can't; and prints that. It makes no calls.
//
// Its parts: zone_from_answers.go puts the answers together, links.go finds the links that don't
// work both ways, losable.go has the rules, table.go the tables, zone_groups.go
// the lines for many zones.
package availability
