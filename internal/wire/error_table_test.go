package wire

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// sentinels returns the texts of the root package's sentinels, by name, as its source has them.
func sentinels(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../errors.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	texts := make(map[string]string)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "Err") {
			return true
		}
		text := spec.Values[0].(*ast.CallExpr).Args[0].(*ast.BasicLit).Value
		if texts[spec.Names[0].Name], err = strconv.Unquote(text); err != nil {
			t.Fatal(err)
		}
		return true
	})
	if len(texts) < 15 {
		t.Fatalf("found %d sentinels in errors.go: %v", len(texts), texts)
	}
	return texts
}

// Each sentinel has one row, and each kind that stands for one has the same.
func TestTableIsComplete(t *testing.T) {
	texts := sentinels(t)
	for name, text := range texts {
		if !slices.ContainsFunc(table, func(r Row) bool { return r.Sentinel.Error() == text }) {
			t.Errorf("%s has no row: how does it travel, and what may a client do?", name)
		}
	}
	if len(table) != len(texts) {
		t.Errorf("%d rows for %d sentinels", len(table), len(texts))
	}
	for number, name := range pb.ErrorKind_name {
		kind := pb.ErrorKind(number)
		none := kind == pb.ErrorKind_ERROR_KIND_UNSPECIFIED || kind == pb.ErrorKind_ERROR_KIND_APPLICATION
		if _, ok := ofKind(kind); ok == none {
			t.Errorf("%s: has a row: %t", name, ok)
		}
	}
}

// Every column has been thought of, and no row says what another column contradicts.
func TestColumnsOfTheTable(t *testing.T) {
	for _, row := range table {
		if row.Code == codes.OK || row.Code == codes.DeadlineExceeded || row.Code == codes.Canceled {
			t.Errorf("%v: etcd's client takes %v for something else", row.Sentinel, row.Code)
		}
		if row.Read < Never || row.Read > Unknown || row.Write < Never || row.Write > Unknown {
			t.Errorf("%v: nothing is said of what a client does", row.Sentinel)
		}
		// Other clients repeat a write that is answered by Unavailable.
		if row.Code == codes.Unavailable && row.Write != Again && row.Write != Elsewhere {
			t.Errorf("%v: Unavailable says that nothing was written", row.Sentinel)
		}
		if row.Write == Unknown && row.Sentinel == nexusraft.ErrUncertain || row.Read == Unknown {
			t.Errorf("%v: a read changes nothing, and ErrUncertain says itself that nothing is known", row.Sentinel)
		}
		if row.After > 0 && row.Read != Again && row.Sentinel != nexusraft.ErrDiskFull {
			t.Errorf("%v: says when to ask again, and that it never helps", row.Sentinel)
		}
		if row.EtcdText() == "" || row.Text == row.Sentinel.Error() {
			t.Errorf("%v: text %q", row.Sentinel, row.Text)
		}
	}
}
