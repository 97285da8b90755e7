package etcdtest

import (
	"fmt"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// etcd's client watches a prefix: from a revision of before, and on, with what was there before.
func TestWatch(t *testing.T) {
	onEach(t, func(t *testing.T, client *clientv3.Client) {
		first, err := client.Put(within(t, patience), "watched/a", "1")
		if err != nil {
			t.Fatal(err)
		}
		ctx := clientv3.WithRequireLeader(within(t, patience))
		events := client.Watch(ctx, "watched/", clientv3.WithPrefix(), clientv3.WithRev(first.Header.Revision),
			clientv3.WithPrevKV())
		if _, err := client.Put(within(t, patience), "watched/a", "2"); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Delete(within(t, patience), "watched/a"); err != nil {
			t.Fatal(err)
		}
		var got []string
		for len(got) < 3 {
			resp, ok := <-events
			if !ok || resp.Err() != nil {
				t.Fatalf("after %q: %v", got, resp.Err())
			}
			for _, e := range resp.Events {
				got = append(got, fmt.Sprintf("%s %s was %s", e.Type, e.Kv.Value, e.PrevKv.GetValue()))
			}
		}
		if want := "[PUT 1 was  PUT 2 was 1 DELETE  was 2]"; fmt.Sprint(got) != want {
			t.Errorf("got %s, want %s", fmt.Sprint(got), want)
		}
	})
}
