package demo

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Summary is what a demo came to. Times are in milliseconds.
type Summary struct {
	Directory string  `json:"directory"`
	Kill      Kill    `json:"kill"`
	Seconds   float64 `json:"seconds"` // the whole demo took
	Writers   int     `json:"writers"`
	Rounds    int64   `json:"rounds"` // complete ones
	Files     int     `json:"files"`  // with an acknowledged record

	Acknowledged int `json:"acknowledged"` // writes
	Uncertain    int `json:"uncertain"`    // writes whose outcome their writer never learnt
	Refused      int `json:"refused"`      // writes that certainly did not happen
	Lost         int `json:"lost"`         // records of which an acknowledged write is gone
	Unexpected   int `json:"unexpected"`   // records that can't have been written as they are

	FailoverMS *int64 `json:"failover_ms"` // the longest of all; null if no leader was killed
	// from the SIGKILL of a leader to the first acknowledgement of a write begun after it
	FailoversMS  []int64 `json:"failovers_ms"`
	LongestGapMS int64   `json:"longest_gap_ms"`

	WrittenOnTwoCopies int `json:"written_on_two_copies"` // writes that were on both members when acknowledged
	WrittenOnOneCopy   int `json:"written_on_one_copy"`   // writes that were on at least one

	Members   int              `json:"members"`
	Witnesses int              `json:"witnesses"`
	DiskBytes map[string]int64 `json:"disk_bytes"` // by node name

	StateChecksumsEqual bool   `json:"state_checksums_equal"`
	StateChecksum       string `json:"state_checksum,omitempty"` // if they are
	StateApplied        uint64 `json:"state_applied,omitempty"`  // the index they are of

	Skipped  []Skip   `json:"skipped"`  // files and directories that were not recorded
	Changed  []string `json:"changed"`  // files that changed since they were recorded
	Findings []string `json:"findings"` // what is wrong, in words
	Timeline []Event  `json:"timeline"`
	DataDir  string   `json:"data_dir,omitempty"` // if it was kept
}

// newSummary returns one that is not null anywhere but where that says something.
func newSummary(c Config) *Summary {
	return &Summary{
		Directory: c.Dir, Kill: c.Kill, Writers: c.Writers,
		FailoversMS: []int64{}, Changed: []string{}, Findings: []string{},
	}
}

// faultless returns an error if anything is lost, or not as it must be.
func (s *Summary) faultless() error {
	if s.Lost == 0 && s.Unexpected == 0 && s.StateChecksumsEqual {
		return nil
	}
	return fmt.Errorf("the verification failed: %d records lost, %d unexpected, state checksums equal: %t", s.Lost,
		s.Unexpected, s.StateChecksumsEqual)
}

// Print writes the summary for people.
func (s *Summary) Print(w io.Writer) {
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %-22s %s\n", name, fmt.Sprintf(format, args...))
	}
	fmt.Fprintln(w, "\nSummary")
	row("acknowledged", "%d writes of %d files in %.1f s (%d complete rounds, %d writers)", s.Acknowledged, s.Files,
		s.Seconds, s.Rounds, s.Writers)
	row("lost", "%d", s.Lost)
	row("unexpected", "%d", s.Unexpected)
	row("uncertain", "%d writes whose outcome was not learnt, %d certainly not written; all written again", s.Uncertain,
		s.Refused)
	row("failover", "%s", s.failover())
	row("longest gap", "%d ms between two acknowledgements", s.LongestGapMS)
	row("durable on", "two copies: %d writes, one copy: %d", s.WrittenOnTwoCopies, s.WrittenOnOneCopy)
	row("zone", "%d members, %d witnesses", s.Members, s.Witnesses)
	row("disk", "%s", s.disk())
	row("state checksums", "%s", s.checksums())
	limited(w, "skipped", s.Skipped, func(x Skip) string { return fmt.Sprintf("%q: %s", x.Path, x.Reason) })
	limited(w, "changed since", s.Changed, strconv.Quote)
	limited(w, "FINDINGS", s.Findings, func(x string) string { return x })
	if s.DataDir != "" {
		row("data kept in", "%s", s.DataDir)
	}
}

func (s *Summary) failover() string {
	if len(s.FailoversMS) == 0 {
		return "no leader was killed"
	}
	var parts []string
	for _, ms := range s.FailoversMS {
		parts = append(parts, fmt.Sprintf("%d ms", ms))
	}
	return strings.Join(parts, ", ") + " from SIGKILL to the first acknowledgement of a write begun after it"
}

func (s *Summary) disk() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(s.DiskBytes)) {
		parts = append(parts, fmt.Sprintf("%s %d bytes", name, s.DiskBytes[name]))
	}
	return strings.Join(parts, ", ")
}

func (s *Summary) checksums() string {
	if !s.StateChecksumsEqual {
		return "NOT EQUAL"
	}
	return fmt.Sprintf("equal at index %d: %s", s.StateApplied, s.StateChecksum)
}

// limited prints the first of many; --json names all.
func limited[T any](w io.Writer, name string, all []T, line func(T) string) {
	const limit = 20
	if len(all) == 0 {
		return
	}
	fmt.Fprintf(w, "  %-22s %d\n", name, len(all))
	for _, x := range all[:min(limit, len(all))] {
		fmt.Fprintf(w, "    %s\n", line(x))
	}
	if len(all) > limit {
		fmt.Fprintf(w, "    and %d more; --json names all\n", len(all)-limit)
	}
}

// failed notes a failover.
func (s *Summary) failed(took time.Duration) {
	ms := took.Milliseconds()
	s.FailoversMS = append(s.FailoversMS, ms)
	if s.FailoverMS == nil || ms > *s.FailoverMS {
		s.FailoverMS = &ms
	}
}

// count takes over what the writers came to.
func (s *Summary) count(c counts, rounds int64) {
	s.Rounds, s.Files = rounds, c.records
	s.Acknowledged, s.Uncertain, s.Refused = c.acknowledged, c.uncertain, c.refused
	s.WrittenOnTwoCopies, s.WrittenOnOneCopy = c.twoCopies, c.oneCopy
	s.LongestGapMS = c.longestGap.Milliseconds()
}
