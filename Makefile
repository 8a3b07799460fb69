# make help says what there is. No target asks for anything but make, git and
# Go: hack/packages.txt names the rest, and what is missing gets installed.

PREFIX ?= /usr/local
export PATH := $(PATH):/usr/local/go/bin

COMMIT := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
GO_BUILD := CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.commit=$(COMMIT)'
# The race detector needs a C compiler.
RACE := $(if $(shell command -v gcc),-race)

# Tests whose dependencies are too heavy for everybody are modules of their own.
TEST_MODULES := $(patsubst %/go.mod,%,$(wildcard test/*/go.mod))

.DEFAULT_GOAL := help

.PHONY: help
help: ## say what the targets do
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

.PHONY: go
go:
	@hack/go.sh

.PHONY: build
build: go ## build bin/stagelet and bin/stagelet-stage1
	$(GO_BUILD) -o bin/stagelet ./cmd/shim
	$(GO_BUILD) -o bin/stagelet-stage1 ./cmd/stage1

.PHONY: run
run: build ## run a demonstration pod, then serve CRI until interrupted
	@hack/deps.sh run
	$(GO_BUILD) -o bin/ ./hack/busybox-image ./hack/demo
	@hack/as-root hack/run.sh

.PHONY: check
check: go ## test what needs no root
	go test -short $(RACE) ./...

.PHONY: test
test: build ## test everything (as root)
	@hack/deps.sh test
	@hack/as-root true
	go vet ./...
	go test -count=1 -timeout 30m -exec $(CURDIR)/hack/as-root ./...
	@set -e; for m in $(TEST_MODULES); do echo "# $$m"; cd $(CURDIR)/$$m; go vet ./...; \
	  go test -count=1 -timeout 30m -exec $(CURDIR)/hack/as-root ./...; done

.PHONY: vmtest
vmtest: go ## test cgroup version 2 in a virtual machine (minutes)
	@hack/deps.sh vm
	test/vm/run.sh

.PHONY: lint
lint: bin/tools/golangci-lint ## check style
	bin/tools/golangci-lint run ./...
	bin/tools/golangci-lint fmt --diff ./...
	@dead=$$(bin/tools/deadcode -test ./...) && { [ -z "$$dead" ] || { echo "$$dead"; exit 1; }; }

# Every tool that hack/tools/go.mod pins.
bin/tools/golangci-lint: hack/tools/go.mod hack/tools/go.sum | go
	@mkdir -p bin/tools
	cd hack/tools && go build -o $(CURDIR)/bin/tools/ tool
	@touch $@

.PHONY: bench
bench: build ## measure pod life cycles against a fresh server
	@hack/deps.sh run
	$(GO_BUILD) -o bin/ ./hack/busybox-image
	$(GO_BUILD) -o bin/bench-cri ./hack/bench/cri
	@hack/as-root hack/bench/run.sh $(BENCH)
	go test -run '^$$' -bench . -benchtime 50x -exec $(CURDIR)/hack/as-root ./test/e2e

.PHONY: benchpull
benchpull: build ## measure pulls of a large image against a comparison
	$(GO_BUILD) -o bin/bench-pull ./hack/bench/pull
	@hack/as-root bin/bench-pull $(BENCH)

.PHONY: install
install: build ## install below PREFIX (/usr/local), with a systemd unit
	bin/stagelet install --prefix $(PREFIX) --destdir "$(DESTDIR)"

.PHONY: clean
clean: ## remove what was built
	rm -rf bin
