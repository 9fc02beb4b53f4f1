"""One federated gradient-inversion experiment: the original command line, the same as `gradsweep run`."""

import sys

from orchestrator.cli.start import main

main(["run", *sys.argv[1:]])
