package zone

import (
	"context"
	"fmt"
	"log/slog"

	"go.etcd.io/raft/v3"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// NewLogger adapts l to raft. raft's information goes to debug level: it has a line for every vote
// and every step, and the node logs what an operator needs.
func NewLogger(l *slog.Logger, zone nexusraft.ZoneID) raft.Logger {
	return logger{l.With("zone", zone)}
}

type logger struct{ l *slog.Logger }

func (g logger) log(level slog.Level, args ...any) {
	if g.l.Enabled(context.Background(), level) {
		g.l.Log(context.Background(), level, "raft", "detail", fmt.Sprint(args...))
	}
}

func (g logger) logf(level slog.Level, format string, args ...any) {
	if g.l.Enabled(context.Background(), level) {
		g.l.Log(context.Background(), level, "raft", "detail", fmt.Sprintf(format, args...))
	}
}

func (g logger) Debug(v ...any)                   { g.log(slog.LevelDebug, v...) }
func (g logger) Debugf(format string, v ...any)   { g.logf(slog.LevelDebug, format, v...) }
func (g logger) Info(v ...any)                    { g.log(slog.LevelDebug, v...) }
func (g logger) Infof(format string, v ...any)    { g.logf(slog.LevelDebug, format, v...) }
func (g logger) Warning(v ...any)                 { g.log(slog.LevelInfo, v...) }
func (g logger) Warningf(format string, v ...any) { g.logf(slog.LevelInfo, format, v...) }
func (g logger) Error(v ...any)                   { g.log(slog.LevelError, v...) }
func (g logger) Errorf(format string, v ...any)   { g.logf(slog.LevelError, format, v...) }

// raft relies on Fatal and Panic not returning. The zone's driver stops the zone.
func (g logger) Fatal(v ...any)                 { panic(fmt.Sprint(v...)) }
func (g logger) Fatalf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
func (g logger) Panic(v ...any)                 { panic(fmt.Sprint(v...)) }
func (g logger) Panicf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
