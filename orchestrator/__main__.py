"""`python -m orchestrator` is `gradsweep`."""

from orchestrator.cli.main import main

main()
