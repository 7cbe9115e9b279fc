# Everything goes into .venv; nothing is installed elsewhere. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
export ORT_DISABLE_TELEMETRY := 1

PYTHON ?= python3
# Where torch comes from: empty = the pinned CUDA build (4.5 GB installed). Users without a GPU may name a package
# index that holds a CPU build: make install TORCH_INDEX=<address>
TORCH_INDEX ?=
UV := .venv/bin/uv pip
BIN := .venv/bin

.PHONY: help install constraints demo test lint types check kafka bench chaos results fuzz image up down

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

install: .venv/installed ## install everything into .venv

.venv/installed: pyproject.toml constraints/dev.txt constraints/torch.txt
	test -x .venv/bin/uv || { $(PYTHON) -m venv .venv && .venv/bin/python -m pip install --quiet uv; }
	VIRTUAL_ENV=.venv $(UV) install --no-progress --require-hashes -r constraints/dev.txt
	if [ -n "$(TORCH_INDEX)" ]; then VIRTUAL_ENV=.venv $(UV) install --no-progress --index-url "$(TORCH_INDEX)" torch; \
	else VIRTUAL_ENV=.venv $(UV) install --no-progress --no-deps --require-hashes -r constraints/torch.txt; fi
	VIRTUAL_ENV=.venv $(UV) install --no-progress --no-deps -e .
	touch $@

constraints: ## resolve the pinned versions anew (writes constraints/*.txt)
	./constraints/compile

DEMO := demo
demo: .venv/installed ## the whole way on a simulated night, without a server (results in demo/)
	rm -rf $(DEMO)/survey $(DEMO)/night $(DEMO)/bundle
	$(BIN)/latenight-train simulate $(DEMO)/survey --night 20260101 --tiles 2 --petals 10 --spectra 150 --seed 1
	$(BIN)/latenight-train simulate $(DEMO)/night --night 20260102 --tiles 1 --petals 10 --spectra 200 --seed 2 --inject 0.03
	$(BIN)/latenight-train fit $(DEMO)/survey --out $(DEMO)/bundle --max-minutes 0.3
	$(BIN)/latenight demo --bundle $(DEMO)/bundle --night $(DEMO)/night --out $(DEMO)

lint: .venv/installed ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed ## mypy --strict
	$(BIN)/mypy

test: .venv/installed ## run the tests (Kafka, Maven and Java included)
	$(BIN)/python -m pytest -q

check: lint types test ## what CI runs

# Real DESI files, for the comparison of simulated spectra with them.
DESI_DATA := $(or $(LATENIGHT_TEST_DATA),../shared/data/desi)

# What the benchmarks score, and with what; make demo writes both.
BENCH_BUNDLE := demo/bundle
BENCH_NIGHT := demo/night
bench: .venv/installed ## ratios measured in turns: reader, graphs, score, serve, peers, scale-out, latency, memory (30 minutes)
	test -f $(BENCH_BUNDLE)/manifest.json || $(MAKE) demo
	$(BIN)/python -m tests.bench.reader
	$(BIN)/python -m tests.bench.graphs $(BENCH_BUNDLE)
	$(BIN)/python -m tests.bench.files $(BENCH_BUNDLE) $(BENCH_NIGHT)
	$(BIN)/python -m tests.bench.stream $(BENCH_BUNDLE) $(BENCH_NIGHT)
	$(BIN)/python -m tests.bench.peers $(BENCH_BUNDLE) $(BENCH_NIGHT)
	$(BIN)/python -m tests.bench.scaleout $(BENCH_BUNDLE) $(BENCH_NIGHT)
	$(BIN)/python -m tests.bench.latency $(BENCH_BUNDLE) $(BENCH_NIGHT)
	$(BIN)/python -m tests.bench.endurance
	if [ -f "$(DESI_DATA)/MANIFEST.tsv" ]; then $(BIN)/python -m tests.bench.compare_simulation build/bench $(DESI_DATA); \
	else echo "no comparison: no real DESI files at $(DESI_DATA): set LATENIGHT_TEST_DATA" >&2; fi

# What the README's results are measured on: TILES of 2500 fibres to train on, 12 others to test on, so that a class and
# S/N has 380 spectra or more; MINUTES for the network.
RESULTS := build/results
TILES := 16
MINUTES := 6
results: .venv/installed ## simulate, train, evaluate and compare with peers; writes the README's results (an hour)
	VIRTUAL_ENV=.venv $(UV) install --no-progress --require-hashes -r constraints/compare.txt
	rm -rf $(RESULTS)
	$(BIN)/latenight-train simulate $(RESULTS)/survey --night 20260201 --tiles $(TILES) --spectra 250 --seed 21
	$(BIN)/latenight-train simulate $(RESULTS)/night --night 20260203 --tiles 12 --spectra 250 --seed 23
	$(BIN)/latenight-train fit $(RESULTS)/survey --out $(RESULTS)/bundle --max-minutes $(MINUTES)
	$(BIN)/latenight-train evaluate $(RESULTS)/bundle $(RESULTS)/night --out $(RESULTS)
	$(BIN)/latenight-train compare $(RESULTS)/survey --bundle $(RESULTS)/bundle --night $(RESULTS)/night --out $(RESULTS)
	$(BIN)/python -m latenight_train.results README.md $(RESULTS)/evaluation.json $(RESULTS)/comparison.json

ROUNDS ?= 50
chaos: .venv/installed ## kill, cut, freeze and fill for ROUNDS=50 rounds; SEED=n repeats them
	$(BIN)/python -m tests.chaos.run $(ROUNDS) $(SEED)
FUZZ := 100000
fuzz: .venv/installed ## break messages and files, $(FUZZ) of each (FUZZ=...): no crash, no hang, no blow-up
	$(BIN)/python -m tests.fuzz --inputs $(FUZZ)

DOCKER ?= docker
TARGET ?= cpu
BUNDLE ?= demo/bundle
SPECTRA ?= demo/night
COMPOSE = BUNDLES=$(dir $(abspath $(BUNDLE))) BUNDLE=$(notdir $(abspath $(BUNDLE))) SPECTRA=$(abspath $(SPECTRA)) TARGET=$(TARGET) \
	$(DOCKER) compose -f deploy/compose.yaml $(if $(filter gpu,$(TARGET)),-f deploy/compose.gpu.yaml)

image: ## build the image latenight:$(TARGET), TARGET=cpu or gpu
	$(DOCKER) build --target $(TARGET) --tag latenight:$(TARGET) .

up: image ## start Kafka, a scorer, Prometheus and Grafana (BUNDLE=... SPECTRA=...)
	$(COMPOSE) up --detach

down: ## stop them; topics and metrics are kept
	$(COMPOSE) down

kafka: ## a broker on 127.0.0.1:9092 until interrupted (java 17, maven)
	./deploy/kafka/kafka.sh
