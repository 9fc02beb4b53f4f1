#!/usr/bin/env bash
# Settings of the original's attack, one changed at a time, on three clients: sweeps/original/ablation.yaml.
# Variables: DEVICE, SEED, DATA_SUBSET, NUM_CLIENTS, NUM_ATTACK_CLIENTS, OUT_DIR. Arguments: those of `gradsweep suite`.
exec "${PYTHON:-python}" "$(dirname -- "${BASH_SOURCE[0]}")/from_clone.py" suite ablation "$@"
