package program

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// How long the name in --listen may take to resolve.
const resolveTimeout = 5 * time.Second

// split takes an address of a flag apart.
func split(flag, address string) (host string, port uint16, err error) {
	host, digits, err := net.SplitHostPort(address)
	switch {
	case strings.ContainsAny(address, "/\\ \t\n"):
		return "", 0, fmt.Errorf("%s %q is not host:port; only TCP is served", flag, address)
	case err != nil && strings.Count(address, ":") > 1:
		return "", 0, fmt.Errorf("%s %q is not host:port; an IPv6 address stands in brackets, as in [::1]:2026", flag,
			address)
	case err != nil:
		return "", 0, fmt.Errorf("%s %q is not host:port", flag, address)
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%s %q: the port is not a number from 0 to 65535", flag, address)
	}
	return host, uint16(n), nil
}

// isLocal reports whether only this machine can reach the address in --listen; it refuses one
// that can't be served on.
func isLocal(ctx context.Context, listen string) (bool, error) {
	host, _, err := split("--listen", listen)
	if err != nil || host == "" {
		return false, err
	}
	local, err := isLoopback(ctx, host)
	if err != nil {
		return false, fmt.Errorf("--listen %s: %w", listen, err)
	}
	return local, nil
}

// invitesOthers reports whether the address in --advertise may be other than this machine's own
// loopback: a proxy or a redirection then brings other machines to it, whatever --listen says. A
// name that can't be resolved now counts as such an address.
func invitesOthers(ctx context.Context, advertise string) bool {
	if advertise == "" {
		return false
	}
	host, _, err := split("--advertise", advertise)
	if err != nil {
		return true
	}
	local, err := isLoopback(ctx, host)
	return err != nil || !local
}

func isLoopback(ctx context.Context, host string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return false, err
	}
	for _, ip := range ips {
		if !ip.Unmap().IsLoopback() {
			return false, nil
		}
	}
	return true, nil
}

// CheckReachable returns nil if other nodes can be told to dial the address in --advertise
// or, if that is empty, the one in --listen.
func CheckReachable(listen, advertise string) error {
	if advertise != "" {
		return checkDialled("--advertise", advertise)
	}
	host, _, err := split("--listen", listen)
	if err != nil {
		return err
	}
	if everywhere(host) {
		return fmt.Errorf("--listen %s names no address that others could dial: add --advertise HOST:PORT", listen)
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Zone() != "" {
		return fmt.Errorf("--listen %s has an IPv6 zone, which means something else on each machine: add --advertise "+
			"HOST:PORT", listen)
	}
	return nil
}

// checkDialled refuses an address that can't be dialled.
func checkDialled(flag, address string) error {
	host, port, err := split(flag, address)
	switch {
	case err != nil:
		return err
	case everywhere(host):
		return fmt.Errorf("%s %s names no machine: give an address that other nodes can dial", flag, address)
	case port == 0:
		return fmt.Errorf("%s %s: port 0 can't be dialled", flag, address)
	}
	if err := nexusraft.ValidateAddress(address); err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	return nil
}

// ErrorText is an error for a terminal. It may hold what other nodes have said: what can't be
// printed is escaped, and all lines but the first are indented, so that none passes for one of the
// program's own.
func ErrorText(err error) string {
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		lines[i] = nexusraft.PrintableText(line)
	}
	return strings.Join(lines, "\n  ")
}

// everywhere reports whether a host stands for all addresses of a machine.
func everywhere(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}
