"""The runs of scripts/run_multi_client.sh, and the mean over its clients.

python scripts/analyze_multi_client.py --results-dir results/multi_client     # as `gradsweep analyze multi_client`
"""

from from_clone import start

start("analyze", "multi_client")
