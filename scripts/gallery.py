"""One picture of a results folder: originals above each cell's reconstructions of the same victims.

python scripts/gallery.py results/quickstart docs/images/quickstart.png

With one victim the cells lie side by side. Of a batch the preselected image is shown.
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.analysis.summary import summary_lines
from orchestrator.results.pictures import decode
from orchestrator.results.store import read_images, read_rows

SHOWN = 6


def main(folder: Path, out: Path) -> None:
    """Draw the first test victims, one column each, one row for each cell and attacker; one victim lies on its side."""
    rows = read_rows(folder).to_pandas()
    rows = rows[(rows["phase"] == "test") & rows["preselected"].astype("boolean").fillna(False)]
    rows = rows.merge(read_images(folder).to_pandas(), on=["trial_id", "image_id"])
    lines = [(line.cell, line.attacker) for line in summary_lines(folder)]
    victims = sorted(rows["victim"].unique())[:SHOWN]
    alone = len(victims) == 1
    tall, wide = 1.55 * (len(lines) + 1), 1.35 * len(victims) + 1.2
    figure = Figure(figsize=(tall, 2.3) if alone else (wide, tall), layout="constrained")
    shape = (1, len(lines) + 1) if alone else (len(lines) + 1, len(victims))
    axes = figure.subplots(*shape, squeeze=False)
    axes = axes.T if alone else axes
    for column, victim in enumerate(victims):
        mine = rows[rows["victim"] == victim].set_index(["cell", "attacker"])
        axes[0, column].imshow(decode(mine.iloc[0]["original"]))
        for line, key in enumerate(lines, start=1):
            axes[line, column].imshow(decode(mine.loc[key, "reconstruction"]))
            axes[line, column].set_title(f"{mine.loc[key, 'psnr']:.1f} dB", fontsize=8, pad=2)
    names = ["original", *(f"{cell}\n{attacker}" for cell, attacker in lines)]
    for axis, name in zip(axes[:, 0], names, strict=True):
        _name(axis, name, below=alone)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=80)


def _name(axis: Axes, name: str, *, below: bool) -> None:
    if below:
        axis.set_xlabel(name, fontsize=9)
    else:
        axis.set_ylabel(name, fontsize=9)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
