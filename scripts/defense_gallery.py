"""One small strip for each cell of a results folder: the original and every attacker's reconstruction of it.

python scripts/defense_gallery.py results/gallery docs/images/defenses

A strip shows the test image that any attacker came closest to. Without a signal the answer is the mean public image.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from orchestrator.results.pictures import decode
from orchestrator.results.store import read_images, read_rows

COLOURS = 128  # enough for small faces; a third of the bytes


def strip(rows: pd.DataFrame) -> Figure:
    """The strip of one cell, from its test rows with pictures: the image recovered best, by each attacker."""
    best = rows.loc[rows["psnr"].idxmax()]
    same = rows[(rows["victim"] == best["victim"]) & (rows["image_id"] == best["image_id"])]
    panels = [("original", best["original"])]
    for attacker in sorted(same["attacker"].unique(), reverse=True):
        row = same[same["attacker"] == attacker].nlargest(1, "psnr").iloc[0]
        panels.append((f"{attacker}: {row['psnr']:.1f} dB", row["reconstruction"]))
    figure = Figure(figsize=(1.5 * len(panels), 1.7), layout="constrained")
    for axis, (title, picture) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        axis.imshow(decode(picture))
        axis.set_title(title, fontsize=8, pad=2)
        axis.set_axis_off()
    return figure


def main(folder: Path, out: Path) -> None:
    """Write `out`/CELL.png for every cell with test pictures."""
    rows = read_rows(folder).to_pandas()
    rows = rows[(rows["phase"] == "test") & rows["psnr"].notna()]
    shown = rows.merge(read_images(folder).to_pandas(), on=["trial_id", "image_id"])
    out.mkdir(parents=True, exist_ok=True)
    for cell, mine in shown.groupby("cell"):
        drawn = io.BytesIO()
        strip(mine).savefig(drawn, dpi=80)
        picture = Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        picture.save(out / f"{cell}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
