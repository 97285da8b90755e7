// Package webhook posts events to an HTTP endpoint, in order and at least once, and keeps its
// position in a file.
//
// # Signature
//
// With a secret, each post has the header
//
//	Nexus-Raft-Signature: t=1767225600,v1=5257a869e7…
//
// t is when the post was made, in seconds since the Unix epoch. v1 is the hexadecimal HMAC-SHA256,
// keyed with the secret, of t's digits, a full stop, and the body's bytes as they came. A receiver
// computes the same, compares in constant time, and refuses a t that is minutes away from its own
// clock, so that a post can't be replayed later. Each try is signed afresh.
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
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Headers of a post.
const (
	SequenceHeader  = "Nexus-Raft-Event-Sequence"
	SignatureHeader = "Nexus-Raft-Signature"
)

const (
	connectTimeout  = 5 * time.Second
	attemptTimeout  = 30 * time.Second // of one try, the answer's body included
	idleTimeout     = 90 * time.Second
	maxAnswerHeader = 64 << 10
	maxAnswerBody   = 64 << 10 // read so that the connection can be used again; beyond that it is closed
)

// The wait before the next try: doubled each time and jittered. A receiver may ask for more.
const (
	minBackoff    = 250 * time.Millisecond
	maxBackoff    = 30 * time.Second
	maxRetryAfter = 5 * time.Minute
)

// Options say where to post. Only URL has no default.
type Options struct {
	// URL is http or https. It is never logged beyond scheme and host: the rest may be
	// a secret.
	URL string

	// Secret signs the posts; nil means they are not signed.
	Secret []byte

	// OnRetry, if set, is called with the reason why a post failed and the wait before the next
	// try, on the goroutine of Post.
	OnRetry func(err error, wait time.Duration)
}

// Poster posts to one URL. One goroutine uses it at a time, which keeps the order.
type Poster struct {
	opts      Options
	target    *url.URL
	transport *http.Transport
	timeout   time.Duration                        // attemptTimeout, but for tests
	sleep     func(context.Context, time.Duration) // tests don't wait
}

// New returns a poster. It connects when it first posts, through the proxy that the
// environment names (HTTPS_PROXY, HTTP_PROXY, NO_PROXY), if it does.
func New(o Options) (*Poster, error) {
	target, err := url.Parse(o.URL)
	switch {
	case err != nil:
		return nil, errors.New("webhook: the URL can't be parsed") // the reason would quote it
	case target.Scheme != "http" && target.Scheme != "https":
		return nil, errors.New("webhook: the URL does not begin with http:// or https://")
	case target.Hostname() == "":
		return nil, errors.New("webhook: the URL names no host")
	}
	if _, err := http.ProxyFromEnvironment(&http.Request{URL: target}); err != nil {
		return nil, errors.New("webhook: the proxy that the environment names can't be parsed") // it may have a password
	}
	return &Poster{opts: o, target: target, timeout: attemptTimeout, sleep: sleep, transport: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: connectTimeout}).DialContext,
		TLSHandshakeTimeout:    connectTimeout,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxAnswerHeader,
		ForceAttemptHTTP2:      true,
	}}, nil
}

// Target names where the posts go, without what may be secret: scheme and host.
func (p *Poster) Target() string { return p.target.Scheme + "://" + p.target.Host }

// Exposed reports whether the posts leave this machine unencrypted.
func (p *Poster) Exposed() bool {
	host := p.target.Hostname()
	ip := net.ParseIP(host)
	return p.target.Scheme == "http" && host != "localhost" && (ip == nil || !ip.IsLoopback())
}

// Close ends idle connections.
func (p *Poster) Close() { p.transport.CloseIdleConnections() }

// RejectedError is a receiver's answer that trying again would not change.
type RejectedError struct {
	Sequence uint64
	Target   string // scheme and host
	Status   int
}

func (e *RejectedError) Error() string {
	text := fmt.Sprintf("webhook: %s refuses event %d for good: status %d %s", e.Target, e.Sequence, e.Status,
		http.StatusText(e.Status))
	if e.Status/100 == 3 {
		text += "; redirects are not followed: give the URL that it leads to"
	}
	return text
}

// Post posts a JSON document about the event with this sequence, and returns once the
// receiver has accepted it with a status of 200 to 299. It borrows the body.
//
// Network errors and the statuses 408, 429 and 500 to 599 are tried again until ctx ends; the error
// is then ctx's, with the error of the last try. Any other status is a *RejectedError. If Post
// fails, the receiver may still have got the event.
func (p *Poster) Post(ctx context.Context, sequence uint64, body []byte) error {
	for delay := minBackoff; ; delay = min(2*delay, maxBackoff) {
		after, err := p.try(ctx, sequence, body)
		if err == nil {
			return nil
		}
		if _, ok := errors.AsType[*RejectedError](err); ok {
			return err
		}
		if ctx.Err() == nil {
			wait := max(jitter(delay), after)
			if p.opts.OnRetry != nil {
				p.opts.OnRetry(err, wait)
			}
			p.sleep(ctx, wait)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("webhook: event %d is not accepted yet: %w; %w", sequence, ctx.Err(), err)
		}
	}
}

// try posts once. With the error of a failure that may pass it returns how long the receiver asks
// to wait.
func (p *Poster) try(ctx context.Context, sequence uint64, body []byte) (time.Duration, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, p.timeout, fmt.Errorf("no answer within %v", p.timeout))
	defer cancel()
	req, err := p.request(ctx, sequence, body)
	if err != nil {
		return 0, err
	}
	// unlike a http.Client it follows no redirect, and its errors do not quote the URL
	resp, err := p.transport.RoundTrip(req)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return 0, fmt.Errorf("webhook: event %d: %s: %w", sequence, p.Target(), err)
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswerBody)) // the status counts, whatever the body comes to
	switch code := resp.StatusCode; {
	case code/100 == 2:
		return 0, nil
	case code == http.StatusRequestTimeout, code == http.StatusTooManyRequests, code/100 == 5:
		return retryAfter(resp.Header.Get("Retry-After"), time.Now()),
			fmt.Errorf("webhook: event %d: %s: status %d %s", sequence, p.Target(), code, http.StatusText(code))
	default:
		return 0, &RejectedError{Sequence: sequence, Target: p.Target(), Status: code}
	}
}

func (p *Poster) request(ctx context.Context, sequence uint64, body []byte) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.opts.URL, bytes.NewReader(body))
	if err != nil {
		// the reason would quote the URL
		return nil, fmt.Errorf("webhook: event %d: the request to %s can't be made", sequence, p.Target())
	}
	if user := p.target.User; user != nil {
		password, _ := user.Password()
		req.SetBasicAuth(user.Username(), password)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "nexus-raft")
	req.Header.Set(SequenceHeader, strconv.FormatUint(sequence, 10))
	if p.opts.Secret != nil {
		req.Header.Set(SignatureHeader, sign(p.opts.Secret, time.Now(), body))
	}
	return req, nil
}

// sign returns the signature header's value.
func sign(secret []byte, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(t + "."))
	mac.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}
