package etcdtest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// kubernetesVersion is what TestKubernetes builds; its libraries have it with 0 in place of 1.
const kubernetesVersion = "1.37.2"

// TestKubernetes runs a kube-apiserver on a cluster: it creates objects while others are watched, and the leader is
// killed meanwhile. NEXUS_RAFT_KUBERNETES is the path of a kube-apiserver, or "build", which takes a quarter of an
// hour and more.
func TestKubernetes(t *testing.T) {
	program := os.Getenv("NEXUS_RAFT_KUBERNETES")
	if program == "" {
		t.Skip("NEXUS_RAFT_KUBERNETES names no kube-apiserver, and does not say build")
	}
	if program == "build" {
		program = buildKubernetes(t)
	}
	c := ownCluster(t)
	api := startKubernetes(t, program, c.endpoints())
	const objects = 2000
	watched := api.watch(t)
	var created atomic.Int64
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		for created.Load() < objects/2 && t.Context().Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		if leader, _, err := c.roles(); err == nil {
			leader.kill()
		}
	}()
	api.create(t, objects, &created)
	<-killed
	for _, p := range c.members {
		if p.cmd == nil {
			t.Logf("%s was killed", p.name)
			if err := p.start(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := c.awaitInSync(); err != nil {
		t.Fatal(err)
	}
	if err := poll("every object is watched", func() bool { return watched.count() == objects }); err != nil {
		t.Errorf("%v: %d of %d", err, watched.count(), objects)
	}
	if err := watched.err(); err != nil {
		t.Error(err)
	}
	if got := api.list(t); got != objects {
		t.Errorf("the list has %d objects, want %d", got, objects)
	}
	wantEqualMembers(t, c)
}

// wantEqualMembers checks that what kube-apiserver has stored is the same on both members.
func wantEqualMembers(t *testing.T, c *cluster) {
	t.Helper()
	var lists [2]map[string]int64
	err := poll("both members have the same", func() bool {
		for i, p := range c.members {
			cli, err := clientv3.New(clientv3.Config{Endpoints: []string{p.address}})
			if err != nil {
				t.Fatal(err)
			}
			resp, err := cli.Get(within(t, patience), "/registry/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
			cli.Close()
			if err != nil {
				t.Fatal(err)
			}
			lists[i] = make(map[string]int64)
			for _, kv := range resp.Kvs {
				lists[i][string(kv.Key)] = kv.ModRevision
			}
		}
		return reflect.DeepEqual(lists[0], lists[1]) // kube-apiserver writes on meanwhile
	})
	if err != nil {
		t.Errorf("%v: %d and %d keys", err, len(lists[0]), len(lists[1]))
	}
}

// buildKubernetes builds a kube-apiserver in a module of its own.
func buildKubernetes(t *testing.T) string {
	dir := t.TempDir()
	var mod struct{ Dir string }
	release := "k8s.io/kubernetes@v" + kubernetesVersion
	if err := json.Unmarshal(goIn(t, dir, "mod", "download", "-json", release), &mod); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(mod.Dir, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	var goMod strings.Builder
	fmt.Fprintf(&goMod, "module kubernetes\n\ngo 1.26\n\nrequire k8s.io/kubernetes v%s\n\n", kubernetesVersion)
	library := strings.Replace(kubernetesVersion, "1.", "0.", 1)
	for _, m := range regexp.MustCompile(`=> \./staging/src/(\S+)`).FindAllSubmatch(text, -1) {
		fmt.Fprintf(&goMod, "replace %s => %[1]s v%s\n", m[1], library)
	}
	for name, text := range map[string]string{"go.mod": goMod.String(), "main.go": kubernetesMain} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	goIn(t, dir, "build", "-o", "kube-apiserver", ".")
	return filepath.Join(dir, "kube-apiserver")
}

const kubernetesMain = `package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() { os.Exit(cli.Run(app.NewAPIServerCommand())) }
`

// kubernetes is a kube-apiserver that runs.
type kubernetes struct {
	url  string
	http *http.Client
}

const kubernetesToken = "a-token-of-the-test"

// startKubernetes starts a kube-apiserver with no security but a token, and returns once it is ready.
func startKubernetes(t *testing.T, program string, endpoints []string) *kubernetes {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	users := kubernetesToken + ",tester,1,system:masters\n"
	if err := os.WriteFile(in("users.csv"), []byte(users), 0o600); err != nil {
		t.Fatal(err)
	}
	writeKey(t, in("sa.key"))
	address := freeAddress()
	_, port, _ := strings.Cut(address, ":")
	for i := range endpoints {
		endpoints[i] = "http://" + endpoints[i]
	}
	log, err := os.Create(in("log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program,
		"--etcd-servers="+strings.Join(endpoints, ","), "--bind-address=127.0.0.1", "--secure-port="+port,
		"--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none", "--cert-dir="+dir,
		"--service-account-issuer=https://tests", "--service-account-key-file="+in("sa.key"),
		"--service-account-signing-key-file="+in("sa.key"), "--service-cluster-ip-range=10.0.0.0/24",
		"--token-auth-file="+in("users.csv"), "--authorization-mode=AlwaysAllow")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		log.Close()
		if text, err := os.ReadFile(in("log")); t.Failed() && err == nil {
			t.Logf("kube-apiserver: %s", text[max(0, len(text)-20_000):])
		}
	})
	api := &kubernetes{url: "https://" + address, http: &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, MaxIdleConnsPerHost: 32,
	}}}
	ready := func() bool { return api.do(t.Context(), http.MethodGet, "/readyz", nil) == nil }
	if err := poll("kube-apiserver is ready", ready); err != nil {
		t.Fatal(err)
	}
	return api
}

// writeKey makes the key that a kube-apiserver signs tokens with.
func writeKey(t *testing.T, path string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (k *kubernetes) request(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, k.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+kubernetesToken)
	req.Header.Set("Content-Type", "application/json")
	return k.http.Do(req)
}

// do makes a request whose answer does not matter if it is no error.
func (k *kubernetes) do(ctx context.Context, method, path string, body []byte) error {
	resp, err := k.request(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 && resp.StatusCode != http.StatusConflict {
		err = fmt.Errorf("%s: %s", resp.Status, text)
	}
	return err
}

const configMaps = "/api/v1/namespaces/default/configmaps"

// create creates objects by eight callers, each again until it is there.
func (k *kubernetes) create(t *testing.T, objects int, created *atomic.Int64) {
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < objects; i += 8 {
				body := fmt.Appendf(nil, `{"metadata":{"name":"object-%05d"},"data":{"payload":%q}}`, i,
					strings.Repeat("x", i%3000))
				err := poll("an object is created", func() bool {
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					defer cancel()
					return k.do(ctx, http.MethodPost, configMaps, body) == nil
				})
				if err != nil {
					t.Error(err)
					return
				}
				created.Add(1)
			}
		})
	}
	wg.Wait()
}

