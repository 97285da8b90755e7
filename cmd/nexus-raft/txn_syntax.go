package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// txnRequest is one request of a transaction, as a line says it.
type txnRequest struct {
	line      int
	verb      string // put, get or del
	operation client.Operation
}

// compareForm is what a line with a compare has to be.
const compareForm = `expected a compare such as value("key") = "text" or mod("key") > "5"`

// parseCompare parses one line, in the syntax of etcdctl's txn.
func parseCompare(line string) (client.Compare, error) {
	target, rest, ok := strings.Cut(line, "(")
	if !ok {
		return client.Compare{}, fmt.Errorf("%.64q: %s", line, compareForm)
	}
	key, rest, err := cutQuoted(rest)
	if err != nil {
		return client.Compare{}, fmt.Errorf("after %.64q: expected a key in double quotes: %w", target+"(", err)
	}
	if rest, ok = strings.CutPrefix(strings.TrimSpace(rest), ")"); !ok {
		return client.Compare{}, fmt.Errorf("after the key %.64q: expected a )", key)
	}
	is, rest, err := cutRelation(strings.TrimSpace(rest))
	if err != nil {
		return client.Compare{}, err
	}
	value := rest
	if strings.HasPrefix(rest, `"`) {
		if value, rest, err = cutQuoted(rest); err != nil {
			return client.Compare{}, fmt.Errorf("after the relation: expected something in double quotes: %w", err)
		}
		if rest = strings.TrimSpace(rest); rest != "" {
			return client.Compare{}, fmt.Errorf("after %.64q: expected the end of the line, and not %.64q", value, rest)
		}
	}
	if key == "" {
		return client.Compare{}, errors.New("the key is empty: expected at least one byte")
	}
	return newCompare(strings.TrimSpace(target), client.Key([]byte(key)), is, value)
}

// cutQuoted cuts a string in double quotes, as in Go, from the beginning of text.
func cutQuoted(text string) (s, rest string, err error) {
	text = strings.TrimLeft(text, " \t")
	if !strings.HasPrefix(text, `"`) {
		return "", "", fmt.Errorf("there is %.64q", text)
	}
	quoted, err := strconv.QuotedPrefix(text)
	if err != nil {
		return "", "", fmt.Errorf(`%.64q does not end with a ", or has a \ that stands for nothing`, text)
	}
	s, err = strconv.Unquote(quoted)
	return s, text[len(quoted):], err
}

// cutRelation cuts a relation from the beginning of text, and the space after it.
func cutRelation(text string) (is client.Relation, rest string, err error) {
	for _, known := range []struct {
		sign string
		is   client.Relation
	}{{"!=", client.NotEqual}, {"=", client.Equal}, {"<", client.Less}, {">", client.Greater}} {
		if rest, ok := strings.CutPrefix(text, known.sign); ok {
			return known.is, strings.TrimSpace(rest), nil
		}
	}
	return 0, "", fmt.Errorf("after the key: expected one of = != < >, and not %.64q", text)
}

func newCompare(target string, keys client.KeySet, is client.Relation, value string) (client.Compare, error) {
	switch target {
	case "val", "value":
		return keys.Value(is, []byte(value)), nil
	case "ver", "version", "c", "create", "m", "mod", "lease":
	default:
		return client.Compare{}, fmt.Errorf("%.64q: expected value, version, create, mod or lease before the (", target)
	}
	if target == "lease" {
		var lease client.LeaseID
		if value != "0" {
			if err := lease.UnmarshalText([]byte(value)); err != nil {
				return client.Compare{}, fmt.Errorf("%w, or 0 for none", err)
			}
		}
		return keys.Lease(is, lease), nil
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 0 {
		return client.Compare{}, fmt.Errorf("%.64q: expected a whole number from 0 on to compare %s with", value, target)
	}
	switch target {
	case "ver", "version":
		return keys.Version(is, n), nil
	case "c", "create":
		return keys.Created(is, nexusraft.Revision(n)), nil
	}
	return keys.Modified(is, nexusraft.Revision(n)), nil
}

// requestForm is how the requests of a transaction are written.
var requestForm = map[string]string{
	"put": "put KEY VALUE [--prev-kv] [--lease=ID] [--ignore-lease], or put KEY --ignore-value",
	"get": "get KEY [END] [--prefix] [--from-key] [--limit=N] [--rev=N] [--keys-only] [--count-only]",
	"del": "del KEY [END] [--prefix] [--from-key] [--prev-kv] [--range]",
}

// parseRequest parses one line, in the syntax of etcdctl's commands.
func parseRequest(line string) (verb string, o client.Operation, err error) {
	words, err := splitWords(line)
	if err != nil {
		return "", nil, err
	}
	verb = words[0].text
	form, ok := requestForm[verb]
	if !ok {
		return "", nil, fmt.Errorf("%.64q: expected put, get or del", verb)
	}
	var r requestLine
	if err = r.take(words[1:], form); err == nil {
		switch verb {
		case "put":
			o, err = r.put()
		case "get":
			o, err = r.get()
		default:
			o, err = r.del()
		}
	}
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w: expected %s", verb, err, form)
	}
	return verb, o, nil
}

// word is a part of a line. A quoted one is no flag, whatever it begins with.
type word struct {
	text   string
	quoted bool
}

