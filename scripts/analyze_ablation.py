"""The runs of scripts/run_ablation.sh, and the mean over clients for each setting.

python scripts/analyze_ablation.py --results-dir results/ablation     # as `gradsweep analyze ablation`
"""

from from_clone import start

start("analyze", "ablation")
