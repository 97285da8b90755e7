package program

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

var testSubject = pki.Subject{Cluster: 0xc1, Node: 0xa}

// issue makes a CA and a certificate for s, signed at the time then, for an hour.
func issue(t *testing.T, s pki.Subject, then time.Time) (ca, pair pki.Pair) {
	t.Helper()
	ca, err := pki.NewCA(s.Cluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	csr, key, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.Sign(ca, csr, s, then, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return ca, pki.Pair{Cert: cert, Key: key}
}

// inFiles writes certificates into a new directory, and returns the flags that name them.
func inFiles(t *testing.T, ca, pair pki.Pair) *Security {
	t.Helper()
	dir := t.TempDir()
	s := &Security{
		TLSCert: filepath.Join(dir, "cert.pem"), TLSKey: filepath.Join(dir, "key.pem"),
		TLSCA: filepath.Join(dir, "ca.pem"),
	}
	for path, text := range map[string][]byte{s.TLSCert: pair.Cert, s.TLSKey: pair.Key, s.TLSCA: ca.Cert} {
		write(t, path, text)
	}
	return s
}

func write(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTLSFlags(t *testing.T) {
	files := []string{"--tls-cert", "c", "--tls-key", "k", "--tls-ca", "a"}
	for _, tc := range []struct {
		args      []string
		encrypted bool
		says      string // "": they are fine
	}{
		{nil, false, ""},
		{[]string{"--listen", "192.0.2.1:1", "--insecure"}, false, ""},
		{files, true, ""},
		{append([]string{"--listen", "192.0.2.1:1"}, files...), true, ""},
		{append([]string{"--tls"}, files...), true, ""},
		{files[:4], false, "go together"},
		{files[2:], false, "go together"},
		{append([]string{"--insecure"}, files...), false, "--insecure means no TLS"},
		{[]string{"--insecure", "--tls"}, false, "--insecure means no TLS"},
	} {
		line, status, _, stderr := parse(t, nil, append([]string{"run", "--data-dir", "d"}, tc.args...)...)
		if (status == ExitUsage) != (tc.says != "") || !strings.Contains(stderr, tc.says) {
			t.Errorf("%q: got status %d, %q; want %q", tc.args, status, stderr, tc.says)
		}
		if got := line.Run.Encrypted; tc.says == "" && got != tc.encrypted {
			t.Errorf("%q: encrypted %t, want %t", tc.args, got, tc.encrypted)
		}
	}
}

func TestBadCertificateFiles(t *testing.T) {
	now := time.Now()
	ca, pair := issue(t, testSubject, now)
	otherCA, other := issue(t, testSubject, now)
	_, old := issue(t, testSubject, now.Add(-4*time.Hour))
	clientCA, client := issue(t, pki.Subject{Cluster: 0xc1, Client: "ann"}, now)
	for name, tc := range map[string]struct {
		ca, pair pki.Pair
		spoil    func(*Security)
		says     []string
	}{
		"missing":     {ca, pair, func(s *Security) { s.TLSKey += "x" }, []string{"--tls-key", "key.pemx"}},
		"a directory": {ca, pair, func(s *Security) { s.TLSCA = filepath.Dir(s.TLSCA) }, []string{"--tls-ca"}},
		"empty": {
			ca, pair, func(s *Security) { write(t, s.TLSCert, nil) },
			[]string{"--tls-cert", "no PEM block CERTIFICATE"},
		},
		"not PEM": {
			ca, pair, func(s *Security) { write(t, s.TLSCA, []byte("hello")) },
			[]string{"--tls-ca", "no PEM block CERTIFICATE"},
		},
		"too much": {
			ca, pair, func(s *Security) { write(t, s.TLSCA, make([]byte, 1<<20)) },
			[]string{"--tls-ca", "more than"},
		},
		"another key": {ca, pki.Pair{Cert: pair.Cert, Key: other.Key}, nil, []string{"--tls-key", "does not match"}},
		"another CA":  {otherCA, pair, nil, []string{"--tls-cert", "not believed"}},
		"expired":     {ca, old, nil, []string{"--tls-cert", "expired 3h"}},
		"a client's":  {clientCA, client, nil, []string{"--tls-cert", "serverAuth"}},
		"a leaf for a CA": {
			pair, pair, func(s *Security) { write(t, s.TLSCA, leafOf(pair)) },
			[]string{"--tls-ca", "no CA's"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := inFiles(t, tc.ca, tc.pair)
			if tc.spoil != nil {
				tc.spoil(s)
			}
			_, err := s.Files(slog.New(slog.DiscardHandler))
			if err == nil {
				t.Fatal("it is taken")
			}
			for _, want := range tc.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q in it", err, want)
				}
			}
		})
	}
}

// leafOf returns the first certificate of a pair's chain.
func leafOf(p pki.Pair) []byte {
	const end = "-----END CERTIFICATE-----\n"
	i := bytes.Index(p.Cert, []byte(end))
	return p.Cert[:i+len(end)]
}

func TestReadableKeyIsSaid(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there are no such modes")
	}
	ca, pair := issue(t, testSubject, time.Now())
	for mode, want := range map[os.FileMode]bool{0o600: false, 0o640: false, 0o644: true} {
		s := inFiles(t, ca, pair)
		if err := os.Chmod(s.TLSKey, mode); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if _, err := s.Files(slog.New(slog.NewTextHandler(&out, nil))); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(out.String(), "level=WARN"); got != want || strings.Contains(out.String(), "PRIVATE KEY") {
			t.Errorf("mode %v: got %q, want a warning: %t", mode, &out, want)
		}
	}
}

