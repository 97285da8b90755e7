package metrics_test

import (
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/storage/metrics"
)

func Example() {
	store, err := storage.OpenTemporary(nil)
	if err != nil {
		panic(err)
	}
	defer store.Close()

	registry := prometheus.NewRegistry()
	labeled := prometheus.WrapRegistererWith(prometheus.Labels{"store": "sessions"}, registry)
	labeled.MustRegister(metrics.NewCollector(store))
	http.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))

	if err := store.Set([]byte("key"), []byte("value")); err != nil {
		panic(err)
	}
	families, err := registry.Gather()
	if err != nil {
		panic(err)
	}
	for _, f := range families {
		if f.GetName() == "nexus_raft_storage_written_bytes_total" {
			fmt.Println(f.GetName(), f.GetMetric()[0].GetCounter().GetValue() >= 8)
		}
	}
	// Output: nexus_raft_storage_written_bytes_total true
}
