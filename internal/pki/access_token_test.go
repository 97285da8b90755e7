package pki

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func TestAccessTokenText(t *testing.T) {
	text, id, hash := NewAccessToken()
	gotID, gotHash, err := ParseAccessToken(text)
	if err != nil || !bytes.Equal(gotID, id) || !bytes.Equal(gotHash, hash) {
		t.Fatalf("got %x %x, %v; want %x %x", gotID, gotHash, err, id, hash)
	}
	body := strings.TrimPrefix(text, AccessTokenPrefix)
	for what, bad := range map[string]string{
		"nothing": "", "no prefix": body, "a join token": "nrj1-" + body, "short": text[:len(text)-1], "long": text + "a",
		"upper case": AccessTokenPrefix + strings.ToUpper(body),
		"newlines":   AccessTokenPrefix + strings.Repeat("\n", len(body)),
		"a newline":  text[:len(text)-1] + "\n", "other bits": text[:len(text)-1] + "7",
	} {
		if bad == text {
			continue
		}
		if _, _, err := ParseAccessToken(bad); !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("%s: got %v, want ErrRefused", what, err)
		} else if strings.Contains(err.Error(), body) {
			t.Errorf("%s: the error tells the token", what)
		}
	}
}

func FuzzParseAccessToken(f *testing.F) {
	text, id, _ := NewAccessToken()
	f.Add(text)
	f.Add(string(id))
	f.Add(AccessTokenPrefix + strings.Repeat("\n", 39))
	f.Fuzz(func(t *testing.T, text string) {
		id, hash, err := ParseAccessToken(text)
		if err == nil && (len(id) != AccessTokenIDBytes || len(hash) != 32) || err != nil &&
			!errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("%q: got %x %x, %v", text, id, hash, err)
		}
	})
}