func TestSecurityIsSaid(t *testing.T) {
	for says, s := range map[string]Security{
		"level=INFO msg=\"tls is off":           {},
		"level=WARN msg=\"INSECURE: tls is off": {Insecure: true},
		"level=INFO msg=\"tls is on\"":          {Encrypted: true},
	} {
		var out bytes.Buffer
		if _, err := s.Secure(slog.New(slog.NewTextHandler(&out, nil))); err != nil || !strings.Contains(out.String(), says) {
			t.Errorf("got %q, %v; want %q", &out, err, says)
		}
	}
}

// reloading are files under a clock of the test's.
type reloading struct {
	*certFiles
	flags *Security
	now   time.Time
	log   bytes.Buffer
}

func newReloading(t *testing.T, ca, pair pki.Pair) *reloading {
	t.Helper()
	r := &reloading{flags: inFiles(t, ca, pair), now: time.Now()}
	r.certFiles = &certFiles{
		paths: [3]string{r.flags.TLSCert, r.flags.TLSKey, r.flags.TLSCA},
		log:   slog.New(slog.NewTextHandler(&r.log, nil)), clock: func() time.Time { return r.now },
	}
	if err := r.open(); err != nil {
		t.Fatal(err)
	}
	return r
}

// serial returns the serial number of what a handshake would use after d.
func (r *reloading) serial(t *testing.T, d time.Duration) string {
	t.Helper()
	r.now = r.now.Add(d)
	c, err := r.source()
	if err != nil {
		t.Fatal(err)
	}
	return c.Own.Leaf.SerialNumber.String()
}

func TestReload(t *testing.T) {
	ca, pair := issue(t, testSubject, time.Now())
	r := newReloading(t, ca, pair)
	first := r.serial(t, time.Second)

	nextCA, next := issue(t, testSubject, time.Now())
	write(t, r.flags.TLSCert, next.Cert)
	if got := r.serial(t, 2*time.Second); got != first {
		t.Error("a certificate without its key is used")
	}
	r.serial(t, time.Second)
	r.serial(t, time.Second)
	if got := strings.Count(r.log.String(), "not reloaded"); got != 1 {
		t.Errorf("a half-written pair is said %d times, want once: %s", got, &r.log)
	}
	write(t, r.flags.TLSKey, next.Key)
	write(t, r.flags.TLSCA, nextCA.Cert)
	if got := r.serial(t, time.Second/2); got != first {
		t.Error("the files were read twice within a second")
	}
	second := r.serial(t, time.Second/2)
	if second == first {
		t.Errorf("the new pair is not used: %s", &r.log)
	}

	_, stranger := issue(t, pki.Subject{Cluster: 0xc1, Node: 0xb}, time.Now())
	strangerFiles(t, r, stranger)
	if got := r.serial(t, time.Second); got != second ||
		!strings.Contains(r.log.String(), "it needs the URI "+testSubject.String()) {
		t.Errorf("another node's certificate: used %t, %s", got != second, &r.log)
	}
	if err := os.Remove(r.flags.TLSKey); err != nil {
		t.Fatal(err)
	}
	if got := r.serial(t, time.Second); got != second {
		t.Error("the key was removed, and the certificate with it")
	}
}

