package pki

import (
	"bytes"
	"testing"
	"time"
)

func TestBelieved(t *testing.T) {
	cas := make([]Pair, 3)
	for i := range cas {
		ca, err := NewCA(1, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		cas[i] = Pair{Cert: ca.Cert, Key: ca.Key}
	}
	a, b, c := cas[0].Cert, cas[1].Cert, cas[2].Cert
	both := bytes.Join([][]byte{b, a}, nil)
	if got := Believed(a, nil); !bytes.Equal(got, Last(a)) {
		t.Errorf("without a list: got %s", got)
	}
	if got := Believed(a, both); !bytes.Equal(got, both) {
		t.Errorf("with a list: got %s", got)
	}
	if !SignedByFirst(a, nil) || !SignedByFirst(b, both) || SignedByFirst(a, both) || SignedByFirst(a, []byte("x")) {
		t.Error("SignedByFirst goes by something else than the first of the list")
	}
	former := Former(nil, both, b)
	sum, err := Fingerprint(a)
	if err != nil || len(former) != 1 || !bytes.Equal(former[0], sum[:]) {
		t.Fatalf("a has ended: got %x, %v", former, err)
	}
	if got := Former(former, b, []byte("x")); len(got) != 1 {
		t.Errorf("a list that can't be read ends nobody: got %x", got)
	}
	for range 2 * MaxFormer {
		former = Former(former, a, b)
	}
	if len(former) != MaxFormer {
		t.Errorf("got %d former ones, want %d", len(former), MaxFormer)
	}
	for name, tc := range map[string]struct {
		of   []byte
		want bool
	}{"believed": {b, false}, "ended": {a, false}, "unknown": {c, true}} {
		token, err := NewToken(tc.of)
		if err != nil {
			t.Fatal(err)
		}
		if got := NeverHeardOf(token.String(), b, former); got != tc.want {
			t.Errorf("a token of an authority that is %s: got %t, want %t", name, got, tc.want)
		}
	}
	if NeverHeardOf("", b, nil) || NeverHeardOf("nonsense", b, nil) {
		t.Error("no token, or one that can't be read, is of an authority")
	}
}
