package wire

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/grpc/metadata"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// SessionHeader is the metadata with which a write of etcd's KV service runs once: the session and the number of
// the write in it, in decimal, as in 71/3. Only members of clusters that know no sessions ignore it, and such a
// cluster registers none.
const SessionHeader = "nexus-session"

// RequestText is a request ID as the value of SessionHeader.
func RequestText(id nexusraft.RequestID) string { return fmt.Sprintf("%d/%d", id.Session, id.Sequence) }

// RequestOf returns the request ID that a call's metadata name; zero if they name none.
func RequestOf(ctx context.Context) (nexusraft.RequestID, error) {
	switch values := metadata.ValueFromIncomingContext(ctx, SessionHeader); len(values) {
	case 0:
		return nexusraft.RequestID{}, nil
	case 1:
		return parseRequest(values[0])
	default:
		return nexusraft.RequestID{}, fmt.Errorf("metadata %s: %d values", SessionHeader, len(values))
	}
}

func parseRequest(text string) (nexusraft.RequestID, error) {
	session, sequence, _ := strings.Cut(text, "/")
	id, err := strconv.ParseUint(session, 10, 64)
	number, err2 := strconv.ParseUint(sequence, 10, 64)
	if err := errors.Join(err, err2); err != nil || id == 0 || number == 0 { // zero would ask for no protection
		return nexusraft.RequestID{}, fmt.Errorf("metadata %s: not a session and a number: %.40q", SessionHeader, text)
	}
	return nexusraft.RequestID{Session: id, Sequence: number}, nil
}
