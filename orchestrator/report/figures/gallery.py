"""The gallery: closest, median and farthest reconstruction of each line, error maps, one victim across all cells."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from orchestrator.analysis.comparison import strongest_by_cell
from orchestrator.analysis.lines import Line
from orchestrator.analysis.summary import records
from orchestrator.pages.self_contained import data_uri
from orchestrator.report.reader import Results
from orchestrator.report.terminal import number
from orchestrator.results.store import read_images

LARGEST = 128
"""Pixels of a shown picture's longer side; larger ones are made smaller."""
LINES = 16
"""Lines up to which all of them are shown; of more the strongest attacker of each cell alone, so many at most."""
WHITE = 0.5
"""The error, of pixels from 0 to 1, from which on a map is white."""

Entry = dict[str, Any]


def gallery(results: Results) -> Entry:
    """`groups` with three pairs for each shown line, and `across` with one victim in every cell, where there are any.

    Lines without kept pictures are left out. An image that nothing was reconstructed for has no PSNR and counts as the
    least close.
    """
    kept = read_images(results.folder).to_pandas()
    kept = kept[kept["original"].notna()].drop_duplicates(["trial_id", "image_id"])
    lines, left_out = _shown(results.lines)
    pictured = {
        line.name: results.tested(line.cell, line.attacker).merge(kept, on=["trial_id", "image_id"])
        for line in [*lines, *strongest_by_cell(results.lines).values()]
    }
    groups = [
        {"cell": line.cell, "attacker": line.attacker, "pairs": _three(pictured[line.name])}
        for line in lines
        if len(pictured[line.name])
    ]
    return {
        "groups": groups,
        "across": _across(results.lines, pictured),
        "left_out": left_out,
        "white": f"{WHITE:g} of the full range",
    }


def _shown(lines: Sequence[Line]) -> tuple[list[Line], str]:
    """The lines whose pictures are shown, and what is said of the others."""
    if len(lines) <= LINES:
        return list(lines), ""
    strongest = [line for line in strongest_by_cell(lines).values() if line.psnr.measured]
    shown = sorted(strongest, key=lambda line: -line.psnr.mean)[:LINES]
    kept = [line for line in strongest if line in shown]
    left = len({line.cell for line in lines}) - len(kept)
    more = f", and of {left} cells none" if left else ""
    return kept, f"Of each cell the strongest attacker is shown{more}; all pictures are in the folder."


def _three(tested: pd.DataFrame) -> list[Entry]:
    """The pairs of the victims in which the attack came closest, in the middle and least close; each once."""
    exposed = tested.sort_values("psnr", ascending=False, na_position="last", kind="stable")
    victims = exposed.drop_duplicates(["sweep_seed", "victim"]).reset_index(drop=True)
    last = len(victims) - 1
    # With one or two victims the middle has another name already.
    named = {last // 2: "median"} | {last: "farthest"} | {0: "closest"}
    return [_pair(row, named[i]) for i, row in enumerate(records(victims)) if i in named]


def _across(lines: Sequence[Line], pictured: dict[str, pd.DataFrame]) -> Entry | None:
    """One image in every cell, by its strongest attacker: of the first cell the victim with the median PSNR.

    None where fewer than two cells have pictures of it.
    """
    strongest = [line for line in strongest_by_cell(lines).values() if len(pictured[line.name])]
    if len(strongest) < 2:
        return None
    first = pictured[strongest[0].name].sort_values(
        "psnr", ascending=False, na_position="last", kind="stable"
    )
    chosen = records(first.iloc[[(len(first) - 1) // 2]])[0]
    shots = []
    for line in strongest:
        tested = pictured[line.name]
        same = tested[
            (tested["sweep_seed"] == chosen["sweep_seed"])
            & (tested["victim"] == chosen["victim"])
            & (tested["image_id"] == chosen["image_id"])
        ]
        for row in records(same.head(1)):
            found = row["reconstruction"]
            shots.append(
                {
                    "cell": line.cell,
                    "attacker": line.attacker,
                    "psnr": number(row["psnr"]),
                    "reconstruction": _uri(_decoded(found)) if found is not None else None,
                }
            )
    if len(shots) < 2:
        return None
    return {
        "victim": chosen["victim"],
        "image": chosen["image_id"],
        "original": _uri(_decoded(chosen["original"])),
        "shots": shots,
    }


def _pair(row: Entry, place: str) -> Entry:
    original, found = _decoded(row["original"]), row["reconstruction"]
    reconstruction = _decoded(found) if found is not None else None
    return {
        "place": place,
        "victim": row["victim"],
        "image": row["image_id"],
        "batch": row["batch_size"],
        "psnr": number(row["psnr"]),
        "ssim": number(row["ssim"], 2),
        "original": _uri(original),
        "reconstruction": _uri(reconstruction) if reconstruction is not None else None,
        "error": _uri(error_map(original, reconstruction)) if reconstruction is not None else None,
    }


def error_map(original: Image.Image, reconstruction: Image.Image) -> Image.Image:
    """The absolute difference of two pictures of one size, averaged over colours: black is 0, white from `WHITE` on."""
    one, other = (
        np.asarray(picture.convert("RGB"), dtype=np.float64) / 255 for picture in (original, reconstruction)
    )
    apart = np.abs(one - other).mean(axis=2)
    return Image.fromarray((255 * np.clip(apart / WHITE, 0.0, 1.0)).round().astype(np.uint8))


def _decoded(kept: Entry) -> Image.Image:
    return Image.open(io.BytesIO(kept["bytes"]))


def _uri(picture: Image.Image) -> str:
    """The picture in the page, made smaller where it is larger than a page shows it."""
    small = picture
    if max(picture.size) > LARGEST:
        small = picture.copy()
        small.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
    target = io.BytesIO()
    small.save(target, "PNG")
    return data_uri(target.getvalue())
