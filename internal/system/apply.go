package system

import (
	"bytes"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// answerPrefix begins the answer to every command of the nodes.
var answerPrefix = []byte("own\x00")

// CutAnswer returns the answer in the result of a command; false if that is none of Apply's: a
// leader of an earlier release took the command for the state machine's.
func CutAnswer(result []byte) (answer []byte, ok bool) { return bytes.CutPrefix(result, answerPrefix) }

// UnknownCommandError says why this release can't apply a command. No replica may skip one, so its
// zone stops on this node.
type UnknownCommandError struct{ Reason string }

// Error implements error.
func (e *UnknownCommandError) Error() string { return e.Reason }

// Check refuses a command of another node that Apply would stop the zone for, or might, before it is in the log.
func Check(command []byte) error {
	c := &pb.NodeCommand{}
	if err := proto.Unmarshal(command, c); err != nil || c.GetKind() == nil {
		return fmt.Errorf("%w: this is a command of the nodes that this release does not know; run the newest release on "+
			"all nodes", nexusraft.ErrRefused)
	}
	if c.GetVerifyState() != nil {
		return fmt.Errorf("%w: a zone's leader has the members compare their states, and no other node", nexusraft.ErrRefused)
	}
	return nil
}

// Result is what a command has done.
type Result struct {
	Answer  []byte // what its proposer gets; see CutAnswer
	Refused error  // matches ErrRefused or ErrTooLarge: it has done nothing, the same on every replica
	Events  bool   // there are new events, or others are kept: subscriptions are to look
	Access  bool   // a principal, a token or the authority has changed
	Zones   bool   // a zone was made, changed or deleted, or the cluster's version raised

	Zone *ZoneChange // of the zone that was made, changed or deleted; nil if none was

	MachineVersion uint32          // to which the zone's version of its state machine was raised; 0 if it was not
	Verified       nexusraft.Index // the digests of this entry were compared; 0: none were

	Change, By string // for the log: such a change, without secrets, and the client that has asked for it
}

// Apply runs one command over base, at its index of the log and the zone's time now, in nanoseconds
// since the Unix epoch. loads are those of the replica, or nil.
// Like a state machine it is a function of its arguments alone (I4). What a refused command has
// written must not be kept. An error is not the command's answer and stops the zone: it is that of
// base, ErrCorrupt for a record that can't be read, an UnknownCommandError, or a DivergedError.
func Apply(
	base nexusraft.ReadWriter, loads *Loads, index nexusraft.Index, now int64, command []byte,
) (r Result, err error) {
	c := &pb.NodeCommand{}
	if err := proto.Unmarshal(command, c); err != nil {
		return Result{}, &UnknownCommandError{fmt.Sprintf("a node's command can't be read: %v", err)}
	}
	switch k := c.GetKind().(type) {
	case *pb.NodeCommand_Publish:
		r.Answer, err = applyPublish(base, now, k.Publish)
		r.Events = err == nil
	case *pb.NodeCommand_Retention:
		err = applyRetention(base, now, k.Retention)
		r.Events = err == nil // subscriptions are to notice
	case *pb.NodeCommand_PutJoinToken:
		err = applyPutJoinToken(base, now, k.PutJoinToken)
	case *pb.NodeCommand_DeleteJoinToken:
		err = applyDeleteJoinToken(base, k.DeleteJoinToken)
	case *pb.NodeCommand_UseJoinToken:
		err = applyUseJoinToken(base, now, k.UseJoinToken)
	case *pb.NodeCommand_RotateAuthority:
		err = applyRotateAuthority(base, k.RotateAuthority)
		r.Access = err == nil
	case *pb.NodeCommand_SetRole:
		err = applySetRole(base, k.SetRole)
		r.Access = err == nil
	case *pb.NodeCommand_DeletePrincipal:
		err = applyDeletePrincipal(base, k.DeletePrincipal)
		r.Access = err == nil
	case *pb.NodeCommand_PutAccessToken:
		err = applyPutAccessToken(base, now, k.PutAccessToken)
		r.Access = err == nil
	case *pb.NodeCommand_DeleteAccessToken:
		err = applyDeleteAccessToken(base, k.DeleteAccessToken)
		r.Access = err == nil
	case *pb.NodeCommand_RaiseClusterVersion:
		err = applyRaiseClusterVersion(base, k.RaiseClusterVersion)
		r.Zones = err == nil
	case *pb.NodeCommand_CreateZone:
		r.Answer, r.Zone, err = applyCreateZone(base, loads, now, k.CreateZone)
	case *pb.NodeCommand_DeleteZone:
		r.Zone, err = applyDeleteZone(base, now, k.DeleteZone)
	case *pb.NodeCommand_ReshapeZone:
		r.Answer, r.Zone, err = applyReshapeZone(base, loads, now, k.ReshapeZone)
	case *pb.NodeCommand_ReportZone:
		r.Zone, err = applyReportZone(base, now, k.ReportZone)
	case *pb.NodeCommand_RaiseMachineVersion:
		r.MachineVersion, err = applyRaiseMachineVersion(base, k.RaiseMachineVersion)
	case *pb.NodeCommand_RegisterSession:
		r.Answer, err = applyRegisterSession(base, index, now, k.RegisterSession)
	case *pb.NodeCommand_VerifyState:
		r.Verified, err = nexusraft.Index(k.VerifyState.GetIndex()), applyVerify(base, k.VerifyState)
	default:
		err = &UnknownCommandError{"a node's command is of a kind that this release does not know; run the newest release " +
			"on all nodes"}
	}
	if isRefusal(err) {
		return Result{Refused: err}, nil
	}
	if err == nil && r.Zone != nil {
		r.Zones, r.Events = true, true
		loads.follow(r.Zone)
	}
	r.Change, r.By = describe(c), c.GetRequester()
	r.Answer = append(bytes.Clone(answerPrefix), r.Answer...)
	return r, err
}

// describe says for the log what a command changes of principals, tokens, the authority and the zones,
// without secrets; "" if nothing.
func describe(c *pb.NodeCommand) string {
	switch k := c.GetKind().(type) {
	case *pb.NodeCommand_SetRole:
		zone, role := nexusraft.ZoneID(k.SetRole.GetRole().GetZone()), wire.AccessRoleFromProto(k.SetRole.GetRole().GetRole())
		where := fmt.Sprintf("zone %v", zone)
		if zone == EveryZone {
			where = "every zone"
		}
		if role == nexusraft.AccessNone {
			return fmt.Sprintf("role of %q in %s taken back", k.SetRole.GetName(), where)
		}
		return fmt.Sprintf("role %s in %s given to %q", role, where, k.SetRole.GetName())
	case *pb.NodeCommand_DeletePrincipal:
		return fmt.Sprintf("all roles and tokens of %q taken back", k.DeletePrincipal.GetName())
	case *pb.NodeCommand_PutAccessToken:
		return fmt.Sprintf("access token %x made for %q", k.PutAccessToken.GetId(), k.PutAccessToken.GetName())
	case *pb.NodeCommand_DeleteAccessToken:
		return fmt.Sprintf("access token %x revoked", k.DeleteAccessToken.GetId())
	case *pb.NodeCommand_PutJoinToken:
		return fmt.Sprintf("join token %x made for %d nodes", k.PutJoinToken.GetId(), k.PutJoinToken.GetUses())
	case *pb.NodeCommand_DeleteJoinToken:
		return fmt.Sprintf("join token %x revoked", k.DeleteJoinToken.GetId())
	case *pb.NodeCommand_UseJoinToken:
		return fmt.Sprintf("join token %x used by node %v", k.UseJoinToken.GetId(),
			nexusraft.NodeID(k.UseJoinToken.GetNode()))
	case *pb.NodeCommand_RotateAuthority:
		return describeRotation(k.RotateAuthority)
	case *pb.NodeCommand_RaiseClusterVersion:
		return fmt.Sprintf("cluster version raised to %d", k.RaiseClusterVersion.GetMinor())
	case *pb.NodeCommand_CreateZone:
		return fmt.Sprintf("zone %q with state machine %q asked for", k.CreateZone.GetName(), k.CreateZone.GetMachine())
	case *pb.NodeCommand_DeleteZone:
		return fmt.Sprintf("zone %q (%v) deleted", k.DeleteZone.GetName(), nexusraft.ZoneID(k.DeleteZone.GetId()))
	case *pb.NodeCommand_ReshapeZone:
		return describeReshape(k.ReshapeZone)
	case *pb.NodeCommand_ReportZone:
		return describeReport(k.ReportZone)
	case *pb.NodeCommand_RaiseMachineVersion:
		return fmt.Sprintf("version of the state machine raised to %d", k.RaiseMachineVersion.GetVersion())
	}
	return ""
}

// isRefusal reports whether an error is a command's answer, the same on every replica.
func isRefusal(err error) bool {
	return errors.Is(err, nexusraft.ErrRefused) || errors.Is(err, nexusraft.ErrTooLarge)
}
