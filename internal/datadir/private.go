package datadir

import (
	"log/slog"
	"os"
	"runtime"

	"github.com/nexi-lab/nexus-raft/storage"
)

// KeepPrivate closes an existing data directory to all users but its owner: the files there hold the
// node's key and the authority's, which signs for any identity. A directory that the store makes is
// private from the start.
func KeepPrivate(path string, o *storage.Options, logger *slog.Logger) {
	info, err := os.Stat(path)
	if o.FS != nil || err != nil || runtime.GOOS == "windows" || info.Mode().Perm()&0o077 == 0 {
		return
	}
	if err := os.Chmod(path, info.Mode().Perm()&0o700); err != nil {
		logger.Warn("other users of this machine may read the data directory, and with it private keys: chmod 700 it",
			"dir", path, "err", err)
		return
	}
	logger.Info("data directory is closed to other users, because it holds private keys", "dir", path)
}
