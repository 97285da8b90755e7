# Every check, one target each; `bash .ci/run` runs them all in a clean checkout. Nothing but
# Go and make is needed: tools come through the module proxy, in the versions given here.

TOOLS       := mvdan.cc/gofumpt@v0.12.0 honnef.co/go/tools/cmd/staticcheck@v0.7.0
GENERATORS  := $(shell grep -oh '[a-z.]*/[a-z/-]*@v[0-9.]*' proto/gen.go buf.gen.yaml | sort -u)
GOFUMPT     := go run $(word 1,$(TOOLS))
STATICCHECK := go run $(word 2,$(TOOLS))
FUZZTIME    ?= 20s
LOAD        ?= 60s
DIFFERENTIAL ?= 1h
SUITES      ?= etcd/common@nexus-raft,kubernetes/etcd3@nexus-raft
OUT         ?= dist

PLATFORMS := linux/amd64 linux/arm64 linux/arm darwin/arm64 windows/amd64
PROGRAMS  := nexus-raft nexus-witness
MODULES   := etcdtest bench
CHECKS    := test lint tidy generate mutants attack race fuzz etcd bench upgrade cross footprint snapshot demo
# grpcnotrace: without gRPC's page of traces, which nobody serves, and the templates that it brings.
BUILD     := CGO_ENABLED=0 go build -tags grpcnotrace -trimpath -ldflags '-s -w'

.PHONY: all $(CHECKS) fetch build clean differential suites kubernetes

## all: every check, in the order of .ci/run, which adds how long each took
all: $(CHECKS)

## fetch: every module and tool that the other checks need
fetch:
	go mod download
	for module in $(MODULES); do (cd $$module && go mod download) || exit 1; done
	bin=$$(mktemp -d) && for tool in $(TOOLS) $(GENERATORS); do GOBIN=$$bin go install $$tool || exit 1; done && rm -r $$bin

## test: what the README promises to pass with nothing but Go
test:
	go test ./...

## lint: format, vet, static checks, of all modules
lint:
	@unformatted=$$($(GOFUMPT) -l .); test -z "$$unformatted" || { echo "not gofumpt-clean: $$unformatted"; exit 1; }
	go vet ./...
	$(STATICCHECK) ./...
	for module in $(MODULES); do (cd $$module && go vet ./... && $(STATICCHECK) ./...) || exit 1; done

## tidy: go.mod names what is used, and nothing else
tidy:
	go mod tidy -diff
	for module in $(MODULES); do (cd $$module && go mod tidy -diff) || exit 1; done

## generate: the protocol is lint-free, and the code generated from it is current
generate:
	go generate ./proto/...
	git diff --exit-code -- api proto internal/rpc/etcd/concurrency

## mutants: a mistake in the driver, one at a time, makes a test fail; docs/robustness.md has the command for all
mutants:
	go test -count=1 -tags mutants -run '^TestMutants$$' ./internal/driver

## attack: what is done to the real programs under limits, all of it; go test plays one of each kind
attack:
	NEXUS_RAFT_ATTACKS=all go test -v -count=1 -timeout 10m -run 'UnderLimits$$' ./cmd/nexus-raft

## race: the simulation, which runs in one goroutine, plays its short form here; the nodes, whose
## timeouts are those of a fast machine, have this one for themselves
race:
	CGO_ENABLED=1 go test -race -tags invariants -timeout 20m -parallel 2 ./node
	NEXUS_RAFT_TEST_WORKERS=1 CGO_ENABLED=1 go test -race -tags invariants -timeout 20m -parallel 2 -run 'Zone|Sleep|Lead' ./node
	CGO_ENABLED=1 go test -race -tags invariants -timeout 20m $$(go list ./... | grep -Ev '/(internal/simtest|node)$$')
	CGO_ENABLED=1 go test -race -tags invariants -short -timeout 20m -run 'Test(.*Chaos|Regressions|FounderAlone)$$' ./internal/simtest -simtest.seeds=100

## fuzz: every target for FUZZTIME
fuzz:
	bash .ci/fuzz $(FUZZTIME)

## etcd: etcd's own Go client and etcdctl against a cluster of real processes
etcd:
	cd etcdtest && go test ./...

## differential: random requests to an etcd and to a cluster, side by side, for DIFFERENTIAL; etcd has two minutes of it in CI
differential:
	cd etcdtest && NEXUS_RAFT_DIFFERENTIAL=$(DIFFERENTIAL) go test -v -count=1 -timeout 24h -run '^TestDifferential$$' .

## kubernetes: a kube-apiserver, which takes long to build, on a cluster whose leader is killed
kubernetes:
	cd etcdtest && NEXUS_RAFT_KUBERNETES=$${NEXUS_RAFT_KUBERNETES:-build} go test -v -count=1 -timeout 90m -run '^TestKubernetes$$' .

## suites: test suites of etcd and of Kubernetes against clusters of real processes, those of SUITES
suites:
	cd etcdtest && NEXUS_RAFT_SUITES=$(SUITES) go test -v -count=1 -timeout 2h -run '^TestSuites$$' .

## bench: what measures the store measures it right; to measure: cd bench && go run . storage (transport, zones)
bench:
	cd bench && go test ./...

## upgrade: an earlier program is replaced by this one, node by node under writes, and back; needs history
upgrade:
	bash .ci/upgrade

## build: both programs for this machine
build:
	@mkdir -p $(OUT)
	@for program in $(PROGRAMS); do $(BUILD) -o $(OUT)/$$program ./cmd/$$program || exit 1; done

## cross: both programs for each platform, without cgo
cross:
	@mkdir -p $(OUT)
	@for platform in $(PLATFORMS); do for program in $(PROGRAMS); do \
	  echo "$$program $$platform"; \
	  GOOS=$${platform%/*} GOARCH=$${platform#*/} $(BUILD) -o $(OUT)/$$program-$$(echo $$platform | tr / -) ./cmd/$$program || exit 1; \
	done; done

## footprint: sizes are what the README says, and the witness stays small under load
footprint:
	NEXUS_RAFT_FOOTPRINT=$(LOAD) go test -v -count=1 -timeout 10m -run '^TestFootprint$$' ./cmd/nexus-witness

## snapshot: 2 GiB from one store to another, in little memory
snapshot:
	NEXUS_RAFT_SNAPSHOT_GIB=2 go test -v -count=1 -timeout 10m -run '^TestLargeSnapshotInLittleMemory$$' ./internal/snapshot

## demo: processes killed under load, with the real witness program; nothing may be lost
demo: build
	@for kill in leader each; do \
	  $(OUT)/nexus-raft demo . --kill $$kill --witness-bin $(OUT)/nexus-witness --json >$(OUT)/demo.out || exit 1; \
	  tail -n 1 $(OUT)/demo.out; \
	  tail -n 1 $(OUT)/demo.out | grep -q '"lost":0[,}]' || { echo "demo --kill $$kill lost an acknowledged write"; exit 1; }; \
	  tail -n 1 $(OUT)/demo.out | grep -q '"state_checksums_equal":true' || { echo "demo --kill $$kill: the members' states differ"; exit 1; }; \
	done

clean:
	rm -rf $(OUT)
