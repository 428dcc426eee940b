PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: proto
proto: ; @$(BIN)/python .ci/generate_proto.py
