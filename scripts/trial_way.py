"""Lists the files of orchestrator/ that trials cross: a tiny sweep runs in this process, and every call is noted.

Two ways are told: from the sweep file to the first trial's row, with all that is prepared once for the sweep, and from
one trial's row to the next one's. A file counts where one of its functions is called; importing it does not count.

python scripts/trial_way.py
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from types import FrameType

import orchestrator
from orchestrator.config.parse import load_sweep
from orchestrator.driver.sweep import run_sweep
from orchestrator.results.store import FinishedTrial, ResultStore
from orchestrator.runtime.progress import Silent

ROOM = f"{Path(orchestrator.__file__).parent}{os.sep}"
SWEEP = """
name: way
data: {root: ROOT, kind: synthetic, synthetic_images: 300}
model: {kind: lenet, image_size: 16}
federation: {clients: 4, rounds: 2}
victims: {tuning: 0, test: 3}
study: {storage: null}
execution: {controls: false, device: cpu}
attackers: [{attack: {iterations: 3}}]
"""


def ways(folder: Path) -> list[list[str]]:
    """For each of three trials the files that were entered since the row before it, in their order."""
    seen: dict[str, None] = {}
    found: list[list[str]] = []
    recorded = ResultStore.add_trial

    def note(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(ROOM) and frame.f_code.co_name != "<module>":
            seen.setdefault(name.removeprefix(ROOM))

    def add_trial(store: ResultStore, trial: FinishedTrial) -> None:
        recorded(store, trial)
        found.append(list(seen))
        seen.clear()

    (folder / "faces").mkdir()
    file = folder / "way.yaml"
    file.write_text(SWEEP.replace("ROOT", str(folder / "faces")), encoding="utf-8")
    ResultStore.add_trial = add_trial  # type: ignore[method-assign]
    sys.setprofile(note)
    try:
        run_sweep(load_sweep(file), folder / "results", address="serial", reporter=Silent())
    finally:
        sys.setprofile(None)
        ResultStore.add_trial = recorded  # type: ignore[method-assign]
    return found


def main() -> None:
    """Print the two lists."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        # While the second runs, the third is made ready: between their rows lies every step of a trial.
        first, further, _ = ways(Path(name))
    for title, files in (("From the sweep file to the first row", first), ("A further trial", further)):
        lines = "".join(f"  {file}\n" for file in files)
        sys.stdout.write(f"{title}: {len(files)} files\n{lines}")


if __name__ == "__main__":
    main()
