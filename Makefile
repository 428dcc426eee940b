# Every target that needs the environment sets it up first; a finished set-up costs a moment.
PYTHON ?= python3
BIN := .venv/bin
DATA ?=
MMSR_DATA ?= ../shared/data
export MMSR_DATA

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-real check format bench bench-rivals fuzz proof soak gpu-check proto lock wheel sbom test-lowest

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## create .venv with the locked, hashed packages (PYTHON=python3.12 chooses the Python)
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "error: $(PYTHON) not found; install Python 3.11, 3.12 or 3.13, or name one: make setup PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) .ci/setup.py

demo: setup ## toy shop to recommendations; DATA=../shared/data/ml1m for real movies (EPOCHS=2)
	@$(BIN)/python .ci/demo.py $(if $(DATA),--data $(DATA)) $(if $(EPOCHS),--epochs $(EPOCHS))

test: setup ## unit, contract, integration tests and faults, each with its time beside its budget
	@$(BIN)/python .ci/test.py unit contract integration faults

test-real: setup ## tests on real data at MMSR_DATA (default ../shared/data; missing is an error)
	@$(BIN)/python .ci/test.py real

# One worker: kills are spread over the length of what is killed, which is measured first.
proof: setup ## the fault suite in its long form; report in tests/faults/results
	@MMSR_PROOF=1 MMSR_FAULTS_REPORT=tests/faults/results/faults.md OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 \
	  $(BIN)/python -m pytest -q tests/faults --show-capture=no

# One worker: the load, the server and what it is compared with are on this machine alone.
soak: setup ## half an hour of load, reloads and catalogue writes (MINUTES=30); report in tests/faults/results
	@MMSR_SOAK_MINUTES=$(or $(MINUTES),30) MMSR_SOAK_REPORT=tests/faults/results/soak.md OMP_NUM_THREADS=1 \
	  HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q tests/faults/test_soak.py --show-capture=no -s

fuzz: setup ## 100,000 damaged messages on every method (FUZZ_CALLS=1000000); report in engine/results
	@MMSR_FUZZ_CALLS=$(or $(FUZZ_CALLS),100000) MMSR_FUZZ_REPORT=engine/results/fuzz.md \
	  $(BIN)/python -m pytest -q tests/integration/test_fuzz.py --show-capture=no

check: setup ## formatting, lint, types, import rules, and what is promised on the wire
	@failed=; for step in "ruff format --check" "ruff check" mypy lint-imports \
	    "buf lint proto" "buf breaking proto --against proto/baseline.binpb"; do \
	  echo "== $$step"; $(BIN)/$$step || failed="$$failed; $$step"; done; \
	  [ -z "$$failed" ] || { echo "check failed: $${failed#; }"; exit 1; }

format: setup ## format the code and sort the imports
	@$(BIN)/ruff check --select I --fix --quiet
	@$(BIN)/ruff format

bench: setup ## serve the bundle of the last demo and measure server and runner
	@$(BIN)/python .ci/bench.py $(if $(DATA),--data $(DATA))

RIVALS := build/rivals
bench-rivals: setup ## mmsr-serve beside LitServe, BentoML, Ray Serve and RePlay (minutes; best on a quiet machine)
	@$(BIN)/python export/benchmarks/untrained_bundle.py $(RIVALS)/12k --items 12000 --width 64
	@$(BIN)/python export/benchmarks/untrained_bundle.py $(RIVALS)/100k --items 100000 --width 128
	@$(BIN)/python -m benchmarks.rivals.serving $(RIVALS)/12k $(RIVALS)/100k --out engine/results/$$(date -u +%F)-rivals

# No set-up, no network: a GPU machine may have neither. $(PYTHON) is to have torch and numpy.
gpu-check: ## measure on this machine's GPU with what $(PYTHON) has; report in export/results or $$OUT
	@PYTHONPATH=training:export:engine:proto:tests$${PYTHONPATH:+:$$PYTHONPATH} $(PYTHON) -m benchmarks.gpu $(GPU_CHECK)

proto: setup ## regenerate the Python code of the .proto files
	@$(BIN)/python .ci/generate_proto.py

lock: setup ## resolve the hashed sets .ci/requirements*.txt anew from pyproject.toml (LOCK="cpu cuda": those)
	@$(BIN)/python .ci/lock.py $(LOCK)

wheel: setup ## build dist/*.whl twice, the same bytes; serve with it alone in an environment of its own
	@$(BIN)/python .ci/wheel.py

sbom: setup ## what a server consists of, as CycloneDX: dist/mmsr-serve-cpu.cdx.json and -cuda
	@$(BIN)/python .ci/sbom.py

test-lowest: setup ## unit tests against the oldest releases that pyproject.toml allows (3 GB; Python 3.11 or 3.12)
	@$(BIN)/python .ci/lowest.py
