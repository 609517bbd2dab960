# `make help` lists what there is. Cargo does the building; this file knows the order of things and
# where they land.

PREFIX     ?= /usr
SYSCONFDIR ?= /etc
DESTDIR    ?=
CARGO      ?= cargo
INSTALL    ?= install

# The tests start programs from folders of their own: the build folder must be named in full.
ifdef CARGO_TARGET_DIR
export CARGO_TARGET_DIR := $(abspath $(CARGO_TARGET_DIR))
TARGET := $(CARGO_TARGET_DIR)
else
TARGET := $(CURDIR)/target
endif

PROGRAMS := rebootlockd rebootlockctl rebootlock-gateway
UNITS    := rebootlockd.service rebootlock-gateway.service rebootlock-gateway.socket
LICENCES := LICENSE-APACHE LICENSE-MIT
DOCS     := $(wildcard README.md ARCHITECTURE.md CHANGELOG.md CONTRIBUTING.md)

BINDIR  := $(PREFIX)/bin
DOCDIR  := $(PREFIX)/share/doc/rebootlock
BASHDIR := $(PREFIX)/share/bash-completion/completions
ZSHDIR  := $(PREFIX)/share/zsh/site-functions
FISHDIR := $(PREFIX)/share/fish/vendor_completions.d
MANDIR  := $(PREFIX)/share/man/man1
CONFDIR := $(SYSCONFDIR)/rebootlock
# systemd and the bus read these folders in /usr and in /etc, and in no other prefix.
ifeq ($(PREFIX),/usr)
UNITDIR     := /usr/lib/systemd/system
SYSUSERSDIR := /usr/lib/sysusers.d
TMPFILESDIR := /usr/lib/tmpfiles.d
DBUSDIR     := /usr/share/dbus-1/system.d
else
UNITDIR     := $(SYSCONFDIR)/systemd/system
SYSUSERSDIR := $(SYSCONFDIR)/sysusers.d
TMPFILESDIR := $(SYSCONFDIR)/tmpfiles.d
DBUSDIR     := $(SYSCONFDIR)/dbus-1/system.d
endif

.DEFAULT_GOAL := help
.PHONY: help setup build release demo test test-rust test-doc test-systemd check-units bench model fuzz faults fmt lint deny install uninstall clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  with PREFIX=$(PREFIX) (or /opt where /usr is read-only) and DESTDIR= for packages"

setup: ## install missing system packages, fetch newer etcd servers for the tests
	scripts/setup

build: ## debug build of everything
	$(CARGO) build --workspace --bins

release: ## optimised build of what is installed
	$(CARGO) build --release --locked $(PROGRAMS:%=--package %)

demo: setup build ## five machines that reboot one at a time, in this terminal
	$(TARGET)/debug/demo

test: setup ## every test: Rust, documentation examples, units
	$(MAKE) test-rust
	$(MAKE) test-doc
	$(MAKE) check-units

# The fleet-wide tests run the programs themselves, which `cargo test` would not build. Most of them wait for
# most of their time, so half as many again run at once as there are processors.
test-rust: build ## the Rust tests alone
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	  set -x; $(CARGO) nextest run --workspace --no-fail-fast --test-threads $$(($$(nproc) * 3 / 2)); \
	else \
	  set -x; $(CARGO) test --workspace --lib --bins --tests; \
	fi

test-doc: ## the examples in the documentation
	$(CARGO) test --doc --workspace

# Not part of `test`: it needs root and namespaces. Where it cannot be tried it says so, and that is no failure.
test-systemd: build ## the agent on a real systemd, which boots and reboots in namespaces; needs root
	@tests/real-systemd $(TARGET)/debug || [ $$? -eq 77 ]

check-units: ## units, bus policy, sysusers, tmpfiles and the default config
	scripts/check-units

model: ## the protocol's model, deeper than the tests check it: minutes, and gigabytes
	$(CARGO) run --release --package rebootlock-tests --bin model

faults: setup build ## fifty agents on a real cluster, mistreated for two minutes
	REBOOTLOCK_FAULT_SECS=120 $(CARGO) test --package rebootlock-tests --test fleet_faults -- --nocapture

fuzz: ## a hundred thousand requests that are nearly right, to every door of the gateway
	REBOOTLOCK_FUZZ_REQUESTS=100000 $(CARGO) test --package rebootlock-gateway --test fuzz -- --nocapture

bench: ## figures beside a reference from the same run
	scripts/setup strace
	$(CARGO) build --release --workspace --bins
	$(TARGET)/release/bench

