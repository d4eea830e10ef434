# netroot: build, test, measure. CONTRIBUTING.md says what each is for.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  = -s -w -X main.version=$(VERSION)
GOBUILD  = CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'
PREFIX  ?= /usr/local

.PHONY: all
all: bin/netroot bin/netroot-init

.PHONY: bin/netroot bin/netroot-init
bin/netroot bin/netroot-init:
	$(GOBUILD) -o $@ ./cmd/$(@F)
	@stat -c '%n: %s bytes' $@

.PHONY: setup
setup:
	./.ci/setup

# The main job on a fresh machine: build the Debian recipe, boot it diskless, show the login.
.PHONY: demo
demo: setup all
	bin/netroot build debian12
	bin/netroot vm debian12

.PHONY: test
test: all
	./.ci/test

# Every fuzz target, one after the other.
FUZZTIME ?= 30s
.PHONY: fuzz
fuzz:
	./.ci/fuzz $(FUZZTIME)

# What takes hours: long fuzzing, every test under the race detector, killed processes again and again, other releases.
.PHONY: soak
soak: all
	./.ci/soak

# What is written in findings/ about other software, run again.
.PHONY: findings
findings:
	./.ci/findings

# Everything, with what it needs installed first: the same as CI.
.PHONY: check
check:
	./.ci/run

# The numbers, each beside a peer in the same run. BENCH_STATE is a state directory with an image of debian12.
BENCH_STATE ?= /var/lib/netroot
.PHONY: bench
bench: all
	$(GO) run ./test/bench/nbd
	$(GO) run ./test/bench/nvme
	$(GO) run ./test/bench/iscsi
	$(GO) run ./test/bench/http
	$(GO) run ./test/bench/idle
	$(GO) run ./test/bench/abuse
	$(GO) run ./test/bench/nfs
	$(GO) run ./test/bench/scripts
	$(GO) run ./test/bench/secrets
	$(GO) run ./test/bench/store
	$(GO) run ./test/bench/build
	$(GO) run ./test/bench/sparse
	$(GO) run ./test/bench/boot -state $(BENCH_STATE)

.PHONY: install
install: all
	install -D -m 755 bin/netroot $(DESTDIR)$(PREFIX)/bin/netroot
	install -D -m 755 bin/netroot-init $(DESTDIR)$(PREFIX)/lib/netroot/netroot-init
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man1 docs/man/*.1
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man5 docs/man/*.5
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man7 docs/man/*.7
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system packaging/netroot.service packaging/netroot.socket
	sed -i 's#/usr/local/bin#$(PREFIX)/bin#' $(DESTDIR)$(PREFIX)/lib/systemd/system/netroot.service
	bin/netroot completion bash | install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/share/bash-completion/completions/netroot

.PHONY: clean
clean:
	rm -rf bin