// A certificate may be there before it is good, by this machine's clock.
func TestReloadOfACertificateThatIsNotGoodYet(t *testing.T) {
	ca, pair := issue(t, testSubject, time.Now())
	r := newReloading(t, ca, pair)
	first := r.serial(t, time.Second)
	nextCA, next := issue(t, testSubject, time.Now().Add(time.Hour+10*time.Second))
	write(t, r.flags.TLSCert, next.Cert)
	write(t, r.flags.TLSKey, next.Key)
	write(t, r.flags.TLSCA, nextCA.Cert)
	for range 5 {
		if got := r.serial(t, time.Second); got != first {
			t.Fatal("a certificate is used that is not good yet")
		}
	}
	if got := strings.Count(r.log.String(), "not reloaded"); got != 1 {
		t.Errorf("it is said %d times, want once: %s", got, &r.log)
	}
	if got := r.serial(t, 10*time.Second); got == first {
		t.Errorf("the certificate is good and not used: %s", &r.log)
	}
}

// strangerFiles writes a pair and the CA at the end of its chain.
func strangerFiles(t *testing.T, r *reloading, p pki.Pair) {
	t.Helper()
	write(t, r.flags.TLSCert, p.Cert)
	write(t, r.flags.TLSKey, p.Key)
	write(t, r.flags.TLSCA, bytes.TrimPrefix(p.Cert, leafOf(p)))
}

// Files change under live traffic: no call fails, and new connections use the new ones.
func TestRotationUnderTraffic(t *testing.T) {
	ca, pair := issue(t, testSubject, time.Now())
	r := newReloading(t, ca, pair)
	var ticks sync.Mutex // guards the clock, which goes on by a second at each look
	clock := r.now
	r.clock = func() time.Time {
		ticks.Lock()
		defer ticks.Unlock()
		clock = clock.Add(time.Second)
		return clock
	}
	r.certFiles.log = slog.New(slog.DiscardHandler)
	addr := serveHealth(t, mtls.NewTLS(r.source))
	before := connect(t, addr, ca)
	check(t, before)

	ctx, cancel := context.WithCancel(t.Context())
	var traffic sync.WaitGroup
	for range 4 {
		traffic.Go(func() {
			for ctx.Err() == nil {
				check(t, before)
			}
		})
	}
	for range 10 {
		nextCA, next := issue(t, testSubject, time.Now())
		write(t, r.flags.TLSCA, nextCA.Cert)
		write(t, r.flags.TLSCert, next.Cert)
		write(t, r.flags.TLSKey, next.Key)
		after := connect(t, addr, nextCA)
		check(t, after)
		after.Close()
	}
	cancel()
	traffic.Wait()
}

func serveHealth(t *testing.T, security *mtls.TLS) (addr string) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(mtls.NewLimits(mtls.LimitOptions{}).ServerOptions(security)...)
	healthpb.RegisterHealthServer(srv, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	t.Cleanup(func() {
		srv.Stop()
		<-served
	})
	return lis.Addr().String()
}

// connect believes ca alone.
func connect(t *testing.T, addr string, ca pki.Pair) *grpc.ClientConn {
	t.Helper()
	roots, err := pki.Pool(ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	security := mtls.NewTLS(func() (mtls.Certificates, error) {
		return mtls.Certificates{Roots: roots},
			nil
	})
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(security.ClientCredentials(nexusraft.NodeID(0xa))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func check(t *testing.T, conn *grpc.ClientConn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("a call failed: %v", err)
	}
}

// Where others are invited TLS is the rule, whatever the address that is listened on. (S7)
func TestAdvertisedIsEncrypted(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want bool
	}{
		{[]string{"--advertise", "127.0.0.1:1"}, false},
		{[]string{"--advertise", "[::1]:1"}, false},
		{[]string{"--advertise", "192.0.2.1:1"}, true},
		{[]string{"--advertise", "nowhere.invalid:1"}, true},
		{[]string{"--advertise", "192.0.2.1:1", "--insecure"}, false},
	} {
		line, status, _, stderr := parse(t, nil, append([]string{"run", "--data-dir", "d", "--listen", "127.0.0.1:1"},
			tc.args...)...)
		if status == ExitUsage || line.Run.Encrypted != tc.want {
			t.Errorf("%q: got encrypted %t, status %d, %q; want %t", tc.args, line.Run.Encrypted, status, stderr, tc.want)
		}
	}
}
