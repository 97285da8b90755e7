package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// proof are the flags with which a client proves its name.
type proof struct {
	Credentials     string `help:"${credentials}" placeholder:"FILE"`
	AccessTokenFile string `help:"${accessTokenFile}" placeholder:"FILE"`
}

// read returns what the flags and the environment say, as client.Options has it; nil and "" if they
// say nothing. The errors name the flag and hold no secrets.
func (p *proof) read() (credentials []byte, token string, err error) {
	if p.Credentials != "" {
		if credentials, err = readCredentials(p.Credentials); err != nil {
			return nil, "", fmt.Errorf("--credentials: %w", err)
		}
	}
	token, err = p.accessToken()
	return credentials, token, err
}

// maxCredentials is far more than a file of credentials has, in bytes.
const maxCredentials = 1 << 20

func readCredentials(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxCredentials)) // client.New says what is wrong with it
	if len(text) == 0 && err == nil {
		err = fmt.Errorf("%s is empty", path)
	}
	return text, err
}

// accessTokenVariable has the access token itself. There is no flag for it: command lines are seen
// by every user of a machine.
const accessTokenVariable = "NEXUS_RAFT_ACCESS_TOKEN"

// accessTokenPrefix begins every access token.
const accessTokenPrefix = "nra1-"

// accessToken returns the token that the flag or the environment names, "" for none. No error says
// what it is.
func (p *proof) accessToken() (string, error) {
	from, text, given := "$"+accessTokenVariable, "", false
	if p.AccessTokenFile != "" {
		content, err := readCredentials(p.AccessTokenFile)
		if err != nil {
			return "", fmt.Errorf("--access-token-file: %w", err)
		}
		from, text, given = "--access-token-file", string(content), true
	} else {
		text, given = os.LookupEnv(accessTokenVariable)
	}
	if !given {
		return "", nil
	}
	text = strings.TrimSpace(text)
	switch {
	case !strings.HasPrefix(text, accessTokenPrefix):
		return "", fmt.Errorf("%s holds no access token: they begin with %s; make one with: nexus-raft access token", from,
			accessTokenPrefix)
	case p.Credentials == "":
		return "", fmt.Errorf("%s needs --credentials, too, which say what cluster to believe; the certificate of its CA "+
			"is enough", from)
	}
	return text, nil
}

// writeSecret makes a file that only its owner can read; there is none of that name, or link, yet.
// It is on the disk when writeSecret returns.
func writeSecret(name string, content []byte) error {
	f, err := newSecretFile(name)
	if err != nil {
		return err
	}
	return fillSecret(f, func() ([]byte, error) { return content, nil })
}

// newSecretFile makes the file of a secret that is to come, for fillSecret: that it can't be made
// is known before there is anything to lose.
func newSecretFile(name string) (*os.File, error) {
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// fillSecret writes what produce returns, and closes f. If there is an error, there is no file.
func fillSecret(f *os.File, produce func() ([]byte, error)) error {
	content, err := produce()
	if err == nil {
		_, err = f.Write(content)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
