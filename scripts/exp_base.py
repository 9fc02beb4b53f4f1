"""The base suite: quick validation, showcase, ablations, a realistic client (sweeps/original/base).

python scripts/exp_base.py --mode showcase --dry-run     # as `gradsweep suite base`
"""

from from_clone import start

start("suite", "base")
