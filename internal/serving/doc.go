// Package serving runs a node's gRPC server beside its worker and the watchdog of that, says whether the
// node is healthy, and stops all three in order. It knows neither zones nor peers: what they do is given to
// it as functions.
package serving
