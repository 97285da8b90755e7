package program

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
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
		return "", 0, fmt.Errorf("%s %q is not host:port; an IPv6 address stands in brackets, as in [::1]:2026", flag, address)
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
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return false, fmt.Errorf("--listen %s: %w", listen, err)
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
	return nil
}

// checkDialled refuses an address that nobody can dial.
func checkDialled(flag, address string) error {
	host, port, err := split(flag, address)
	switch {
	case err != nil:
		return err
	case everywhere(host):
		return fmt.Errorf("%s %s names no machine: give an address that other nodes can dial", flag, address)
	case port == 0:
		return fmt.Errorf("%s %s: nobody can dial port 0", flag, address)
	}
	return nil
}

// everywhere reports whether a host stands for all addresses of a machine.
func everywhere(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}
