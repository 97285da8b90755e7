package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// post is what a receiver got.
type post struct {
	method, sequence, signature, contentType, body string
}

// receiver answers posts with statuses in turn, and the last one from then on.
type receiver struct {
	*httptest.Server
	posts []post
}

func receive(t *testing.T, answer func(n int, w http.ResponseWriter)) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Errorf("read a post: %v", err)
		}
		h := req.Header
		r.posts = append(r.posts, post{
			req.Method, h.Get(SequenceHeader), h.Get(SignatureHeader), h.Get("Content-Type"),
			string(body),
		})
		answer(len(r.posts), w)
	}))
	t.Cleanup(r.Close)
	return r
}

func statuses(codes ...int) func(int, http.ResponseWriter) {
	return func(n int, w http.ResponseWriter) { w.WriteHeader(codes[min(n, len(codes))-1]) }
}

// newPoster returns one that does not wait, and the waits that it would have made.
func newPoster(t *testing.T, o Options) (*Poster, *[]time.Duration) {
	t.Helper()
	waits := new([]time.Duration)
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	p.sleep = func(_ context.Context, d time.Duration) {
		if *waits = append(*waits, d); len(*waits) > 50 {
			panic("posting without end")
		}
	}
	return p, waits
}

func TestPost(t *testing.T) {
	r := receive(t, statuses(204))
	p, waits := newPoster(t, Options{URL: r.URL + "/hook?key=1"})
	if err := p.Post(t.Context(), 57, []byte(`{"a":1}`)); err != nil {
		t.Fatal(err)
	}
	want := []post{{"POST", "57", "", "application/json", `{"a":1}`}}
	if d := cmp.Diff(want, r.posts, cmp.AllowUnexported(post{})); d != "" || len(*waits) != 0 {
		t.Errorf("%d waits, posts (-want +got):\n%s", len(*waits), d)
	}
}

// A receiver that computes the signature as documented gets the same; each try has its own.
func TestSignature(t *testing.T) {
	secret := []byte("s3cret")
	r := receive(t, statuses(503, 200))
	p, _ := newPoster(t, Options{URL: r.URL, Secret: secret})
	if err := p.Post(t.Context(), 5, []byte("body")); err != nil {
		t.Fatal(err)
	}
	if len(r.posts) != 2 {
		t.Fatalf("got %d posts, want 2", len(r.posts))
	}
	for _, got := range r.posts {
		at, v1, _ := strings.Cut(strings.TrimPrefix(got.signature, "t="), ",v1=")
		seconds, err := strconv.ParseInt(at, 10, 64)
		if age := time.Since(time.Unix(seconds, 0)); err != nil || age < -time.Second || age > time.Minute {
			t.Errorf("got signature %q, %v: its time is %v ago", got.signature, err, age)
		}
		mac := hmac.New(sha256.New, secret)
		fmt.Fprintf(mac, "%s.%s", at, got.body)
		if want := hex.EncodeToString(mac.Sum(nil)); v1 != want {
			t.Errorf("got signature %q, want v1=%s", got.signature, want)
		}
	}
}

// The signature does not change from release to release: openssl has made this one.
func TestSignatureIsThis(t *testing.T) {
	got := sign([]byte("key"), time.Unix(1767225600, 0), []byte(`{"sequence":1}`))
	const want = "t=1767225600,v1=df8935bf19d51ccc2866c4f06f3697e0943e98c0e4fca1c082dca39131c6396a"
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestPostIsTriedAgain(t *testing.T) {
	r := receive(t, statuses(500, 502, 503, 408, 429, 599, 200))
	var told []string
	p, waits := newPoster(t, Options{URL: r.URL, OnRetry: func(err error, wait time.Duration) {
		told = append(told, fmt.Sprint(err))
		if wait <= 0 {
			t.Errorf("%v: a wait of %v", err, wait)
		}
	}})
	if err := p.Post(t.Context(), 5, []byte("b")); err != nil {
		t.Fatal(err)
	}
	if len(r.posts) != 7 || len(*waits) != 6 || len(told) != 6 ||
		!strings.Contains(told[0], "event 5: "+r.URL+": status 500 Internal Server Error") {
		t.Errorf("got %d posts, waits %v, told %q", len(r.posts), *waits, told)
	}
	base := minBackoff
	for i, w := range *waits {
		if w < base/2 || w > base {
			t.Errorf("wait %d: got %v, want %v to %v", i, w, base/2, base)
		}
		base = min(2*base, maxBackoff)
	}
}

func TestWaitsAreBounded(t *testing.T) {
	n := 0
	r := receive(t, func(i int, w http.ResponseWriter) { statuses(503)(i, w); n = i })
	p, waits := newPoster(t, Options{URL: r.URL})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p.sleep = func(_ context.Context, d time.Duration) {
		if *waits = append(*waits, d); len(*waits) == 20 {
			cancel()
		}
	}
	err := p.Post(ctx, 9, []byte("b"))
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "event 9") ||
		!strings.Contains(err.Error(), "503") || n != 20 {
		t.Errorf("got %v after %d posts, want %v with the reason", err, n, context.Canceled)
	}
	if last := (*waits)[19]; last < maxBackoff/2 || last > maxBackoff {
		t.Errorf("got a last wait of %v, want at most %v", last, maxBackoff)
	}
}

