# Bothy. `make help` lists what can be made.
SHELL := /bin/bash
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
DATE    ?= $(shell git log -1 --format=%cI 2>/dev/null || echo unknown)
LDFLAGS  = -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.date=$(DATE)
HELPER   = runtime/gpu/helper/nvml-helper
LINT     = go tool -modfile=tools/go.mod
CC      ?= cc

.PHONY: build helper demo test check fuzz soak bench bench-engine parity conformance packages test-systemd tools clean help

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: helper ## write bin/bothy: one static binary, with the GPU reader inside where a C compiler is at hand
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/bothy ./cmd/bothy

helper:
	@if command -v $(CC) >/dev/null; then \
		CGO_ENABLED=1 CGO_CFLAGS='-O2 -Wno-deprecated-declarations' go build -trimpath -ldflags '-s -w' -o $(HELPER) ./runtime/gpu/nvml && \
		gzip -9n <$(HELPER) >$(HELPER).gz && rm $(HELPER); \
	else echo "build: no C compiler: bothy is built without the GPU reader"; rm -f $(HELPER).gz; fi

demo: build ## the main job end to end on this machine (KEEP=1 leaves it running, MODEL=/path/to.gguf uses yours)
	go run ./cmd/demo -bothy bin/bothy $(if $(KEEP),-keep) $(if $(MODEL),-model $(MODEL))

tools: ## install the real programs that the tests run against
	scripts/test-tools

test: tools helper ## all tests, with the race detector where it is affordable
	scripts/test

check: ## lint, floors, generated files up to date
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "gofmt: run gofmt -w on:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./...
	$(LINT) staticcheck ./...
	$(LINT) errcheck -ignoretests -exclude tools/errcheck.txt ./...
	$(LINT) ineffassign ./...
	$(LINT) misspell -error -i mosquitto $$(git ls-files '*.go' '*.md' 'scripts/*' Makefile)
	go test -count=1 ./internal/house
	go test -run 'Documented|Readmes|Example|OneScreen|Schema' ./cmd/bothy ./agent/policy
	go mod tidy -diff

parity: tools ## greedy output of the embedded engine against llama-server on the models of a folder (MODELS=DIR)
	@test -n "$(MODELS)" || { echo "parity: name the folder: make parity MODELS=/path/to/ggufs"; exit 1; }
	BOTHY_PARITY_MODELS="$(abspath $(MODELS))" go test -count=1 -timeout 60m -run 'EqualsLlamaServer' -v ./runtime/embedded/...

bench: ## Go benchmarks of the policy, the detectors, the gateway and the transfer, with their floors in the same run
	go test -run '^$$' -bench . -benchmem -timeout 60m ./agent/... ./updater/...

bench-engine: build ## the embedded engine's own prefill and decode speed (no comparison with llama.cpp yet)
	@echo "bench-engine: does not run llama-bench beside it yet; for the engine's own numbers: bin/bothy engine bench -m testdata/models/mote-chat-q8_0.gguf"; exit 1

fuzz: ## every parser of what comes over the broker, one minute each (FUZZ=10s for less)
	scripts/fuzz $(or $(FUZZ),1m) ./updater/...

soak: tools helper ## the long runs, many hours: fuzzing, crashes in pairs, load (FUZZ=1h for each target, SOAK=REGEXP of tests)
	scripts/soak

conformance: ## write build/tuf-client, the client for the TUF conformance suite, and run our own tests of it
	CGO_ENABLED=0 go build -trimpath -o build/tuf-client ./updater/trust/conformance
	go test -count=1 ./updater/trust/conformance

packages: ## .deb and .rpm for amd64 and arm64 in build/packages, linted, contents against the golden list
	scripts/package-tools
	rm -f build/packages/*.deb build/packages/*.rpm
	scripts/packages
	scripts/lint-packages
	go test -count=1 ./packaging -args -packages "$(CURDIR)/build/packages"

test-systemd: ## the .deb through its life in a booted systemd, about two minutes, needs root
	scripts/package-tools
	scripts/test-systemd

clean: ## remove what was built
	rm -rf bin build/test $(HELPER).gz