fmt: ## format the code
	$(CARGO) fmt --all

lint: ## formatting, clippy, dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- --deny warnings
	@$(MAKE) --no-print-directory deny

deny: ## licences, sources and known faults of what we depend on
	scripts/check-dependencies

install: release ## programs, systemd/, documents, manual pages and completions into DESTDIR
	$(INSTALL) -d $(addprefix $(DESTDIR),$(BINDIR) $(DOCDIR)/proto-docs $(DOCDIR)/docs $(UNITDIR)/update-engine.service.wants \
	  $(SYSUSERSDIR) $(TMPFILESDIR) $(DBUSDIR) $(CONFDIR)/rebootlock.d \
	  $(CONFDIR)/pre-reboot.d $(CONFDIR)/post-reboot.d $(BASHDIR) $(ZSHDIR) $(FISHDIR) $(MANDIR))
	$(INSTALL) -m 0755 $(PROGRAMS:%=$(TARGET)/release/%) $(DESTDIR)$(BINDIR)
	for unit in $(UNITS); do \
	  sed 's,=/usr/bin/rebootlock,=$(BINDIR)/rebootlock,; s,/usr/share/doc/,$(PREFIX)/share/doc/,' \
	    systemd/usr/lib/systemd/system/$$unit >$(DESTDIR)$(UNITDIR)/$$unit && \
	  chmod 0644 $(DESTDIR)$(UNITDIR)/$$unit || exit 1; \
	done
	ln -sfn ../rebootlockd.service $(DESTDIR)$(UNITDIR)/update-engine.service.wants/rebootlockd.service
	$(INSTALL) -m 0644 systemd/usr/lib/sysusers.d/rebootlock.conf $(DESTDIR)$(SYSUSERSDIR)
	$(INSTALL) -m 0644 systemd/usr/lib/tmpfiles.d/rebootlock.conf $(DESTDIR)$(TMPFILESDIR)
	$(INSTALL) -m 0644 systemd/usr/share/dbus-1/system.d/rebootlock.conf $(DESTDIR)$(DBUSDIR)
	@# What somebody has configured is theirs: the new defaults go beside it.
	@new=systemd/etc/rebootlock/rebootlock.toml; old=$(DESTDIR)$(CONFDIR)/rebootlock.toml; \
	if [ -e "$$old" ] && ! cmp -s "$$new" "$$old"; then \
	  echo "keeping $$old; the defaults are in $$old.new"; old=$$old.new; \
	fi; \
	$(INSTALL) -m 0644 "$$new" "$$old"
	$(INSTALL) -m 0644 $(LICENCES) $(DOCS) $(DESTDIR)$(DOCDIR)
	cp -R proto-docs/. $(DESTDIR)$(DOCDIR)/proto-docs
	$(INSTALL) -m 0644 docs/*.md docs/alerts.yml docs/grafana-dashboard.json $(DESTDIR)$(DOCDIR)/docs
	for program in $(PROGRAMS); do \
	  built=$(TARGET)/release/$$program; \
	  $$built completions bash >$(DESTDIR)$(BASHDIR)/$$program && \
	  $$built completions zsh >$(DESTDIR)$(ZSHDIR)/_$$program && \
	  $$built completions fish >$(DESTDIR)$(FISHDIR)/$$program.fish && \
	  $$built manual $(DESTDIR)$(MANDIR) || exit 1; \
	done

uninstall: ## what install put there, but never the configuration or the state
	rm -f $(PROGRAMS:%=$(DESTDIR)$(BINDIR)/%)
	rm -f $(addprefix $(DESTDIR),$(UNITDIR)/update-engine.service.wants/rebootlockd.service \
	  $(UNITS:%=$(UNITDIR)/%) $(SYSUSERSDIR)/rebootlock.conf $(TMPFILESDIR)/rebootlock.conf \
	  $(DBUSDIR)/rebootlock.conf $(PROGRAMS:%=$(BASHDIR)/%) $(PROGRAMS:%=$(ZSHDIR)/_%) $(PROGRAMS:%=$(FISHDIR)/%.fish) \
	  $(PROGRAMS:%=$(MANDIR)/%.1) $(PROGRAMS:%=$(MANDIR)/%-*.1))
	rm -rf $(DESTDIR)$(DOCDIR)
	-rmdir $(DESTDIR)$(UNITDIR)/update-engine.service.wants
	@echo "left in place: $(DESTDIR)$(CONFDIR) and $(DESTDIR)/var/lib/rebootlock"

clean: ## remove what was built, and the servers fetched for the tests
	$(CARGO) clean
