package server

import (
	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/node"
)

// Needs returns what the methods of this package's services ask of their callers, for node.Config.
func Needs() map[string]node.Need {
	read, write := node.Need{Role: nexusraft.AccessRead}, node.Need{Role: nexusraft.AccessWrite}
	root := node.Need{Role: nexusraft.AccessAdmin, In: node.InRootZone}
	return map[string]node.Need{
		etcdserverpb.KV_Range_FullMethodName:           read,
		etcdserverpb.KV_Put_FullMethodName:             write,
		etcdserverpb.KV_DeleteRange_FullMethodName:     write,
		etcdserverpb.Maintenance_Status_FullMethodName: read,
		etcdserverpb.Maintenance_Alarm_FullMethodName:  read, // only the list is offered
		etcdserverpb.Cluster_MemberList_FullMethodName: read,

		pb.Tokens_CreateToken_FullMethodName:       root,
		pb.Tokens_ListTokens_FullMethodName:        root,
		pb.Tokens_RevokeToken_FullMethodName:       root,
		pb.Access_Grant_FullMethodName:             root,
		pb.Access_Revoke_FullMethodName:            root,
		pb.Access_ListAccess_FullMethodName:        root,
		pb.Access_CreateAccessToken_FullMethodName: root,
		pb.Access_RevokeAccessToken_FullMethodName: root,
		pb.Access_IssueCertificate_FullMethodName:  root,
	}
}
