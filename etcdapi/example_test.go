package etcdapi_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/etcdapi"
	"github.com/nexi-lab/nexus-raft/node"
)

// A program whose own process speaks etcd's API, with a cluster of one member.
func Example() {
	dir, err := os.MkdirTemp("", "etcdapi")
	check(err)
	defer os.RemoveAll(dir)
	api, err := etcdapi.New(etcdapi.Options{})
	check(err)
	config := node.Config{Dir: dir + "/n1", Name: "n1"}
	api.Configure(&config)
	_, err = node.Init(config) // once in the life of the cluster
	check(err)
	n, err := node.Open(config)
	check(err)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- api.Run(ctx, n, lis, nil) }()
	check(n.AwaitReady(ctx))
	check(api.AwaitZone(ctx, n, nexusraft.RootZone))

	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(err)
	watch, err := etcdserverpb.NewWatchClient(conn).Watch(ctx)
	check(err)
	check(watch.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
		CreateRequest: &etcdserverpb.WatchCreateRequest{Key: []byte("k")},
	}}))
	_, err = watch.Recv() // the watch begins
	check(err)
	_, err = etcdserverpb.NewKVClient(conn).Put(ctx, &etcdserverpb.PutRequest{Key: []byte("k"), Value: []byte("v")})
	check(err)
	seen, err := watch.Recv()
	check(err)
	for _, e := range seen.Events {
		fmt.Printf("%v %s=%s at revision %d\n", e.Type, e.Kv.Key, e.Kv.Value, e.Kv.ModRevision)
	}
	check(conn.Close())
	stop()
	check(<-ended)
	// Output: PUT k=v at revision 2
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