func (k *kubernetes) list(t *testing.T) (objects int) {
	resp, err := k.request(within(t, patience), http.MethodGet, configMaps, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var list struct {
		Items []struct{ Metadata struct{ Name string } }
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		t.Fatal(err)
	}
	for _, item := range list.Items {
		if strings.HasPrefix(item.Metadata.Name, "object-") {
			objects++
		}
	}
	return objects
}

// watched is what a watch has seen.
type watched struct {
	mu    sync.Mutex // guards what follows
	added map[string]bool
	fault error
}

func (w *watched) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.added)
}

func (w *watched) err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fault
}

// watch watches the objects from now on, by one request that is to last.
func (k *kubernetes) watch(t *testing.T) *watched {
	t.Helper()
	w := &watched{added: make(map[string]bool)}
	resp, err := k.request(t.Context(), http.MethodGet, configMaps+"?watch=1&timeoutSeconds=600", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	go func() {
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			w.see(lines.Bytes())
		}
	}()
	return w
}

func (w *watched) see(line []byte) {
	var event struct {
		Type   string
		Object struct{ Metadata struct{ Name string } }
	}
	err := json.Unmarshal(line, &event)
	name := event.Object.Metadata.Name
	if err == nil && event.Type != "ADDED" && strings.HasPrefix(name, "object-") || event.Type == "ERROR" {
		err = fmt.Errorf("the watch sees %s", line)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil && strings.HasPrefix(name, "object-") {
		if w.added[name] {
			err = fmt.Errorf("the watch sees %s twice", name)
		}
		w.added[name] = true
	}
	if err != nil && w.fault == nil {
		w.fault = err
	}
}
