package program

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A configuration file is read, or refused with an error that names it.
func FuzzReadSettings(f *testing.F) {
	f.Add([]byte("data-dir: d\njoin: [a:1, b:2]\n"))
	f.Add([]byte("- a\n"))
	f.Add([]byte("a: 1\na: 2\n"))
	f.Add([]byte("a: &x [*x]\n"))
	path := filepath.Join(f.TempDir(), "config.yaml")
	f.Fuzz(func(t *testing.T, content []byte) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := readSettings(path)
		if err != nil {
			if !strings.Contains(err.Error(), path) {
				t.Errorf("%q: %v does not name the file", content, err)
			}
			return
		}
		if len(s.keys) != len(s.values) {
			t.Errorf("%q: %d keys and %d values", content, len(s.keys), len(s.values))
		}
	})
}
