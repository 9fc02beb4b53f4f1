"""The report's figures: what each shows, in words too, drawn and written in both themes."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from typing import Any

from orchestrator.analysis.comparison import by_cell
from orchestrator.analysis.rounds import by_round
from orchestrator.io.files import write_atomically
from orchestrator.pages.self_contained import data_uri
from orchestrator.report.figures.canvas import THEMES, Drawn, Theme
from orchestrator.report.figures.fonts import fonts_for
from orchestrator.report.figures.leaks import psnr_figure, round_figure
from orchestrator.report.figures.trade_off import tradeoff_figure, utility_figure
from orchestrator.report.figures.tuning import (
    Trace,
    convergence_figure,
    front_figure,
    history_figure,
    learning_figure,
)
from orchestrator.report.reader import Results
from orchestrator.report.terminal import interval, number, percent
from orchestrator.results.utility_files import utilities

SCATTERED = 8
"""Lines up to which privacy and utility are shown as points in a plane; more of them could not be told apart."""
Entry = dict[str, Any]


def figures(results: Results) -> list[Entry]:
    """Draw, write under `figures/` and describe each figure that there is something to draw for."""
    return [
        *_utility(results),
        *_psnr(results),
        *_rounds(results),
        *_history(results),
        *_front(results),
        *_convergence(results),
        *_learning(results),
    ]


def _psnr(results: Results) -> list[Entry]:
    measured = [line for line in results.lines if line.psnr.measured]
    if not measured:
        return []
    victims = {line.name: results.victims[line.cell, line.attacker] for line in measured}
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
            tuning=True,
        )
    ]


def _front(results: Results) -> list[Entry]:
    """What more work buys on the tuning victims; nothing where PSNR alone was the objective."""
    if not results.config or "work" not in results.config["study"].get("objectives", ()):
        return []
    told = results.studies.dropna(subset=["value", "work"])
    if not len(told):
        return []
    cells = list(
        dict.fromkeys([*(line.cell for line in results.lines), *told["study"].str.split("/").str[0]])
    )
    spoken = [
        f"{name.replace('/', ' / ')} suggestion {won.suggestion} with {number(won.value)} dB for {won.work:,.0f} images"
        for name, won in results.winners.items()
    ]
    return [
        _figure(
            results,
            "front",
            title="PSNR and work of every suggestion",
            caption="Lines: the suggestions that no other beats in both; rings: the winners, which are those of least "
            f"work at most {results.config['study']['within']:g} dB behind the best of their study. Work is how many "
            "images the attack differentiates twice for a victim.",
            alt="Winners: " + "; ".join(spoken),
            draw=lambda theme: front_figure(told, results.winners, cells, theme),
            tuning=True,
        )
    ]


def _convergence(results: Results) -> list[Entry]:
    """How the loss of each line's attack fell on its test victims; nothing where no attack has iterations."""
    traces: dict[tuple[str, str], list[Trace]] = {}
    for line in results.lines:
        tested = results.tested(line.cell, line.attacker).drop_duplicates("trial_id")
        if "convergence" not in tested:
            continue
        kept = [json.loads(text) for text in tested["convergence"].dropna()]
        found = [trace for trace in kept if len(trace) > 1]
        if found:
            traces[line.cell, line.attacker] = found
    if not traces:
        return []
    spoken = [
        f"{cell} / {attacker} {statistics.median(trace[-1][1] for trace in found):.3g}"
        for (cell, attacker), found in traces.items()
    ]
    cells = list(dict.fromkeys(line.cell for line in results.lines))
    return [
        _figure(
            results,
            "convergence",
            title="Convergence of attacks",
            caption="Lines: the loss of the image that the attack would answer with, median over test victims; bands: "
            "the middle half of the victims. Attackers with other objectives have losses on other scales. A line still "
            "falling at its end asks for more iterations.",
            alt="Median loss at the end: " + "; ".join(spoken),
            draw=lambda theme: convergence_figure(traces, cells, theme),
            tuning=True,
        )
    ]


def _learning(results: Results) -> list[Entry]:
    """How each cell's training converges; nothing where none was run or none has several rounds."""
    trained = utilities(results.folder)
    runs = {
        cell: [list(one.per_round) for one in trained[cell]]
        for cell in dict.fromkeys(line.cell for line in results.lines)
        if cell in trained and max(len(one.per_round) for one in trained[cell]) > 1
    }
    if not runs:
        return []
    majority = max(trained[cell][0].majority for cell in runs)
    spoken = [f"{cell} {percent(sum(run[-1] for run in found) / len(found))}" for cell, found in runs.items()]
    return [
        _figure(
            results,
            "learning",
            title="Convergence of training",
            caption="Accuracy on validation images after each round. A line still rising at its end asks for more "
            "rounds.",
            alt="Accuracy after the last round: " + "; ".join(spoken),
            draw=lambda theme: learning_figure(runs, majority, theme),
            tuning=True,
        )
    ]


def _figure(
    results: Results,
    name: str,
    *,
    title: str,
    caption: str,
    alt: str,
    draw: Callable[[Theme], Drawn],
    tuning: bool = False,
) -> Entry:
    """Write a figure in both themes and formats, and describe it; the page itself holds the PNG.

    `tuning` says that it is about how attackers and networks were fitted and not about what they reach.
    """
    folder = results.folder / "figures"
    folder.mkdir(exist_ok=True)
    pictures = {}
    names = [line.cell for line in results.lines] + [line.attacker for line in results.lines]
    fonts = fonts_for(names)
    for theme in THEMES:
        with fonts.used():
            drawn = draw(theme)
        pictures[theme.name] = data_uri(drawn.png)
        write_atomically(folder / f"{name}-{theme.name}.png", drawn.png)
        write_atomically(folder / f"{name}-{theme.name}.svg", drawn.svg)
    return {
        "name": name,
        "title": title,
        "caption": f"{caption} {fonts.note}".strip(),
        "alt": f"{alt}.",
        "tuning": tuning,
        **pictures,
    }
