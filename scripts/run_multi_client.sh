#!/usr/bin/env bash
# Ten clients, each attacked alone: sweeps/original/multi_client.yaml.
# Variables: DEVICE, SEED, DATA_SUBSET, NUM_CLIENTS, NUM_ATTACK_CLIENTS, OUT_DIR. Arguments: those of `gradsweep suite`.
exec "${PYTHON:-python}" "$(dirname -- "${BASH_SOURCE[0]}")/from_clone.py" suite multi_client "$@"
