package program

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// Security are the flags that say whether a daemon's connections are encrypted, and with what.
type Security struct {
	TLSCert  string `name:"tls-cert" help:"${tlsCert}" placeholder:"FILE"`
	TLSKey   string `name:"tls-key" help:"${tlsKey}" placeholder:"FILE"`
	TLSCA    string `name:"tls-ca" help:"${tlsCA}" placeholder:"FILE"`
	TLS      bool   `name:"tls" help:"${tls}"`
	Insecure bool   `help:"${insecure}"`

	Token     string `help:"${token}" placeholder:"TOKEN"`
	TokenFile string `help:"File that holds the join token." placeholder:"FILE"`

	// Encrypted is whether the node is to speak TLS: with certificates from files, by --tls, and
	// wherever --listen or --advertise is not a loopback address, unless --insecure says otherwise. It
	// is set once the flags are parsed. A directory that has been served with TLS speaks it in any
	// case but --insecure.
	Encrypted bool `kong:"-"`
}

// check returns what is wrong with the flags, given those of the address.
func (s *Security) check(ctx context.Context, listen, advertise string) error {
	files := 0
	for _, path := range []string{s.TLSCert, s.TLSKey, s.TLSCA} {
		if path != "" {
			files++
		}
	}
	switch {
	case files != 0 && files != 3:
		return errors.New("--tls-cert, --tls-key and --tls-ca go together: give all three, or none")
	case s.Insecure && (files != 0 || s.TLS):
		return errors.New("--insecure means no TLS: leave it out, or --tls and the --tls- files")
	}
	local, err := isLocal(ctx, listen)
	if err != nil {
		return err
	}
	s.Encrypted = files != 0 || s.TLS || !s.Insecure && (!local || invitesOthers(ctx, advertise))
	return s.readToken()
}

// maxTokenBytes is more than a file with a token has.
const maxTokenBytes = 4096

// readToken takes the join token from its file. No error says what the token is.
func (s *Security) readToken() error {
	if s.TokenFile != "" && s.Token == "" {
		f, err := os.Open(s.TokenFile)
		if err != nil {
			return fmt.Errorf("--token-file: %w", err)
		}
		defer f.Close()
		text, err := io.ReadAll(io.LimitReader(f, maxTokenBytes))
		if err != nil {
			return fmt.Errorf("--token-file: %w", err)
		}
		s.Token = string(text)
	}
	if s.Token == "" {
		return nil
	}
	if _, err := pki.ParseToken(s.Token); err != nil {
		return fmt.Errorf("--token or --token-file: %w", err)
	}
	return nil
}

// Files returns TLS with the certificates of the flags' files, or nil if there are none. It
// notices when they change; a change that makes no sense is logged, and what was before goes on.
func (s *Security) Files(log *slog.Logger) (*mtls.TLS, error) {
	if s.TLSCert == "" {
		return nil, nil
	}
	f := &certFiles{paths: [3]string{s.TLSCert, s.TLSKey, s.TLSCA}, log: log, clock: time.Now}
	if err := f.open(); err != nil {
		return nil, err
	}
	return mtls.NewTLS(f.source), nil
}

// Secure says in the log whether connections are encrypted, and returns Files.
func (s *Security) Secure(log *slog.Logger) (*mtls.TLS, error) {
	switch {
	case s.Encrypted:
		log.Info("tls is on")
	case s.Insecure:
		log.Warn("INSECURE: tls is off; every caller that reaches this node can read and change everything")
	default:
		log.Info("tls is off, because only this machine can connect, unless the directory has been served with it")
	}
	return s.Files(log)
}

// reloadInterval is how often files are looked at, at most.
const reloadInterval = time.Second

// certFiles are a certificate, its key and the CAs, in files that may change.
type certFiles struct {
	paths [3]string // certificate, key, CAs
	log   *slog.Logger
	clock func() time.Time

	mu      sync.Mutex // guards what follows
	looked  time.Time
	used    [3][]byte // what current was read from
	tried   [3][]byte // what was read last
	failure string    // what was wrong with that, "" if nothing
	subject pki.Subject
	current mtls.Certificates
}

