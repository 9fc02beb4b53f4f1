#!/usr/bin/env bash
# The original's defenses against its attack and an adaptive one: sweeps/original/defenses.yaml.
# Variables: DEVICE, SEED, DATA_SUBSET, NUM_CLIENTS, CAPTURE_CLIENT, OUT_DIR. Arguments: those of `gradsweep suite`.
exec "${PYTHON:-python}" "$(dirname -- "${BASH_SOURCE[0]}")/from_clone.py" suite defenses "$@"
