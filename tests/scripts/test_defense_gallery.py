"""Strips of reconstructions: one for each cell with pictures, of the image that came out best."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from orchestrator.results.pictures import decode
from tests.support.paths import ROOT
from tests.support.results_folder import png, row, trial, write_folder

SCRIPT = runpy.run_path(str(ROOT / "scripts" / "defense_gallery.py"))


def test_a_stored_picture_comes_back() -> None:
    pixels = decode({"bytes": png(200), "path": None})
    assert pixels.ndim == 3 and pixels.shape[2] == 3
    assert np.unique(pixels).tolist() == [200]


def test_every_cell_with_pictures_gets_a_strip(tmp_path: Path) -> None:
    with_pictures = [
        trial(row(cell, victim, attacker=attacker, trial_id=""), pictures=True)
        for cell in ("none", "dp")
        for attacker in ("generic", "adaptive")
        for victim in (2, 3)
    ]
    folder = write_folder(tmp_path / "results", [*with_pictures, trial(row("blind", 2, trial_id=""))])
    SCRIPT["main"](folder, tmp_path / "strips")
    strips = sorted((tmp_path / "strips").iterdir())
    assert [path.name for path in strips] == ["dp.png", "none.png"]
    assert all(Image.open(path).size == (360, 136) for path in strips)


def test_a_strip_shows_the_image_recovered_best_by_every_attacker() -> None:
    found = [("generic", 0, 9.0), ("adaptive", 0, 12.0), ("generic", 1, 11.0), ("adaptive", 1, 30.0)]
    rows = pd.DataFrame(found, columns=["attacker", "victim", "psnr"])
    rows["image_id"] = rows["victim"]
    rows["original"] = rows["reconstruction"] = [{"bytes": png(100)}] * len(rows)
    figure = SCRIPT["strip"](rows)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["original", "generic: 11.0 dB", "adaptive: 30.0 dB"]
