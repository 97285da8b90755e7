package budget

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// figures are the constants by name; TestPage sees to it that none is missing.
var figures = map[string]any{
	"HeaderListBytes": HeaderListBytes, "AnswerHeaderListBytes": AnswerHeaderListBytes,
	"HeaderBytesOfPrincipal": HeaderBytesOfPrincipal, "HeaderBytes": HeaderBytes,
	"StreamsOfConnection": StreamsOfConnection, "StreamsOfPrincipal": StreamsOfPrincipal, "MaxStreams": MaxStreams,
	"AnonymousRefusals":            AnonymousRefusals,
	"AnonymousStreamsOfConnection": AnonymousStreamsOfConnection,
	"AnonymousCallsOfAddress":      AnonymousCallsOfAddress, "AnonymousCalls": AnonymousCalls,
	"AnonymousWatchesOfAddress": AnonymousWatchesOfAddress, "AnonymousWatches": AnonymousWatches,
	"SubscriptionsOfPrincipal": SubscriptionsOfPrincipal, "MaxSubscriptions": MaxSubscriptions,
	"WatchStreamsOfPrincipal": WatchStreamsOfPrincipal, "MaxWatchStreams": MaxWatchStreams,
	"WatchOverhead": WatchOverhead, "WatchBytesOfPrincipal": WatchBytesOfPrincipal, "WatchBytes": WatchBytes,
	"RequestTimeout": RequestTimeout, "AnonymousRequestTimeout": AnonymousRequestTimeout,
	"RequestBytesOfCaller": RequestBytesOfCaller, "RequestBytes": RequestBytes,
	"AnonymousBurstBytes": AnonymousBurstBytes, "AnonymousBytesPerSecond": AnonymousBytesPerSecond,
	"WriteTimeout":     WriteTimeout,
	"AnswerBytesTotal": AnswerBytesTotal, "AnswerBytesShare": AnswerBytesShare, "AnswerWait": AnswerWait,
	"AnswerDeadlineMargin": AnswerDeadlineMargin,
	"AnswerBytesFree":      AnswerBytesFree, "ListBytes": ListBytes,
	"AnswerSendTime": AnswerSendTime, "AnswerBytesPerSecond": AnswerBytesPerSecond,
	"ScanPairs": ScanPairs, "ScanBytes": ScanBytes, "ScansAtOnce": ScansAtOnce,
	"EffectBytesTotal": EffectBytesTotal, "EffectBytesShare": EffectBytesShare,
	"SameValueBytes": SameValueBytes, "DeleteRangeBytes": DeleteRangeBytes,
	"MaxConnections": MaxConnections, "ConnectionsOfWitness": ConnectionsOfWitness,
	"ConnectionsOfNodes": ConnectionsOfNodes,
	"HandshakeTimeout":   HandshakeTimeout, "IdleTimeout": IdleTimeout,
	"DescriptorsOfProgram": DescriptorsOfProgram, "DescriptorsOfCalls": DescriptorsOfCalls,
	"DescriptorsOfEngine": DescriptorsOfEngine, "TablesOpenLeast": TablesOpenLeast, "TablesOpen": TablesOpen,
	"DescriptorsLeast": DescriptorsLeast,
}

// TestPage compares docs/budgets.md with the constants of figures.go.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/budgets.md")
	if err != nil {
		t.Fatal(err)
	}
	said := make(map[string]string)
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Za-z]+)` \\| ([^|;]+)").FindAllStringSubmatch(string(page), -1) {
		said[row[1]] = row[2]
	}
	for _, name := range constants(t) {
		figure, known := figures[name]
		if !known {
			t.Errorf("%s is missing in this test", name)
			continue
		}
		if want := text(name, figure); !strings.HasPrefix(said[name]+" ", want+" ") {
			t.Errorf("docs/budgets.md says of %s %q, want it to begin with %q", name, said[name], want)
		}
	}
}

// text is a figure as the page has it.
func text(name string, figure any) string {
	switch n := figure.(type) {
	case time.Duration:
		if n < time.Second {
			return fmt.Sprintf("%d ms", n.Milliseconds())
		}
		return fmt.Sprintf("%.0f s", n.Seconds())
	case int:
		if strings.Contains(name, "Bytes") && n >= 1<<20 {
			return fmt.Sprintf("%d MiB", n>>20)
		}
		if strings.Contains(name, "Bytes") {
			return fmt.Sprintf("%d KiB", n>>10)
		}
	}
	return fmt.Sprint(figure)
}

// constants are the names in figures.go.
func constants(t *testing.T) (names []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "figures.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok {
			for _, id := range v.Names {
				names = append(names, id.Name)
			}
		}
		return true
	})
	return names
}

// Each counter is on the page.
func TestPageHasEachCounter(t *testing.T) {
	page, err := os.ReadFile("../../docs/budgets.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range new(Counters).Snapshot() {
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("docs/budgets.md does not have the counter %s", name)
		}
	}
}

func TestShares(t *testing.T) {
	for _, tc := range []struct {
		descriptors int
		store       bool
		want        Shares
	}{
		{256, true, Shares{Connections: 118, Tables: 58}},
		{256, false, Shares{Connections: 216}},
		{DescriptorsLeast, true, Shares{Connections: 48, Tables: 32}},
		{1 << 20, true, Shares{Connections: MaxConnections, Tables: TablesOpen}},
	} {
		got, err := Share(tc.descriptors, MaxConnections, tc.store)
		if err != nil || got != tc.want {
			t.Errorf("Share(%d, store=%t) = %+v, %v; want %+v", tc.descriptors, tc.store, got, err, tc.want)
		}
	}
	if _, err := Share(DescriptorsLeast-1, MaxConnections, true); err == nil ||
		!strings.Contains(err.Error(), "ulimit -n") {
		t.Errorf("with too few: got %v, want the way out", err)
	}
}

func TestLimit(t *testing.T) {
	l := NewLimit(2, 3)
	if !l.Enter("a", 2) || l.Enter("a", 1) {
		t.Error("want two of a, and no more")
	}
	if !l.Enter("b", 1) || l.Enter("c", 1) {
		t.Error("want three of all, and no more")
	}
	l.Leave("a", 2)
	l.Leave("b", 1)
	if l.Now() != 0 || len(l.of) != 0 {
		t.Errorf("%d left, %v, want nothing", l.Now(), l.of)
	}
}
