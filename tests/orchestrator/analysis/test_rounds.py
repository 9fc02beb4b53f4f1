"""Quality against round and accuracy: cells that differ in the captured round; labels and methods told apart."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from rich.console import Console

from defenses.chain import Chain
from fl_core.base.rng import generator
from fl_core.base.shape import ImageShape
from fl_core.data.kinds.celeba import open_celeba
from fl_core.federation.accuracy import count_correct
from fl_core.federation.federation import Federation
from fl_core.federation.training import run
from fl_core.models.build import initial_state
from orchestrator.analysis.rounds import by_round
from orchestrator.analysis.summary import summarize, summary_lines
from orchestrator.capture.store import CaptureStore
from orchestrator.cli.main import execute
from orchestrator.driver.sweep import resolve, run_sweep
from orchestrator.report.notes import notes
from orchestrator.report.terminal import interval, labels, percent, rounds_table
from orchestrator.results.store import FinishedTrial
from orchestrator.runtime.progress import Silent
from tests.support.reports import write
from tests.support.results_folder import row, trial, write_folder
from tests.support.small import sweep

ROUNDS = {"none": (0, 30.0, 0.5), "later": (4, 25.0, 0.7), "trained": (9, 21.0, 0.85)}


def attacked(**changes: object) -> list[FinishedTrial]:
    return [
        trial(
            row(cell, victim, psnr + victim)
            | {
                "defense": "none",
                "defense_params": "[]",
                "round": number,
                "weights_accuracy": accuracy,
                "differs": json.dumps({"capture.round": number} if number else {}),
            }
            | changes
        )
        for cell, (number, psnr, accuracy) in ROUNDS.items()
        for victim in range(6)
    ]


def bracket(folder: Path, cell: str) -> str:
    """The mean of a cell with its interval, as it is computed."""
    (line,) = [line for line in summary_lines(folder) if line.cell == cell]
    assert line.psnr.low < line.psnr.mean < line.psnr.high
    return interval(line.psnr)


def test_cells_that_differ_in_their_round_form_one_series(tmp_path: Path) -> None:
    apart = [trial(row("dp", 2), row("dp", 2, image_id="b.jpg"))]
    (series,) = by_round(summary_lines(write_folder(tmp_path, [*reversed(attacked()), *apart])))
    assert [(line.cell, line.round, line.psnr.mean) for line in series.lines] == [
        ("none", 0, 32.5),
        ("later", 4, 27.5),
        ("trained", 9, 23.5),
    ]
    assert series.name == "none / generic"


def test_cells_that_differ_in_more_are_no_series(tmp_path: Path) -> None:
    changes: dict[str, dict[str, Any]] = {
        "later": {"differs": {"capture.round": 4, "federation.rounds": 9}},
        "trained": {"defense_params": '[{"kind":"dp_update"}]'},
    }
    lines = summary_lines(write_folder(tmp_path, attacked()))
    assert by_round([replace(line, **changes.get(line.cell, {})) for line in lines]) == []


def test_the_report_draws_and_tells_them(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, attacked())
    html, page = write(folder)
    for theme in ("light", "dark"):
        assert (folder / "figures" / f"rounds-{theme}.png").read_bytes().startswith(b"\x89PNG")
    assert f"none / generic round 9 (accuracy 85%) {bracket(folder, 'trained')} dB" in html
    told = {entry["Round"]: entry for entry in page.rows if "Round" in entry}
    assert told["4"]["Accuracy of the weights"] == "70%"
    assert told["4"]["PSNR, dB"] == bracket(folder, "later")
    assert "Attacked weights initial, accuracy 50% / 70% / 85% on validation images" in page.text


def test_the_terminal_tells_them_within_80_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(width=80, file=io.StringIO())
    with console.capture() as shown:
        console.print(rounds_table(by_round(summary_lines(write_folder(tmp_path, attacked())))))
    lines = shown.get().splitlines()
    assert execute(["report", str(tmp_path)]) == 0
    assert "Quality against round and accuracy" in capsys.readouterr().out
    assert max(map(len, lines)) <= 80
    assert any("9" in text and "85%" in text and bracket(tmp_path, "trained") in text for text in lines)


def test_without_other_rounds_there_is_nothing_to_tell(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [trial(row("none", victim)) for victim in (2, 3)])
    _, page = write(folder)
    assert not (folder / "figures" / "rounds-light.png").exists()
    assert "Quality against round" not in page.text


def test_labels_stand_apart_from_images_unless_they_are_known(tmp_path: Path) -> None:
    found = summary_lines(write_folder(tmp_path / "a", attacked(label_accuracy=0.75)))[0]
    assert found.label_accuracy.mean == 0.75
    low, high = percent(found.label_accuracy.low), percent(found.label_accuracy.high)
    assert labels(found) == f"75% [{low}, {high}]"
    known = json.dumps({"view": None, "labels": "known", "knows_defense": True})
    assert labels(summary_lines(write_folder(tmp_path / "b", attacked(threat=known)))[0]) == "known"


def test_methods_and_distinct_notes_are_told_with_the_most_frequent_first(tmp_path: Path) -> None:
    some = [
        trial(row("none", victim, method=method, notes=json.dumps(told)))
        for victim, (method, told) in enumerate(
            [("matching", ["Noise."]), ("analytic", ["Dense."]), ("analytic", ["Dense.", "<Rank.>"])]
        )
    ]
    table = summarize(write_folder(tmp_path, some))
    assert table["method"].tolist() == ["analytic (2), matching (1)"]
    assert json.loads(table["notes"].iloc[0])[0] == "Dense."
    assert sorted(json.loads(table["notes"].iloc[0])) == ["<Rank.>", "Dense.", "Noise."]
    said = notes(summary_lines(tmp_path))
    assert "none / generic: by analytic (2), matching (1)" in said
    assert "none / generic: labels right: 100% [29%, 100%]" in said, "three of three"
    assert "none / generic: Dense." in said
    html, page = write(tmp_path)
    assert "What ran: analytic (2), matching (1)." in page.text
    assert "&lt;Rank.&gt;" in html


@pytest.mark.parametrize("number", [0, 1])
def test_the_weights_accuracy_is_that_of_the_attacked_weights(
    faces_root: Path, tmp_path: Path, number: int
) -> None:
    config = sweep(
        faces_root,
        attackers=[{"name": "generic", "attack": {"kind": "matching", "iterations": 1}}],
        cells=[{"name": "none"}],
        capture={"round": number},
        federation__local={"lr": 0.5, "momentum": 0.0},
    )
    run_sweep(config, tmp_path, address="serial", reporter=Silent())
    dataset = open_celeba(faces_root, shape=ImageShape.square(16))
    state = initial_state(config.model, generator("model", config.seed))
    federation = Federation(
        config=config.federation,
        model=config.model,
        dataset=dataset,
        train=dataset.split("train", config.data.train),
        seed=config.seed,
        device=next(iter(state.parameters.values())).device,
    )
    for result in run(federation, state, rounds=number):
        state = result.state
    held_out = dataset.split("valid", config.data.valid)
    right = count_correct(config.model, state, dataset, held_out, device=federation.device)
    rows = pd.read_parquet(tmp_path / "trials")
    assert set(rows["weights_accuracy"]) == {right / len(held_out)}


def test_training_goes_on_from_the_latest_saved_weights(faces_root: Path, tmp_path: Path) -> None:
    """Round 2 after round 1 trains one round more, and has the bits of two rounds from the start."""
    config = resolve(sweep(faces_root))
    config = replace(config, federation=replace(config.federation, rounds=3))
    faces = open_celeba(faces_root, shape=ImageShape.square(16))
    hashes, said = [], list[str]()
    for folder, rounds in (("together", (1, 2)), ("alone", (2,))):
        store = CaptureStore(tmp_path / folder, device=torch.device("cpu"), progress=said.append)
        for number in rounds:
            settings = replace(config, capture=replace(config.capture, round=number))
            last = store.source(settings, Chain(), faces).weights.hash
        hashes.append(last)
    assert hashes[0] == hashes[1]
    trained = [
        message.split(", accuracy")[0].removeprefix("training to the captured weights: ") for message in said
    ]
    assert trained == ["round 1 of 1", "round 2 of 2", "round 1 of 2", "round 2 of 2"]
