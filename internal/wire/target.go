package wire

import "net/url"

// Target is how gRPC is told to connect to host:port, and to nothing else that the text may mean:
// it takes a target for a URL, in which the percent sign of an IPv6 zone begins an escape.
func Target(hostPort string) string { return "passthrough:///" + url.PathEscape(hostPort) }