func TestPostIsRejected(t *testing.T) {
	for _, code := range []int{301, 307, 400, 401, 404, 410, 413, 422} {
		r := receive(t, func(_ int, w http.ResponseWriter) {
			w.Header().Set("Location", "http://elsewhere.invalid/%zz?token=SECRET")
			w.WriteHeader(code)
		})
		p, waits := newPoster(t, Options{URL: r.URL + "/PATH?q=SECRET"})
		err := p.Post(t.Context(), 5, []byte("b"))
		got, ok := errors.AsType[*RejectedError](err)
		if !ok || *got != (RejectedError{Sequence: 5, Target: r.URL, Status: code}) || len(r.posts) != 1 || len(*waits) != 0 {
			t.Errorf("%d: got %v after %d posts", code, err, len(r.posts))
		}
		if text := err.Error(); strings.Contains(text, "SECRET") || strings.Contains(text, "PATH") ||
			strings.Contains(text, "redirect") != (code < 400) {
			t.Errorf("%d: got %q", code, text)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"":                              0,
		"7":                             7 * time.Second,
		"0":                             0,
		"-5":                            0,
		"soon":                          0,
		"1e9":                           0,
		"2147483647":                    maxRetryAfter,
		"99999999999999999999":          0,
		"Thu, 01 Jan 2026 00:00:30 GMT": 30 * time.Second,
		"Thu, 01 Jan 2026 09:00:00 GMT": maxRetryAfter,
		"Wed, 31 Dec 2025 00:00:00 GMT": 0,
	} {
		if got := retryAfter(header, now); got != want {
			t.Errorf("%q: got %v, want %v", header, got, want)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("7")
	f.Add("Thu, 01 Jan 2026 00:00:30 GMT")
	f.Fuzz(func(t *testing.T, header string) {
		if got := retryAfter(header, time.Now()); got < 0 || got > maxRetryAfter {
			t.Errorf("%q: got %v", header, got)
		}
	})
}

func TestRetryAfterIsHonoured(t *testing.T) {
	r := receive(t, func(n int, w http.ResponseWriter) {
		w.Header().Set("Retry-After", "90")
		statuses(429, 200)(n, w)
	})
	p, waits := newPoster(t, Options{URL: r.URL})
	if err := p.Post(t.Context(), 5, []byte("b")); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]time.Duration{90 * time.Second}, *waits); d != "" {
		t.Errorf("waits (-want +got):\n%s", d)
	}
}

// A receiver that takes a post and never answers holds it up for so long, and no longer.
func TestReceiverThatHangs(t *testing.T) {
	release := make(chan struct{})
	r := receive(t, func(n int, _ http.ResponseWriter) {
		if n == 1 {
			<-release
		}
	})
	var told error
	p, _ := newPoster(t, Options{URL: r.URL, OnRetry: func(err error, _ time.Duration) {
		told = err
		close(release)
	}})
	p.timeout = 50 * time.Millisecond
	if err := p.Post(t.Context(), 5, []byte("b")); err != nil {
		t.Fatal(err)
	}
	if told == nil || !strings.Contains(told.Error(), "no answer within 50ms") {
		t.Errorf("got %v, want the timeout", told)
	}
}

// An answer without end is not read to its end.
func TestEndlessAnswer(t *testing.T) {
	r := receive(t, func(_ int, w http.ResponseWriter) {
		chunk := bytes.Repeat([]byte("x"), 32<<10)
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	p, _ := newPoster(t, Options{URL: r.URL})
	began := time.Now()
	if err := p.Post(t.Context(), 5, []byte("b")); err != nil || time.Since(began) > 10*time.Second {
		t.Errorf("got %v after %v", err, time.Since(began))
	}
}

func TestNobodyListens(t *testing.T) {
	r := receive(t, statuses(200))
	r.Close()
	p, _ := newPoster(t, Options{URL: r.URL + "/PATH?q=SECRET"})
	ctx, cancel := context.WithCancel(t.Context())
	p.sleep = func(context.Context, time.Duration) { cancel() }
	err := p.Post(ctx, 5, []byte("b"))
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "connection refused") ||
		strings.Contains(err.Error(), "SECRET") || strings.Contains(err.Error(), "PATH") {
		t.Errorf("got %v, want why, and nothing of the URL but the host", err)
	}
}

func TestURLs(t *testing.T) {
	for url, want := range map[string]struct {
		says    string
		exposed bool
	}{
		"https://u:SECRET@h.example/SECRET": {"", false},
		"http://127.0.0.1:80/":              {"", false},
		"http://[::1]/":                     {"", false},
		"http://localhost:80/":              {"", false},
		"http://h.example/":                 {"", true},
		"http://10.0.0.1/":                  {"", true},
		"":                                  {"http://", false},
		"h.example/SECRET":                  {"http://", false},
		"ftp://h.example/SECRET":            {"http://", false},
		"http:///SECRET":                    {"no host", false},
		"http://h.example/\x7fSECRET":       {"can't be parsed", false},
	} {
		p, err := New(Options{URL: url})
		if (err == nil) != (want.says == "") || err != nil &&
			(!strings.Contains(err.Error(), want.says) || strings.Contains(err.Error(), "SECRET")) {
			t.Errorf("%q: got %v, want %q in it", url, err, want.says)
		}
		if err == nil && (p.Exposed() != want.exposed || strings.Contains(p.Target(), "SECRET")) {
			t.Errorf("%q: got exposed %t, target %s", url, p.Exposed(), p.Target())
		}
	}
}

func TestPasswordInURL(t *testing.T) {
	var user, password string
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		user, password,
			_ = req.BasicAuth()
	}))
	defer s.Close()
	p, _ := newPoster(t, Options{URL: strings.Replace(s.URL, "://", "://u:p@", 1)})
	if err := p.Post(t.Context(), 1, nil); err != nil || user != "u" || password != "p" {
		t.Errorf("got %v, user %q, password %q", err, user, password)
	}
}
