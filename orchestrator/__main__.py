"""`python -m orchestrator` is `gradsweep`."""

from orchestrator.cli import main

main()