// open reads the files for the first time.
func (f *certFiles) open() error {
	texts, err := f.read()
	if err != nil {
		return err
	}
	if f.current, f.subject, err = f.parse(texts); err != nil {
		return err
	}
	f.used, f.looked = texts, f.clock()
	f.warnOfMode()
	f.log.Info("certificates read", "cert", f.paths[0], "names", f.subject.String(), "until", f.current.Own.Leaf.NotAfter)
	return nil
}

// source is the one of mtls.NewTLS.
func (f *certFiles) source() (mtls.Certificates, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.clock(); now.Sub(f.looked) >= reloadInterval || now.Before(f.looked) {
		f.looked = now
		f.refresh()
	}
	return f.current, nil
}

// refresh takes over what the files hold if it has changed and makes sense. A pair that is
// half written does not, or one that is good from some moments on; it is looked at again.
func (f *certFiles) refresh() {
	texts, err := f.read()
	if err == nil && !same(texts, f.used) {
		err = f.take(texts)
	}
	if err == nil {
		f.failure = ""
		return
	}
	text := err.Error()
	said := text == f.failure || f.failure != "" && same(texts, f.tried) // the text may tell the time
	f.tried, f.failure = texts, text
	if !said {
		f.log.Error("certificates not reloaded, the former ones stay in use", "err", err)
	}
}

func same(a, b [3][]byte) bool {
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

func (f *certFiles) take(texts [3][]byte) error {
	c, subject, err := f.parse(texts)
	if err != nil {
		return err
	}
	if subject != f.subject {
		return fmt.Errorf("--tls-cert %s names %v now; it needs the URI %v", f.paths[0], subject, f.subject)
	}
	f.current, f.used = c, texts
	f.warnOfMode()
	f.log.Info("certificates reloaded", "cert", f.paths[0], "names", subject.String(), "until", c.Own.Leaf.NotAfter)
	return nil
}

func (f *certFiles) read() (texts [3][]byte, err error) {
	for i, path := range f.paths {
		if texts[i], err = readPEM(path); err != nil {
			return texts, fmt.Errorf("%s: %w", certFlags[i], err)
		}
	}
	return texts, nil
}

var certFlags = [3]string{"--tls-cert", "--tls-key", "--tls-ca"}

// readPEM reads a file, as far as it can be a PEM text.
func readPEM(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, pki.MaxPEMBytes+1))
	if err == nil && len(text) > pki.MaxPEMBytes {
		err = fmt.Errorf("%s: more than %d bytes", path, pki.MaxPEMBytes)
	}
	return text, err
}

// parse returns the certificates of the texts, which must be good for a node today.
func (f *certFiles) parse(texts [3][]byte) (c mtls.Certificates, s pki.Subject, err error) {
	if c.Own, err = (pki.Pair{Cert: texts[0], Key: texts[1]}).Certificate(); err != nil {
		return c, s, fmt.Errorf("--tls-cert %s and --tls-key %s: %w", f.paths[0], f.paths[1], err)
	}
	if c.Roots, err = pki.Pool(texts[2]); err != nil {
		return c, s, fmt.Errorf("--tls-ca %s: %w", f.paths[2], err)
	}
	s, err = f.verify(c)
	if err != nil {
		return c, s, fmt.Errorf("--tls-cert %s: %w", f.paths[0], err)
	}
	return c, s, nil
}

// verify makes the checks that other nodes will make.
func (f *certFiles) verify(c mtls.Certificates) (pki.Subject, error) {
	var chain []*x509.Certificate
	for _, der := range c.Own.Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return pki.Subject{}, err
		}
		chain = append(chain, cert)
	}
	s, err := pki.Verify(chain, c.Roots, x509.ExtKeyUsageServerAuth, f.clock())
	if err != nil {
		return s, err
	}
	if _, err := pki.Verify(chain, c.Roots, x509.ExtKeyUsageClientAuth, f.clock()); err != nil {
		return s, err
	}
	if s.Node == 0 {
		return s, fmt.Errorf("it names %v, which is no node; it needs a URI nexus-raft://CLUSTER/node/NODE", s)
	}
	return s, nil
}

// warnOfMode warns of a key that anybody on this machine can read.
func (f *certFiles) warnOfMode() {
	info, err := os.Stat(f.paths[1])
	if err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o007 != 0 {
		f.log.Warn("the private key can be read by every user of this machine: chmod 600 it", "key", f.paths[1])
	}
}
