package etcdtest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nexi-lab/nexus-raft/client"
)

// secureCluster speaks TLS with the certificates that it makes itself.
type secureCluster struct {
	cluster
	dir   string
	admin string // file of the founder's credentials
	ca    *x509.CertPool
}

func newSecureCluster(t *testing.T) *secureCluster {
	t.Helper()
	c := &secureCluster{dir: t.TempDir()}
	t.Cleanup(func() {
		c.stop()
		if t.Failed() {
			t.Log(c.logs())
		}
	})
	for i, name := range []string{"n1", "n2"} {
		c.members[i] = newProcess(programs.member, c.dir, name, "serve", "--tls")
	}
	c.witness = newProcess(programs.witness, c.dir, "w1", "--tls")
	first := c.members[0]
	c.admin = filepath.Join(first.dir, "admin.pem")
	c.run(t, "init", "--data-dir", first.dir, "--name", first.name, "--listen", first.address)
	credentials, err := os.ReadFile(c.admin)
	if err != nil {
		t.Fatal(err)
	}
	c.ca = x509.NewCertPool()
	if !c.ca.AppendCertsFromPEM([]byte(c.run(t, "access", "ca", "--credentials", c.admin))) {
		t.Fatal("access ca prints no certificate")
	}
	for _, p := range []*process{first, c.members[1], c.witness} {
		p.credentials = credentials
		if p != first {
			role := "member"
			if p == c.witness {
				role = "witness"
			}
			token := c.file(t, p.name+".token", c.ask(t, "token", "create", "--role", role))
			p.args = append(p.args, "--join", first.address, "--token-file", token)
		}
		if err := p.start(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.awaitInSync(); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *secureCluster) file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// run runs nexus-raft and returns what it prints.
func (c *secureCluster) run(t *testing.T, args ...string) (stdout string) {
	t.Helper()
	cmd := exec.CommandContext(within(t, patience), programs.member, args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("nexus-raft %v: %v: %s", args, err, errs.String())
	}
	return string(out)
}

// ask is run with the founder's credentials at the first member.
func (c *secureCluster) ask(t *testing.T, args ...string) (stdout string) {
	t.Helper()
	return c.run(t, append(args, "--endpoints", c.members[0].address, "--credentials", c.admin, "--timeout", "20s")...)
}

// principal gives a name a role, and returns the file of its certificate, key and CA, and its
// access token.
func (c *secureCluster) principal(t *testing.T, name, role string) (file, token string) {
	t.Helper()
	file = filepath.Join(c.dir, name+".pem")
	c.ask(t, "access", "grant", name, "--role", role)
	c.ask(t, "access", "cert", name, "--out", file)
	return file, strings.TrimSpace(c.ask(t, "access", "token", name))
}

// dial returns a client of both members that believes the cluster's CA. A node's certificate names
// the node and no host, so the chain is verified without the host's name.
func (c *secureCluster) dial(t *testing.T, config clientv3.Config, certificates ...tls.Certificate) *clientv3.Client {
	t.Helper()
	config.Endpoints = c.endpoints()
	config.TLS = &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: certificates, InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{
				Roots:     c.ca,
				KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			})
			return err
		},
	}
	return connect(t, config)
}

