# conntrack-sync. `make demo` and `make test` install what they need (as root,
# on Debian 12) and do everything else from a fresh clone.

GO        ?= go
BIN       := $(CURDIR)/bin
VERSION   ?= $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LDFLAGS   := -s -w -X main.version=$(VERSION)
FUZZTIME  ?= 20s
PACKAGES  := ./...
UNIT      := $(shell $(GO) list ./... 2>/dev/null | grep -v '/integration')

export CGO_ENABLED ?= 0

.PHONY: build install test unit race integration check fuzz bench bench-micro proto demo demo-clean install-tools clean

build:
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./host/conntrack-sync ./plugin/conntrack-sync-plugin

install-tools:
	@sh integration/install.sh

# Everything there is to test. Without root the privileged tests are skipped and
# named at the end; with CI=true a skipped one is a failure.
test: install-tools build check race integration

unit:
	$(GO) test $(UNIT)

# The race detector needs cgo and a C compiler.
race:
	@CGO_ENABLED=1 sh integration/run.sh $(GO) -race -timeout 15m $(UNIT)
	@sh integration/run.sh $(GO) -run InternalNeighbour ./host/bgp # not under the detector

integration: build
	$(GO) build -trimpath -o $(BIN)/ ./host/bgp/routinghost
	@sh integration/run.sh $(GO) -count=1 -timeout 30m ./integration/...

check:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$')); \
	  if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet $(PACKAGES)
	$(GO) tool staticcheck $(PACKAGES)
	@impure=$$($(GO) list -deps ./sync/flow ./sync/wire ./sync/ftfw ./sync/native ./sync/proof ./sync/cache ./sync/stats ./sync/engine ./sync/groups ./conf ./conf/conntrackdconf ./host/show | \
	  grep -xE 'net|os/exec|.*(mdlayher|ti-mo|fsnotify|google.golang.org/grpc|go-plugin).*'); \
	  if [ -n "$$impure" ]; then echo "the pure core imports: $$impure"; exit 1; fi
	@stray=$$($(GO) list -f '{{.ImportPath}} {{.Imports}}' ./... | grep -E ' .*mdlayher/netlink' | cut -d' ' -f1 | grep -vE '/sync/(kernel|udp|guard)$$'); \
	  if [ -n "$$stray" ]; then echo "netlink belongs into sync/kernel, sync/udp and sync/guard, and not into: $$stray"; exit 1; fi
	@odd=$$(git grep -l 'osrg/gobgp' -- '*.go' | grep -v '^host/bgp/'); \
	  if [ -n "$$odd" ]; then echo "gobgp belongs in host/bgp alone: $$odd"; exit 1; fi

fuzz:
	@sh integration/fuzz.sh $(GO) $(FUZZTIME)

# Installs what `make build` made: make install DESTDIR=/tmp/package, for one.
PREFIX     ?= /usr
sbin       := $(DESTDIR)$(PREFIX)/sbin
libexec    := $(DESTDIR)$(PREFIX)/libexec/conntrack-sync
unit       := $(DESTDIR)$(PREFIX)/lib/systemd/system
completion := $(DESTDIR)$(PREFIX)/share/bash-completion/completions
docs       := $(DESTDIR)$(PREFIX)/share/doc/conntrack-sync

install:
	install -d $(sbin) $(libexec) $(unit) $(completion) $(docs)/examples $(DESTDIR)/etc/conntrack-sync/conf.d
	install -m 755 $(BIN)/conntrack-sync $(sbin)/
	install -m 755 $(BIN)/conntrack-sync-plugin $(libexec)/
	sed 's|/usr/|$(PREFIX)/|' packaging/conntrack-sync.service >$(unit)/conntrack-sync.service
	$(BIN)/conntrack-sync completion bash >$(completion)/conntrack-sync
	install -m 644 README.md CHANGELOG.md LICENSE NOTICE docs/*.md $(docs)/
	install -m 644 packaging/examples/* packaging/keepalived/* $(docs)/examples/

# The comparison with conntrackd, as root: QUICK=1 is short, PARTS=udp,bulk only
# some, RATES=20,60 those thousands of UDP flows/s, DOCS=docs writes the table into docs/BENCHMARKS.md.
bench: install-tools build
	$(GO) build -trimpath -o $(BIN)/bench-run ./integration/bench
	$(BIN)/bench-run -v -bin $(BIN) -out $(BIN)/bench $(if $(QUICK),-quick) $(if $(PARTS),-parts $(PARTS)) \
	  $(if $(SYSTEMS),-systems $(SYSTEMS)) $(if $(REPEAT),-repeat $(REPEAT)) $(if $(RATES),-rates $(RATES)) $(if $(SIZE),-size $(SIZE)) $(if $(DOCS),-docs $(DOCS))

# The hot path alone, without root; compare two runs with benchstat.
bench-micro:
	$(GO) test -run '^$$' -bench . -benchmem -count=$(or $(COUNT),1) ./sync/...

# The generated code is committed; `make proto` makes it anew from engine.proto.
proto:
	mkdir -p $(BIN)/tools
	$(GO) build -o $(BIN)/tools/protoc-gen-go google.golang.org/protobuf/cmd/protoc-gen-go
	$(GO) build -o $(BIN)/tools/protoc-gen-go-grpc google.golang.org/grpc/cmd/protoc-gen-go-grpc
	PATH=$(BIN)/tools:$$PATH protoc -I plugin/enginepb --go_out=plugin/enginepb --go_opt=paths=source_relative \
	  --go-grpc_out=plugin/enginepb --go-grpc_opt=paths=source_relative plugin/enginepb/engine.proto

demo: install-tools build
	$(GO) build -trimpath -o $(BIN)/demo ./integration/demo
	KEEP=$(KEEP) $(BIN)/demo

demo-clean:
	$(BIN)/demo clean

clean:
	rm -rf $(BIN)
