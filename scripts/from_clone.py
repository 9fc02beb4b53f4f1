"""gradsweep of this clone, in the clone's folder, whichever folder you start in and whether or not it is installed.

python scripts/from_clone.py suite showcase     # as `gradsweep suite showcase`, with data and results of the clone
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def start(*command: str) -> None:
    """Run a command of gradsweep with this process's arguments behind it, and end the process.

    Relative paths are in the clone. Workers are processes of their own and find the clone by the environment.
    """
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([others] if others else [])])
    from orchestrator.cli.start import main

    main([*command, *sys.argv[1:]])


if __name__ == "__main__":
    start()
