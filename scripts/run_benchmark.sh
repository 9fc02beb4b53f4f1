#!/usr/bin/env bash
# One face at the benchmark's budget: sweeps/original/benchmark.yaml.
# Variables: DEVICE, SEED, DATA_SUBSET, NUM_CLIENTS, CAPTURE_CLIENT, OUT_DIR. Arguments: those of `gradsweep suite`.
exec "${PYTHON:-python}" "$(dirname -- "${BASH_SOURCE[0]}")/from_clone.py" suite benchmark "$@"
