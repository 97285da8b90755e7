// Package program is what the command lines of both programs share: how they are parsed,
// from flags, environment and a file; and how a daemon listens, logs and stops.
package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

// Exit statuses.
const (
	ExitOK     = 0
	ExitFailed = 1
	ExitUsage  = 2 // the command line makes no sense
)

// EnvPrefix begins the name of every environment variable that stands for a flag.
const EnvPrefix = "NEXUS_RAFT"

// Standard are the standard streams. What another program reads is on Out.
type Standard struct {
	In       io.Reader
	Out, Err io.Writer
}

// Signalled returns a context that ends with SIGTERM or SIGINT. Once it has ended, the next
// such signal ends the process at once.
func Signalled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		signal.Stop(signals) // before anything shows that the process stops
		cancel()
	}()
	return ctx
}

// Parse parses a command line into line, a struct with kong's tags. Every flag is also an
// environment variable; the flag comes first. Commands get ctx and std.
//
// It returns nil and the exit status if there is nothing to run: after --help or --version,
// or, with the reason on std.Err, if the command line makes no sense.
func Parse(
	ctx context.Context, name string, line any, args []string, std Standard, options ...kong.Option,
) (*kong.Context, int) {
	status := -1
	options = append([]kong.Option{
		kong.Name(name),
		HelpTexts(flagHelp),
		kong.Vars{"version": Version(name)},
		kong.Writers(std.Out, std.Err),
		kong.Exit(func(code int) { status = code }),
		kong.KindMapper(reflect.String, kong.MapperFunc(decodeString)),
		kong.DefaultEnvars(EnvPrefix),
		kong.ValueFormatter(describe),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(std),
	}, options...)
	parser, err := kong.New(line, options...)
	if err != nil {
		fmt.Fprintf(std.Err, "%s: %v\n", name, err)
		return nil, ExitUsage
	}
	command, err := parser.Parse(args)
	switch {
	case status >= 0:
		return nil, status
	case err != nil:
		fmt.Fprintf(std.Err, "%s: %s%s\nTry %s --help.\n", name, explained(err), fromEnvironment(err, args),
			commandPath(name, err))
		return nil, ExitUsage
	}
	return command, 0
}

// explained is the text of a parse error. What kong takes for an unknown flag may be meant as an
// argument: then it says how to write that.
func explained(err error) string {
	text := err.Error()
	p, ok := errors.AsType[*kong.ParseError](err)
	if !ok || p.Context == nil || p.Context.Selected() == nil || !strings.HasPrefix(text, "unknown flag ") {
		return text
	}
	command := p.Context.Selected()
	if len(command.Positional) == 0 {
		return text
	}
	var names []string
	for _, a := range command.Positional {
		names = append(names, strings.ToUpper(a.Name))
	}
	return fmt.Sprintf("%s; for a value that begins with a hyphen, put -- before it, after all flags: %s --FLAGS -- %s",
		strings.TrimSuffix(text, `, did you mean "-h"?`), command.FullPath(), strings.Join(names, " "))
}

// fromEnvironment names the environment variable that has the value that a parse error is
// about, if it has.
func fromEnvironment(err error, args []string) string {
	p, ok := errors.AsType[*kong.ParseError](err)
	if !ok || p.Context == nil {
		return ""
	}
	for _, f := range p.Context.Flags() {
		flag := "--" + f.Name
		given := slices.ContainsFunc(args, func(a string) bool { return a == flag || strings.HasPrefix(a, flag+"=") })
		if given || !strings.HasPrefix(err.Error(), flag) {
			continue
		}
		for _, name := range f.Tag.Envs {
			if _, set := os.LookupEnv(name); set {
				return " (from $" + name + ")"
			}
		}
	}
	return ""
}

// commandPath returns the program and the command that a parse error is about.
func commandPath(name string, err error) string {
	if p, ok := errors.AsType[*kong.ParseError](err); ok && p.Context != nil && p.Context.Selected() != nil {
		return p.Context.Selected().FullPath()
	}
	return name
}

// decodeString takes an argument as it is. Kong's own decoder replaces what is not valid
// UTF-8, but keys, values and paths may be any bytes.
func decodeString(c *kong.DecodeContext, target reflect.Value) error {
	token, err := c.Scan.PopValue("string")
	if err != nil {
		return err
	}
	target.SetString(token.String())
	return nil
}

// describe is a flag's line in --help: what it does, its default where kong does not show
// it in place of a value, and its environment variable.
func describe(v *kong.Value) string {
	var more []string
	if v.Flag != nil && v.HasDefault && v.Default != "" && (v.Flag.PlaceHolder != "" || v.IsBool()) {
		more = append(more, "default "+v.Default)
	}
	for _, name := range v.Tag.Envs {
		more = append(more, "$"+name)
	}
	if len(more) == 0 {
		return v.Help
	}
	return fmt.Sprintf("%s (%s)", v.Help, strings.Join(more, ", "))
}

// Version is what --version prints: the program, the module's version or the revision it
// was built from, Go's version and the platform.
func Version(name string) string {
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = moduleVersion(info)
	}
	return fmt.Sprintf("%s %s %s %s/%s", name, version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// moduleVersion returns the main module's version. Go stamps the revision into it, but not
// into every build: then it is looked for in the settings.
func moduleVersion(info *debug.BuildInfo) string {
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	revision, modified := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = "-" + s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = "+dirty"
		}
	}
	return "devel" + revision + modified
}
