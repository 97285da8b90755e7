// Package replicas is what every goroutine of a node may know of its replicas without asking the worker:
// which there are, their states to read, their records, and why one has stopped. The worker alone changes
// it; all others look.
package replicas