// bearer sends a token as metadata authorization, as other gRPC clients do.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// etcd's Go client with a certificate, with a token as it sends it, and with one as a bearer token:
// each may do what its role allows, and gets the code that says what is missing.
func TestTLS(t *testing.T) {
	c := newSecureCluster(t)
	writerFile, writerToken := c.principal(t, "writer", "write")
	readerFile, readerToken := c.principal(t, "reader", "read")
	pair := func(file string) tls.Certificate {
		cert, err := tls.LoadX509KeyPair(file, file)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	ours := func(file, token string) *clientv3.Client {
		credentials, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		options, err := client.DialOptions(credentials, token)
		if err != nil {
			t.Fatal(err)
		}
		return connect(t, clientv3.Config{Endpoints: c.endpoints(), DialOptions: options})
	}
	perCall := func(token string) clientv3.Config {
		return clientv3.Config{DialOptions: []grpc.DialOption{grpc.WithPerRPCCredentials(bearer(token))}}
	}
	for name, tc := range map[string]struct {
		client   *clientv3.Client
		put, get codes.Code
	}{
		"writer's certificate":              {c.dial(t, clientv3.Config{}, pair(writerFile)), codes.OK, codes.OK},
		"writer's token":                    {c.dial(t, clientv3.Config{Token: writerToken}), codes.OK, codes.OK},
		"writer's bearer token":             {c.dial(t, perCall(writerToken)), codes.OK, codes.OK},
		"writer's credentials, our options": {ours(writerFile, ""), codes.OK, codes.OK},
		"reader's token, our options":       {ours(writerFile, readerToken), codes.PermissionDenied, codes.OK},
		"reader's certificate": {
			c.dial(t, clientv3.Config{}, pair(readerFile)), codes.PermissionDenied,
			codes.OK,
		},
		"reader's token": {
			c.dial(t, clientv3.Config{Token: readerToken}), codes.PermissionDenied,
			codes.OK,
		},
		"reader's bearer token": {c.dial(t, perCall(readerToken)), codes.PermissionDenied, codes.OK},
		"reader's token, writer's key": {
			c.dial(t, clientv3.Config{Token: readerToken}, pair(writerFile)),
			codes.PermissionDenied, codes.OK,
		},
		"nothing": {c.dial(t, clientv3.Config{}), codes.Unauthenticated, codes.Unauthenticated},
		"a token that nobody has made": {
			c.dial(t, clientv3.Config{Token: altered(readerToken)}), codes.Unauthenticated,
			codes.Unauthenticated,
		},
		"one of these as bearer, with a key": {
			c.dial(t, perCall(altered(readerToken)), pair(writerFile)),
			codes.Unauthenticated, codes.Unauthenticated,
		},
	} {
		ctx := within(t, patience)
		value := name + time.Now().String()
		if _, err := tc.client.Put(ctx, "tls/"+name, value); status.Code(err) != tc.put {
			t.Errorf("%s: put: got %v, want %v", name, err, tc.put)
		}
		got, err := tc.client.Get(ctx, "tls/"+name)
		if status.Code(err) != tc.get {
			t.Errorf("%s: get: got %v, want %v", name, err, tc.get)
		}
		if err != nil {
			continue
		}
		if wrote := len(got.Kvs) == 1 && string(got.Kvs[0].Value) == value; wrote != (tc.put == codes.OK) {
			t.Errorf("%s: get: got %v after a put with %v", name, got.Kvs, tc.put)
		}
	}
	t.Run("etcdctl", func(t *testing.T) { etcdctlOverTLS(t, c, writerFile, readerToken) })
}

// altered returns a token with another secret.
func altered(token string) string {
	last := "a"
	if i := len(token) - 2; token[i:i+1] == last {
		last = "b"
	}
	return token[:len(token)-2] + last + token[len(token)-1:]
}

// A file that access cert has made is both certificate and key for etcdctl, which compares the
// host's name or nothing.
func etcdctlOverTLS(t *testing.T, c *secureCluster, file, token string) {
	ca := c.file(t, "ca.pem", c.run(t, "access", "ca", "--credentials", file))
	ctl := func(args ...string) (string, error) {
		args = append([]string{"--endpoints", strings.Join(c.endpoints(), ","), "--insecure-skip-tls-verify", "--cacert", ca},
			args...)
		cmd := exec.CommandContext(within(t, patience), programs.etcdctl, args...)
		var errs strings.Builder
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("etcdctl %v: %w: %s", args, err, errs.String())
		}
		return string(out), err
	}
	if out, err := ctl("--cert", file, "--key", file, "put", "tls/ctl", "1"); err != nil || out != "OK\n" {
		t.Errorf("put with a certificate: got %q, %v", out, err)
	}
	if out, err := ctl("--auth-jwt-token", token, "get", "tls/ctl"); err != nil || out != "tls/ctl\n1\n" {
		t.Errorf("get with a token: got %q, %v", out, err)
	}
	if out, err := ctl("--auth-jwt-token", token, "put", "tls/ctl", "2"); err == nil ||
		!strings.Contains(err.Error(), `needs the role write in zone 1, which "reader" has not`) {
		t.Errorf("put with a reader's token: got %q, %v", out, err)
	}
	if out, err := ctl("get", "tls/ctl"); err == nil || !strings.Contains(err.Error(), "show an access token") {
		t.Errorf("get with nothing: got %q, %v", out, err)
	}
}
