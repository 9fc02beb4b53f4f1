"""The runs of scripts/run_defenses.sh, and what each defense costs each attacker.

python scripts/analyze_defenses.py --results-dir results/defenses     # as `gradsweep analyze defenses`
"""

from from_clone import start

start("analyze", "defenses")
