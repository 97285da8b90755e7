package storage

import (
	"fmt"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
)

// engineLog passes what Pebble logs on to slog.
type engineLog struct {
	failstop *failstop
	log      *slog.Logger
}

func (l engineLog) Infof(format string, args ...any) {
	l.log.Debug("storage engine", "detail", fmt.Sprintf(format, args...))
}

func (l engineLog) Errorf(format string, args ...any) {
	l.log.Error("storage engine", "detail", fmt.Sprintf(format, args...))
}

// Fatalf is called where Pebble finds that it can't go on. It must not return: Pebble
// would acknowledge what it has not written. The panic becomes an error where a caller
// of this package is on the stack (Store.guard); on a goroutine of Pebble's own it ends
// the process, as the state in memory can no longer be trusted.
func (l engineLog) Fatalf(format string, args ...any) {
	err := fmt.Errorf("storage engine: "+format, args...)
	l.failstop.stop(err)
	panic(err)
}

// engineEvents are the events of Pebble that an operator should see. Damage found by a
// background job is an event, not the end: a read of the damaged place gets an error.
func engineEvents(f *failstop, log *slog.Logger) *pebble.EventListener {
	return &pebble.EventListener{
		BackgroundError: func(err error) {
			if f.cause() == nil { // of a dead store, the cause of death was all there is to say
				log.Error("storage background job failed", "err", firstLine(err))
			}
		},
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			log.Error("storage found damaged data", "path", info.Path, "err", firstLine(info.Details))
		},
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			f.stall(true)
			log.Warn("storage writes wait for the disk", "reason", info.Reason)
		},
		WriteStallEnd: func() {
			f.stall(false)
			log.Info("storage writes go on")
		},
	}
}
