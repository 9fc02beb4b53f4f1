"""One federated gradient-inversion experiment: the original command line, the same as `gradsweep run`."""

import sys

from orchestrator.experiment import main

sys.exit(main())
