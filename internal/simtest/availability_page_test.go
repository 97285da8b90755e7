package simtest

import (
	"bytes"
	_ "embed"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var rewriteFlag = flag.Bool("rewrite", false, "write docs/availability.md anew")

const availabilityPage = "../../docs/availability.md"

// TestAvailabilityPage compares docs/availability.md with what TestAvailability checks.
func TestAvailabilityPage(t *testing.T) {
	page := renderAvailability()
	t.Log("\n" + string(page))
	if *rewriteFlag {
		if err := os.WriteFile(availabilityPage, page, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(availabilityPage)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(page), string(got)); diff != "" {
		t.Errorf("docs/availability.md is old; run go test ./internal/simtest -run TestAvailabilityPage -rewrite\n%s", diff)
	}
}

// availabilityHead is the page without its rows.
//
//go:embed testdata/availability_head.md
var availabilityHead string

func renderAvailability() []byte {
	var b bytes.Buffer
	b.WriteString(availabilityHead)
	for c := range allCuts + 1 {
		fmt.Fprintf(&b, "| %v | %v | %v |\n", c, expected(c, fromInSync), expected(c, fromDegraded))
	}
	return b.Bytes()
}

// String is a cell of the page.
func (o outcome) String() string {
	switch o.leader {
	case "leader":
		return fmt.Sprintf("L leads, %s", o.sync)
	case "follower":
		return fmt.Sprintf("F leads, %s", o.sync)
	}
	var back []string
	for _, c := range o.back {
		back = append(back, c.String())
	}
	return "**no writes** until " + strings.Join(back, "; or ")
}
