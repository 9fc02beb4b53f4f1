"""The refinement sweeps: total variation, layer weights, a term on features (sweeps/original/phase1).

python scripts/exp_phase1.py --mode tv-sweep --dry-run     # as `gradsweep suite phase1`
"""

from from_clone import start

start("suite", "phase1")
