# Every target does its own set-up (`make deps`): Debian packages, Go, FFmpeg. The second run finds all that done.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
export AFTERIMAGE_ROOT := $(CURDIR)

ENV := . scripts/env.sh
# Each test package must be done within this.
TIMEOUT ?= 15m
FUZZTIME ?= 20s
TOOL := go tool -modfile=tools/go.mod
# A checkout that git refuses to read (another owner's, a tarball) is built without a commit in its version.
STAMP := $(shell git status >/dev/null 2>&1 || echo -buildvcs=false)
# scripts/env.sh sets NVCC where there is a CUDA toolkit; without one only the CPU program is built and checked.
KERNELS := $(MAKE) --no-print-directory -C internal/compute/cuda

.PHONY: help deps cuda build demo test lint vuln bench fuzz env clean

help: ## show this
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

deps: ## install and build what is needed, once
	@scripts/deps.sh

build: deps ## bin/afterimage (and bin/afterimage-cuda where a CUDA toolkit is found)
	@$(ENV)
	go build $(STAMP) -o bin/afterimage ./cmd/afterimage
	if [ -n "$${NVCC:-}" ]; then
		$(KERNELS)
		go build $(STAMP) -tags cuda -o bin/afterimage-cuda ./cmd/afterimage
	fi

cuda: deps ## make build, with a CUDA toolkit fetched first where there is none (1 GB)
	@scripts/cuda.sh get
	$(MAKE) --no-print-directory build

demo: ## watch a simulated camera and ask about it; ONCE=1 asks three questions and ends
	@if [ ! -x bin/afterimage ] && [ ! -f .deps/ffmpeg/.complete ]; then
		echo 'demo: the first run sets everything up: packages, FFmpeg, Go modules, the build (a few minutes; after that, seconds)' >&2
	fi
	$(MAKE) --no-print-directory build
	exec bin/afterimage demo $(if $(ONCE),--once) $(ARGS)

test: ## check and test everything
	@scripts/deps.sh chromium
	scripts/openai.sh
	scripts/axe.sh
	if [ "$${AFTERIMAGE_CUDA:-}" = build ]; then scripts/cuda.sh get; fi
	$(MAKE) --no-print-directory lint
	$(ENV)
	if [ -n "$${NVCC:-}" ]; then
		echo 'test: -tags cuda is built, tests included (running them needs a GPU: internal/compute/cuda/device-test.sh)' >&2
		go build $(STAMP) -tags cuda -o bin/afterimage-cuda ./cmd/afterimage
		bin=$$(mktemp -d)
		go test -tags cuda -c -o $$bin/ $$(git ls-files -co --exclude-standard -- '*_test.go' | xargs grep -l '^//go:build cuda' | xargs -n1 dirname | sort -u | sed 's|^|./|')
		rm -rf $$bin
	fi
	echo 'test: go test -race ./...' >&2
	go test -race -timeout $(TIMEOUT) ./... $(ARGS)

lint: deps
	@$(ENV)
	echo 'lint: gofmt' >&2
	bad=$$(git ls-files -co --exclude-standard -- '*.go' | xargs gofmt -l)
	if [ -n "$$bad" ]; then echo "not formatted with gofmt:" $$bad >&2; exit 1; fi
	echo 'lint: go vet' >&2
	go vet ./...
	echo 'lint: staticcheck' >&2
	$(TOOL) staticcheck ./...
	if [ -n "$${NVCC:-}" ]; then
		$(KERNELS)
		echo 'lint: go vet and staticcheck with -tags cuda' >&2
		go vet -tags cuda ./...
		$(TOOL) staticcheck -tags cuda ./...
	else
		echo 'lint: no CUDA toolkit here, so what is for GPUs is left out; `make cuda` fetches one' >&2
	fi
	echo 'lint: known vulnerabilities are looked up by `make vuln`, which needs the network' >&2

vuln: deps ## look up known vulnerabilities of what is linked (asks the Go vulnerability database)
	@$(ENV)
	$(TOOL) govulncheck ./...

bench: deps ## Go benchmarks
	@$(ENV)
	go test -run '^$$' -bench . -benchmem ./... $(ARGS)

fuzz: deps ## run every fuzz test for FUZZTIME (20s)
	@$(ENV)
	for dir in $$(git ls-files -co --exclude-standard -- '*_test.go' | xargs grep -l '^func Fuzz' | xargs -n1 dirname | sort -u); do
		for f in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$dir/*_test.go | cut -c6-); do
			echo "fuzz: $$dir $$f" >&2
			go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) ./$$dir
		done
	done

env: ## print what `. scripts/env.sh` sets, for eval
	@old=$$(export -p)
	$(ENV)
	export -p | grep -vxFf <(echo "$$old") || true

clean: ## remove what was built, FFmpeg included
	rm -rf bin .deps
	$(KERNELS) clean
