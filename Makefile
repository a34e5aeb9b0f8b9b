# The front door. Everything real is in Rust: this only makes sure that the compilers are there, and says what it does.
# Needs: Debian 12 (or a kin of it) with stable Rust. As root it installs what is missing; otherwise it says what to install.

SHELL := /bin/bash
.DEFAULT_GOAL := help
CARGO ?= cargo
BIN := target/debug/sluice

.PHONY: help setup build demo test test-templates bench fmt lint deny prebuilt clean

help: ## What can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

setup: ## Installs what the build needs from the distribution
	@./gateway/setup.sh build

build: setup ## Builds the gateway (lean profile: about 7 minutes cold on two cores, seconds after)
	@echo "== building sluice (the first time takes minutes: cryptography, the sandbox's compiler, the proxy) =="
	@$(CARGO) build --locked --package sluice-app --bin sluice

demo: build ## Starts a whole gateway on embedded defaults and plays requests through it
	@if [ -t 1 ]; then $(BIN) demo; else $(BIN) demo --once; fi

test: setup ## Sets everything up and passes every test
	@./gateway/setup.sh test
	@echo "== building the binary that the whole-process tests start =="
	@$(CARGO) build --locked --package sluice-app --bin sluice
	@echo "== checking that committed build results match their sources =="
	@$(CARGO) xtask prebuilt --check
	@echo "== running every test =="
	@$(CARGO) test --locked --workspace

test-templates: build ## Makes a plugin project in each language, builds it and plays its fixtures (fetches compilers)
	@./gateway/setup.sh templates
	@$(CARGO) xtask templates

bench: setup ## Measures beside the peers and writes raw JSON into gateway/bench/results/
	@./gateway/setup.sh bench
	@$(CARGO) build --locked --release --package sluice-app --bin sluice
	@$(CARGO) run --quiet --locked --package sluice-bench -- checks
	@$(CARGO) run --quiet --locked --package sluice-bench -- run
	@$(CARGO) run --quiet --locked --package sluice-bench -- introspection
	@$(CARGO) run --quiet --locked --package sluice-bench -- show

fmt: ## Formats
	@$(CARGO) fmt --all

lint: setup ## Formatting and lints, warnings as errors
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

deny: ## Licences, bans and sources of every dependency
	@./gateway/setup.sh deny
	@$(CARGO) deny --locked check licenses bans sources

prebuilt: ## Rebuilds the eBPF object and the sample components (fetches their compilers)
	@$(CARGO) xtask toolchain
	@$(CARGO) xtask bpf
	@$(CARGO) xtask guests

clean: ## Removes what was built here
	@$(CARGO) clean
	@rm -rf .build
