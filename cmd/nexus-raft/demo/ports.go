package demo

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports are taken below the ranges from which systems take the ports of outgoing
// connections (32768 and up): the port of a killed node must still be free when it comes
// back, though everybody has been dialling it.
const (
	firstPort = 20000
	lastPort  = 32767
)

// freeAddress returns a loopback address at which nobody listens. Somebody may, by the
// time it is used.
func freeAddress() (string, error) {
	var errs []error
	for range 50 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+rand.IntN(lastPort-firstPort+1)))
		err := probe(address)
		if err == nil {
			return address, nil
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("find a free loopback port: %w", errors.Join(errs...))
}

// probe returns why address can't be listened at.
func probe(address string) error {
	lis, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	return lis.Close()
}
