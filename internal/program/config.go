package program

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// configFile is a flag that names a YAML file of other flags of the same command: its keys
// are their names. A flag on the command line or in the environment comes before the file.
type configFile string

// BeforeResolve is called by kong if the flag was given, here or in the environment.
func (configFile) BeforeResolve(ctx *kong.Context, trace *kong.Path) error {
	if !slices.Contains(ctx.Flags(), trace.Flag) {
		return nil // another command's, set by the environment
	}
	path := string(ctx.FlagValue(trace.Flag).(configFile))
	if path == "" {
		return nil
	}
	s, err := readSettings(path)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	if err := s.check(ctx.Flags()); err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	ctx.AddResolver(s)
	return nil
}

// settings are the keys of a file.
type settings struct {
	path   string
	keys   []*yaml.Node // in the file's order
	values map[string]*yaml.Node
}

func readSettings(path string) (*settings, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := &settings{path: path, values: make(map[string]*yaml.Node)}
	var document yaml.Node
	decoder := yaml.NewDecoder(f)
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF): // nothing in it
		return s, nil
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s holds more than one document", path)
	}
	return s, s.read(document.Content[0])
}

// read takes the keys and values of the file's only node.
func (s *settings) read(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return s.wrong(n, "want lines of the form KEY: VALUE, with the names of flags as keys")
	}
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if first := s.values[key.Value]; first != nil {
			return s.wrong(key, "key %q is there already, in line %d", key.Value, first.Line)
		}
		s.keys = append(s.keys, key)
		s.values[key.Value] = value
	}
	return nil
}

// check refuses keys that are not flags, and values that these don't take.
func (s *settings) check(flags []*kong.Flag) error {
	var names []string
	known := make(map[string]*kong.Flag)
	for _, f := range flags {
		if !f.Hidden && len(f.Envs) > 0 && f.Name != "config" { // not --help, not --version
			names = append(names, f.Name)
			known[f.Name] = f
		}
	}
	for _, key := range s.keys {
		f, ok := known[key.Value]
		if !ok {
			return s.wrong(key, "unknown key %q; there are %s", key.Value, strings.Join(names, ", "))
		}
		if err := s.try(f, s.values[key.Value]); err != nil {
			return err
		}
	}
	return nil
}

// try parses a value as kong will, so that an error names the file and the line.
func (s *settings) try(f *kong.Flag, n *yaml.Node) error {
	text, err := s.text(f, n)
	if err != nil {
		return err
	}
	scan := kong.Scan().PushTyped(text, kong.FlagValueToken)
	if err := f.Parse(scan, reflect.New(f.Target.Type()).Elem()); err != nil {
		return s.wrong(n, "%w", err)
	}
	if f.Enum != "" && !slices.Contains(f.EnumSlice(), text) {
		return s.wrong(n, "%s: %q is not one of %s", f.Name, text, strings.Join(f.EnumSlice(), ", "))
	}
	return nil
}

// text returns a value as it would stand on the command line. A list is for flags that take
// one.
func (s *settings) text(f *kong.Flag, n *yaml.Node) (string, error) {
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag != "!!null":
		return n.Value, nil
	case n.Kind == yaml.SequenceNode && f.IsSlice():
		var items []string
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode || item.Tag == "!!null" {
				return "", s.wrong(item, "%s: an item is not a plain value", f.Name)
			}
			items = append(items, item.Value)
		}
		return strings.Join(items, ","), nil
	default:
		return "", s.wrong(n, "%s: want a plain value, as after --%s", f.Name, f.Name)
	}
}

func (s *settings) wrong(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("%s:%d: "+format, append([]any{s.path, n.Line}, args...)...)
}

// Validate implements kong.Resolver.
func (s *settings) Validate(*kong.Application) error { return nil }

// Resolve implements kong.Resolver. Kong asks for flags that are not on the command line,
// and would let the answer win over the environment.
func (s *settings) Resolve(_ *kong.Context, _ *kong.Path, f *kong.Flag) (any, error) {
	n := s.values[f.Name]
	if n == nil || slices.ContainsFunc(f.Envs, isSet) {
		return nil, nil
	}
	return s.text(f, n)
}

func isSet(name string) bool {
	_, ok := os.LookupEnv(name)
	return ok
}
