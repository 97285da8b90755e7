package main

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nexi-lab/nexus-raft/internal/pki"
)

func TestAccessRecover(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d1")
	if status, _, stderr := command(t, "init", "--data-dir", dir); status != 0 {
		t.Fatalf("init: %s", stderr)
	}
	out := filepath.Join(t.TempDir(), "admin.pem")
	if status, stdout, stderr := command(t, "access", "recover", "--data-dir", dir, "--out", out, "--ttl",
		"24h"); status != 0 || !strings.Contains(stdout, "of admin are in "+out) {
		t.Fatalf("got %d, %q, %q", status, stdout, stderr)
	}
	b, founder := secretIn(t, out), secretIn(t, filepath.Join(dir, "admin.pem"))
	chain, err := pki.Certificates(b.Cert)
	if err != nil {
		t.Fatal(err)
	}
	roots, err := pki.Pool(founder.Roots)
	if err != nil {
		t.Fatal(err)
	}
	s, err := pki.Verify(chain, roots, x509.ExtKeyUsageClientAuth, time.Now())
	if err != nil || s.Client != "admin" || time.Until(chain[0].NotAfter) > 24*time.Hour {
		t.Errorf("got a certificate for %v until %v, %v; want one of admin for 24h", s, chain[0].NotAfter, err)
	}
	for what, x := range map[string]struct{ name, dir, says string }{
		"a name without a role": {"nobody", dir, "those who may give roles are: admin"},
		"an empty directory":    {"admin", t.TempDir(), "belongs to no cluster"},
	} {
		file := filepath.Join(t.TempDir(), "x.pem")
		status, _, stderr := command(t, "access", "recover", x.name, "--data-dir", x.dir, "--out", file)
		if status == 0 || !strings.Contains(stderr, x.says) {
			t.Errorf("%s: got %d, %q; want a failure with %q", what, status, stderr, x.says)
		}
		if _, err := os.Stat(file); !os.IsNotExist(err) {
			t.Errorf("%s: left a file: %v", what, err)
		}
	}
	if status, _, stderr := command(t, "access", "recover", "--data-dir", dir, "--out", out); status == 0 ||
		!strings.Contains(stderr, "file exists") {
		t.Errorf("over a file: got %d, %q", status, stderr)
	}
}
