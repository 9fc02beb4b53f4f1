#!/usr/bin/env bash
# One face at the original's largest budget for one attack: sweeps/original/showcase.yaml.
# Variables: DEVICE, SEED, DATA_SUBSET, NUM_CLIENTS, TARGET_CLIENT, OUT_DIR. Arguments: those of `gradsweep suite`.
exec "${PYTHON:-python}" "$(dirname -- "${BASH_SOURCE[0]}")/from_clone.py" suite showcase "$@"