// splitWords splits a line, which is not empty, at its spaces. Words may be in double quotes, as in Go, or in single
// quotes, in which nothing has a meaning but the next one.
func splitWords(line string) (words []word, err error) {
	for rest := strings.TrimSpace(line); rest != ""; rest = strings.TrimSpace(rest) {
		w := word{quoted: true}
		switch rest[0] {
		case '"':
			if w.text, rest, err = cutQuoted(rest); err != nil {
				return nil, err
			}
		case '\'':
			var ok bool
			if w.text, rest, ok = strings.Cut(rest[1:], "'"); !ok {
				return nil, fmt.Errorf("%.64q: expected a ' at its end", "'"+w.text)
			}
		default:
			end := strings.IndexAny(rest+" ", " \t")
			w = word{text: rest[:end]}
			rest = rest[end:]
		}
		if w.quoted && rest != "" && !strings.ContainsAny(rest[:1], " \t") {
			return nil, fmt.Errorf("after %.64q: expected a space, and not %.64q", w.text, rest)
		}
		words = append(words, w)
	}
	return words, nil
}

// requestLine is what stands after the verb.
type requestLine struct {
	words   []string
	flags   map[string]bool
	numbers map[string]int64
	lease   client.LeaseID
}

// take sorts the words of a request into those that are flags of its form, and others.
func (r *requestLine) take(words []word, form string) error {
	r.flags, r.numbers = make(map[string]bool), make(map[string]int64)
	for i := 0; i < len(words); i++ {
		w := words[i]
		switch {
		case !w.quoted && w.text == "--":
			for _, more := range words[i+1:] {
				r.words = append(r.words, more.text)
			}
			return nil
		case w.quoted || len(w.text) < 2 || w.text[0] != '-':
			r.words = append(r.words, w.text)
			continue
		}
		flag, value, has := strings.Cut(w.text, "=")
		if takes := strings.Contains(form, "["+flag+"="); takes && !has && i+1 < len(words) {
			i++
			value = words[i].text
		}
		switch {
		case strings.Contains(form, "["+flag+"=ID]"):
			if err := r.lease.UnmarshalText([]byte(value)); err != nil {
				return fmt.Errorf("%s: %w", flag, err)
			}
		case strings.Contains(form, "["+flag+"=N]"):
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil || n < 1 {
				return fmt.Errorf("%s %.64q is no whole number from 1 on", flag, value)
			}
			r.numbers[flag] = n
		case !has && slices.Contains(strings.FieldsFunc(form, isBracketOrSpace), flag):
			r.flags[flag] = true
		default:
			return fmt.Errorf("%.64q is no flag of it; in quotes it is none", w.text)
		}
	}
	return nil
}

func isBracketOrSpace(c rune) bool { return strings.ContainsRune("[], ", c) }

// miscounted is the error where there are too few words or too many.
func (r *requestLine) miscounted() error {
	switch len(r.words) {
	case 0:
		return errors.New("no argument")
	case 1:
		return errors.New("one argument")
	}
	return fmt.Errorf("%d arguments", len(r.words))
}

func (r *requestLine) put() (client.Operation, error) {
	p := client.Put{
		Previous: r.flags["--prev-kv"], KeepValue: r.flags["--ignore-value"],
		Lease: r.lease, KeepLease: r.flags["--ignore-lease"],
	}
	if p.Lease != 0 && p.KeepLease {
		return nil, errors.New("--lease and --ignore-lease exclude each other")
	}
	want := 2
	if p.KeepValue {
		want = 1
	}
	if len(r.words) != want {
		return nil, r.miscounted()
	}
	if p.Key = []byte(r.words[0]); want == 2 {
		p.Value = []byte(r.words[1])
	}
	if len(p.Key) == 0 {
		return nil, errors.New("the key is empty")
	}
	return p, nil
}

func (r *requestLine) get() (client.Operation, error) {
	keys, err := r.keys()
	if r.flags["--keys-only"] && r.flags["--count-only"] {
		err = errors.New("--keys-only and --count-only exclude each other")
	}
	return client.Get{
		Keys: keys, Limit: r.numbers["--limit"], Revision: nexusraft.Revision(r.numbers["--rev"]),
		KeysOnly: r.flags["--keys-only"], CountOnly: r.flags["--count-only"],
	}, err
}

func (r *requestLine) del() (client.Operation, error) {
	keys, err := r.keys()
	if r.flags["--range"] && len(r.words) != 2 {
		err = errors.New("--range without an END")
	}
	return client.Delete{Keys: keys, Previous: r.flags["--prev-kv"]}, err
}

// keys are what a get or del is about.
func (r *requestLine) keys() (client.KeySet, error) {
	prefix, from := r.flags["--prefix"], r.flags["--from-key"]
	switch {
	case len(r.words) < 1 || len(r.words) > 2:
		return client.KeySet{}, r.miscounted()
	case prefix && from:
		return client.KeySet{}, errors.New("--prefix and --from-key exclude each other")
	case len(r.words) == 2 && (prefix || from):
		return client.KeySet{}, errors.New("END excludes --prefix and --from-key")
	case len(r.words) == 2:
		return client.KeyRange([]byte(r.words[0]), []byte(r.words[1])), nil
	case prefix:
		return client.Prefix([]byte(r.words[0])), nil
	case from:
		return client.FromKey([]byte(r.words[0])), nil
	case r.words[0] == "":
		return client.KeySet{}, errors.New("the key is empty")
	}
	return client.Key([]byte(r.words[0])), nil
}
