"""The report's sections of pictures: figures and the gallery of reconstructions, as data URIs."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from orchestrator.analysis.comparison import by_cell
from orchestrator.analysis.rounds import by_round
from orchestrator.analysis.summary import by_victim, records
from orchestrator.io.files import write_atomically
from orchestrator.report.figures import (
    THEMES,
    Theme,
    history_figure,
    psnr_figure,
    round_figure,
    tradeoff_figure,
    utility_figure,
)
from orchestrator.report.fonts import fonts_for
from orchestrator.report.reader import Results
from orchestrator.report.terminal import interval, number, percent
from orchestrator.results.store import read_images

SCATTERED = 8
"""Lines up to which privacy and utility are shown as points in a plane; more of them could not be told apart."""
GALLERY = 6
"""Test victims shown for each cell and attacker."""

Entry = dict[str, Any]


def figures(results: Results) -> list[Entry]:
    """Draw, write under `figures/` and describe each figure that there is something to draw for."""
    return [*_psnr(results), *_rounds(results), *_utility(results), *_history(results)]


def gallery(results: Results) -> list[Entry]:
    """For each cell and attacker the most exposed image of up to six test victims, the most exposed first.

    Cells without kept pictures are left out.
    """
    kept = read_images(results.folder).to_pandas()
    kept = kept[kept["original"].notna()].drop_duplicates(["trial_id", "image_id"])
    shown = []
    for line in results.lines:
        tested = results.tested(line.cell, line.attacker).merge(kept, on=["trial_id", "image_id"])
        # An image that nothing was reconstructed for has no PSNR and comes last.
        exposed = tested.sort_values("psnr", ascending=False, na_position="last", kind="stable")
        pairs = [
            _pair(row) for row in records(exposed.drop_duplicates(["sweep_seed", "victim"]).head(GALLERY))
        ]
        if pairs:
            shown.append({"cell": line.cell, "attacker": line.attacker, "pairs": pairs})
    return shown


def _pair(row: Entry) -> Entry:
    found = row["reconstruction"]
    return {
        "victim": row["victim"],
        "image": row["image_id"],
        "batch": row["batch_size"],
        "psnr": number(row["psnr"]),
        "ssim": number(row["ssim"], 2),
        "original": _uri(row["original"]["bytes"]),
        "reconstruction": _uri(found["bytes"]) if found is not None else None,
    }


def _psnr(results: Results) -> list[Entry]:
    measured = [line for line in results.lines if line.psnr.measured]
    if not measured:
        return []
    victims = {line.name: by_victim(results.tested(line.cell, line.attacker)) for line in measured}
    spoken = [
        f"{line.name} {interval(line.psnr)} dB, {line.control.name} {number(line.psnr_control)} dB"
        for line in measured
    ]
    return [
        _figure(
            results,
            "psnr",
            title="PSNR of every test victim",
            caption="Right of the orange bar, the attack comes closer to the truth than what needs no signal.",
            alt="Mean PSNR with 95% interval: " + "; ".join(spoken),
            draw=lambda theme: psnr_figure(measured, victims, theme),
        )
    ]


def _rounds(results: Results) -> list[Entry]:
    series = by_round(results.lines)
    if not series:
        return []
    spoken = [
        f"{each.name} round {line.round} (accuracy {percent(line.weights_accuracy)}) {interval(line.psnr)} dB"
        for each in series
        for line in each.lines
    ]
    return [
        _figure(
            results,
            "rounds",
            title="Quality against round and accuracy",
            caption="Cells that differ in the captured round. Dotted: how many validation images the attacked "
            "weights classify right.",
            alt="Mean PSNR by round: " + "; ".join(spoken),
            draw=lambda theme: round_figure(series, theme),
        )
    ]


def _utility(results: Results) -> list[Entry]:
    both = [line for line in results.lines if line.psnr.measured and line.utility]
    if not both:
        return []
    spoken = [
        f"{line.name} {percent(line.utility.accuracy.mean)} at {number(line.psnr.mean)} dB"
        for line in both
        if line.utility
    ]
    compared = by_cell(both) if len(both) > SCATTERED else []
    caption = "Accuracy is that of a separate training run with the same defense. Hollow: diverged."
    if compared:
        caption = (
            "Filled: the strongest attacker of a cell. Accuracy is that of a separate training run with the same "
            "defense; hollow there: diverged."
        )
    return [
        _figure(
            results,
            "utility",
            title="Privacy and utility",
            caption=caption,
            alt="Accuracy against mean PSNR: " + "; ".join(spoken),
            draw=lambda theme: tradeoff_figure(compared, theme) if compared else utility_figure(both, theme),
        )
    ]


def _history(results: Results) -> list[Entry]:
    told = results.studies[results.studies["state"].isin(["ok", "failed"])]
    if not told["value"].notna().any():
        return []
    cells = list(
        dict.fromkeys(
            [*(line.cell for line in results.lines), *(study.split("/")[0] for study in told["study"])]
        )
    )
    best = told.dropna(subset="value").groupby("study", sort=False)["value"].max()
    spoken = [f"{str(study).replace('/', ' / ')} {number(value)} dB" for study, value in best.items()]
    return [
        _figure(
            results,
            "history",
            title="Tuning history",
            caption="Lines: best so far; dots: every suggestion; crosses: failed ones. A line still rising "
            "at its end asks for a larger budget.",
            alt="Best PSNR on tuning victims: " + "; ".join(spoken),
            draw=lambda theme: history_figure(told, cells, theme),
        )
    ]


def _figure(
    results: Results, name: str, *, title: str, caption: str, alt: str, draw: Callable[[Theme], bytes]
) -> Entry:
    folder = results.folder / "figures"
    folder.mkdir(exist_ok=True)
    pictures = {}
    names = [line.cell for line in results.lines] + [line.attacker for line in results.lines]
    fonts = fonts_for(names)
    for theme in THEMES:
        with fonts.used():
            pictures[theme.name] = draw(theme)
        write_atomically(folder / f"{name}-{theme.name}.png", pictures[theme.name])
    return {
        "name": name,
        "title": title,
        "caption": f"{caption} {fonts.note}".strip(),
        "alt": f"{alt}.",
        **{theme: _uri(content) for theme, content in pictures.items()},
    }


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
