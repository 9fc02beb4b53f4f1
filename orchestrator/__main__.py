"""`python -m orchestrator` is `gradsweep`."""

from orchestrator.cli.start import main

main()
