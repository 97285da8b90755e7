package node

import (
	"os"
	"runtime"
)

// keepPrivate lets nobody but its owner into an existing data directory: the files there hold
// the node's key and the cluster's authority, and who could read them could be anybody. A directory that the
// store makes is private from the start.
func keepPrivate(c Config) {
	info, err := os.Stat(c.Dir)
	if c.Storage.FS != nil || err != nil || runtime.GOOS == "windows" || info.Mode().Perm()&0o077 == 0 {
		return
	}
	if err := os.Chmod(c.Dir, info.Mode().Perm()&0o700); err != nil {
		c.Logger.Warn("other users of this machine may read the data directory, and with it private keys: chmod 700 it", "dir", c.Dir, "err", err)
		return
	}
	c.Logger.Info("data directory is closed to other users, because it holds private keys", "dir", c.Dir)
}
