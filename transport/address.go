package transport

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// NodeAddress says which node is meant and where it is reached.
type NodeAddress struct {
	ID nexusraft.NodeID // 0: any node that answers there, in calls that allow it

	// Endpoint is host:port, http://host:port or https://host:port, at most
	// nexusraft.MaxAddressBytes; an IPv6 address stands in brackets. The first form is
	// encrypted if credentials were given, the second never, the third always.
	Endpoint string
}

// security is what an endpoint says of encryption.
type security int

const (
	asConfigured security = iota // encrypted if there are credentials
	plain
	encrypted
)

// parseEndpoint returns an endpoint's host:port and what it says of encryption.
func parseEndpoint(endpoint string) (hostPort string, s security, err error) {
	if n := len(endpoint); n > nexusraft.MaxAddressBytes {
		return "", 0, fmt.Errorf("an endpoint has %d bytes, limit %d", n, nexusraft.MaxAddressBytes)
	}
	hostPort = endpoint
	if scheme, rest, found := strings.Cut(endpoint, "://"); found {
		switch scheme {
		case "http":
			s = plain
		case "https":
			s = encrypted
		default:
			return "", 0, fmt.Errorf("endpoint %q: unknown scheme; give host:port, http://host:port or https://host:port",
				endpoint)
		}
		hostPort = rest
	}
	if i := strings.LastIndexByte(hostPort, '@'); i >= 0 { // what is before it may be a secret
		return "", 0, fmt.Errorf("endpoint %q: user information before the @; give host:port alone", hostPort[i+1:])
	}
	if err := checkHostPort(hostPort); err != nil {
		return "", 0, fmt.Errorf("endpoint %q: %w", endpoint, err)
	}
	return hostPort, s, nil
}

func checkHostPort(hostPort string) error {
	if strings.ContainsAny(hostPort, "/?#") {
		return errors.New("a path after the port; give host:port alone")
	}
	host, port, err := net.SplitHostPort(hostPort)
	switch n, portErr := strconv.ParseUint(port, 10, 16); {
	case err != nil:
		return fmt.Errorf("%s; give host:port, an IPv6 address in brackets", err.(*net.AddrError).Err)
	case host == "":
		return errors.New("the host is missing; give host:port")
	case strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return errors.New("a space in the host; give host:port")
	case portErr != nil || n == 0:
		return fmt.Errorf("port %q is no number between 1 and 65535", port)
	}
	return nil
}

// IsAt reports whether an endpoint leads to the node's address, as far as their spelling tells.
func (id Identity) IsAt(endpoint string) bool { return sameAddress(endpoint, id.Address) }

// sameAddress reports whether two endpoints lead to the same socket, as far as their
// spelling tells.
func sameAddress(a, b string) bool {
	a, _, errA := parseEndpoint(a)
	b, _, errB := parseEndpoint(b)
	if errA != nil || errB != nil {
		return false
	}
	hostA, portA, _ := net.SplitHostPort(a)
	hostB, portB, _ := net.SplitHostPort(b)
	return portA == portB && (hostA == hostB || isLocal(hostA) && isLocal(hostB))
}

// isLocal reports whether a host can only be this machine.
func isLocal(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || host == "" || ip != nil && (ip.IsLoopback() || ip.IsUnspecified())
}
