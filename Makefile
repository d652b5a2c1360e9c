# Everything here says what it does. On a fresh Debian or Ubuntu machine, as root, "make demo" and "make test" are enough:
# they install what they need.

# Not ?=: an empty GO that an outer make exports, from before deps had installed one, is none.
ifeq ($(GO),)
GO := $(or $(shell command -v go),$(wildcard /usr/local/go/bin/go),$(lastword $(sort $(wildcard /usr/lib/go-1.*/bin/go))))
endif
PATH := $(dir $(GO)):$(PATH):/usr/sbin:/sbin
export GO PATH
# A Go that is older than go.mod asks for fetches the one it names.
export GOTOOLCHAIN = auto

GOFUMPT = mvdan.cc/gofumpt@v0.12.0
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
CARRIER ?= quic

KERNELS ?= 6.1 6.12

.PHONY: help deps build lint fast test demo soak order bench kernels package install-test guest-test image image-test docs-tables clean

help: ## print this
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r t d; do printf '  make %-12s %s\n' "$$t" "$$d"; done

deps: ## install what is missing (apt packages; Go fetches its modules itself)
	@bash packaging/deps.sh

# The recipes run make again: a Go that deps has just installed is then found.
build: deps ## build the commands, static, into bin/
	@$(MAKE) --no-print-directory _build

_build:
	@echo "build: the commands, into bin/"
	@mkdir -p bin
	@CGO_ENABLED=0 $(GO) build -trimpath -o bin/ ./cmd/... ./bench/demo ./bench/soak ./bench/figures ./bench/order

lint: deps ## go vet, gofumpt and staticcheck
	@$(MAKE) --no-print-directory _lint

_lint:
	@echo "lint: go vet"
	@$(GO) vet ./...
	@echo "lint: gofumpt"
	@out=$$($(GO) run $(GOFUMPT) -l .) && { [ -z "$$out" ] || { echo "not formatted, run $(GO) run $(GOFUMPT) -w .:"; echo "$$out"; exit 1; }; }
	@echo "lint: staticcheck"
	@$(GO) run $(STATICCHECK) ./...

fast: deps ## the quick part of the tests: go vet, house rules, units
	@$(MAKE) --no-print-directory _fast

_fast:
	@echo "fast: go vet, house rules, units"
	@$(GO) vet ./...
	@$(GO) test ./internal/...

test: build lint ## every test, as root, with the race detector; none may be skipped
	@[ "$$(id -u)" = 0 ] || { echo "make test: loop devices, mounts and BPF need root: run it as root" >&2; exit 1; }
	@echo "test: go test -race ./..."
	@bash packaging/test.sh

demo: build ## the main job on a real disk: track, replicate, kill and wipe the source, recover, check (about 1 minute)
	@bin/demo --carrier $(CARRIER)

soak: build ## 5 minutes of load with kill -9 of agent or receiver every few seconds; then every point is checked
	@bin/soak --carrier $(CARRIER)

order: build ## write order proven: stamped sectors on raw disks, ext4, xfs and a group; without the freeze it must fail (2 minutes)
	@bin/order --carrier $(CARRIER)

bench: build ## what tracking costs an application, a first sync in CPU, and points of a busy disk; results also in bench/out/
	@bin/figures

kernels: deps ## the tracker's tests on stock Debian kernels, with virtio and NVMe disks, in emulated machines (about 3 minutes each)
	@$(MAKE) --no-print-directory _kernels

_kernels:
	@bash packaging/kernels.sh $(KERNELS)

package: deps ## .deb and .rpm for amd64 and arm64, with checksums, into packaging/out (docs/PACKAGING.md)
	@$(MAKE) --no-print-directory _package

_package:
	@bash packaging/package.sh

install-test: deps ## install the packages for real: .deb in a Debian under systemd, .rpm in a root of its own (4 minutes)
	@$(MAKE) --no-print-directory _install-test

_install-test:
	@bash packaging/install.sh

guest-test: deps ## the whole in an emulated machine: protect its /, cut the power, restore, boot the copy, find the files (3 minutes)
	@$(MAKE) --no-print-directory _guest-test

_guest-test:
	@bash packaging/guest.sh

image: deps ## the receiver's image, a raw disk for clouds and hypervisors, into packaging/out (docs/PACKAGING.md)
	@$(MAKE) --no-print-directory _image

_image:
	@bash packaging/image.sh

image-test: deps ## make that image and boot it: agents are accepted in 30 s, disks that hold anything are left alone (2 minutes)
	@$(MAKE) --no-print-directory _image-test

_image-test:
	@bash packaging/image-test.sh

# One after the other: both write the same file.
docs-tables: ## write the tables of configuration keys (docs/CONFIG.md) and of metrics (docs/METRICS.md) from the code
	@$(GO) test -count=1 -p 1 ./cmd/understudy-agent ./cmd/understudy-receiver -run TestTheTableOfKeys -update
	@$(GO) test -count=1 ./packaging/observe -run TestMetricsAreDocumented -update

clean: ## remove what was built
	rm -rf bin bench/out packaging/out
