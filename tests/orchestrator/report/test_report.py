"""The report: its figures are the summary's, its sentences follow from them, in every kind of folder."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator.analysis.intervals import NOTHING, Interval
from orchestrator.analysis.lines import MEAN_IMAGE, Line, Utility
from orchestrator.analysis.summary import records, summarize
from orchestrator.config.sweep import CellConfig, SweepConfig, VictimsConfig
from orchestrator.report.conclusions import Level, utility_verdict, verdict
from orchestrator.report.figures.gallery import error_map
from orchestrator.report.figures.tuning import middle_half
from orchestrator.report.terminal import number
from orchestrator.results.store import picture_rows
from tests.support.reports import write
from tests.support.results_folder import failed_row, row, suggestion, trial, write_folder


def sweep(test: int = 3, **cells: dict[str, Any]) -> SweepConfig:
    chosen = tuple(CellConfig(name=name, differs=differs) for name, differs in cells.items())
    return SweepConfig(
        name="small", cells=chosen or (CellConfig(name="none"),), victims=VictimsConfig(tuning=2, test=test)
    )


PRIVATE = {
    "epsilon": 8.0,
    "epsilon_release": 3.0,
    "delta": 1e-5,
    "dp_unit": "client",
    "adjacency": "replace_one",
    "sampling_rate": 1.0,
}


def full_folder(folder: Path) -> Path:
    levels = {"none": (24.0, 22.0, 25.5, 23.8, 23.8), "dp": (9.0, 8.0, 10.0, 9.0, 9.0)}
    tests = [
        trial(row(cell, victim, psnr, suggestion=1, **(PRIVATE if cell == "dp" else {})), pictures=True)
        for cell, values in levels.items()
        for victim, psnr in enumerate(values, start=2)
    ]
    told = [
        suggestion(number, value, f"{cell}/generic", lr=0.25)
        for cell in levels
        for number, value in enumerate((7.0, 9.0, None))
    ]
    utility: dict[str, dict[str, Any]] = {
        "none": {},
        "dp": {"accuracy": 0.55, "low": 0.5, "high": 0.62, "diverged": True},
    }
    return write_folder(folder, tests, suggestions=told, config=sweep(none={}, dp={}), utility=utility)


def line(**changes: Any) -> Line:
    """A line of six victims of a cell of its own without any differences that are known."""
    plain = Line(
        cell="dp",
        attacker="generic",
        defense="dp_update",
        defense_params="[]",
        signal="gradients",
        view="individual",
        round=0,
        weights_accuracy=0.5,
        privacy=None,
        differs={},
        labels="unknown",
        methods={"matching": 6},
        notes=(),
        n=6,
        images=6,
        tests=6,
        tests_failed=0,
        psnr=Interval(20.1, 18.0, 22.0),
        psnr_preselected=NOTHING,
        psnr_worst=23.0,
        success=Interval(0.5, 0.118, 0.882),
        control=MEAN_IMAGE,
        psnr_control=11.0,
        gain=NOTHING,
        over_prior=NOTHING,
        label_match=1.0,
        label_accuracy=NOTHING,
        means={},
        utility=None,
        winner=None,
        trials=22,
        trials_failed=0,
        not_observable=0,
        undefended=None,
        drop=NOTHING,
        beside=None,
        lead=NOTHING,
    )
    return replace(plain, **changes)


def bounds(name: str, mean: float, low: float, high: float) -> dict[str, Any]:
    return {name: Interval(mean, low, high)}


def trained(accuracy: Interval, *, diverged: bool = False, trainings: int = 1) -> Utility:
    return Utility(accuracy=accuracy, majority=0.6, trainings=trainings, diverged=diverged, not_finite=0)


def test_the_table_shows_the_computed_figures(tmp_path: Path) -> None:
    folder = full_folder(tmp_path)
    _, page = write(folder)
    shown = {entry["name"].split()[0]: entry for entry in page.rows if "Median" in entry}
    others = {entry["name"].split()[0]: entry for entry in page.rows if "Prior, dB" in entry}
    for entry in records(summarize(folder)):
        cells, further = shown[entry["cell"]], others[entry["cell"]]
        assert cells["n"] == "5"
        for label, name in (("PSNR, dB", "psnr"), ("Gain, dB", "gain")):
            mean, low, high = (number(entry[f"{name}{end}"]) for end in ("", "_low", "_high"))
            assert cells[label] == f"{mean} [{low}, {high}]"
        assert cells["Median"] == number(entry["psnr_median"])
        assert cells["Worst"] == number(entry["psnr_worst"])
        assert further["Control, dB"] == "11.0 mean public image"
        assert further["Prior, dB"] == "9.0"
        assert further["SSIM"] == "0.50"
        assert further["Oracle gap, dB"] == "0.0"
        assert further["Winning parameters"].endswith("lr=0.25")
        assert further["Failed"] == "0 of 5"
    assert (shown["none"]["Median"], shown["dp"]["Median"]) == ("23.8", "9.0")
    assert shown["none"][">= 20 dB"] == "100% [48%, 100%]"
    assert shown["dp"][">= 20 dB"] == "0% [0%, 52%]"
    assert shown["none"]["Accuracy"] == "80% [75%, 85%]"
    assert shown["dp"]["Accuracy"] == "55% [50%, 62%] diverged"
    assert others["dp"]["Accuracy"] == "55% [50%, 62%] majority 60% diverged"
    assert (shown["none"]["ε"], shown["dp"]["ε"], others["dp"]["ε total"].split()[0]) == ("-", "8", "8")
    assert "LPIPS" not in others["none"]
    assert "LPIPS is left out: it was not asked for" in page.text


def test_lpips_has_a_column_where_it_was_measured(tmp_path: Path) -> None:
    _, page = write(write_folder(tmp_path, [trial(row(lpips=0.1234))]))
    assert next(entry["LPIPS"] for entry in page.rows if "LPIPS" in entry) == "0.123"
    assert "LPIPS is left out" not in page.text


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    html, page = write(full_folder(tmp_path))
    assert html.startswith("<!doctype html>")
    assert not re.findall(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[A-Za-z0-9+/=]+", "", html))
    for tag, found in page.elements:
        assert tag not in ("iframe", "object")
        assert not any(name.startswith("on") for name in found)
        for name in ("src", "srcset", "href"):
            assert name not in found or str(found[name]).startswith(("data:", "#"))
        if tag == "img":
            assert found["alt"]
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in html or f"script-src 'sha256-{digest}'" in html
    targets = {found.get("id") for _, found in page.elements}
    assert all(
        found["href"][1:] in targets for tag, found in page.elements if tag == "a" and "download" not in found
    )


@pytest.mark.slow
def test_figures_are_written_and_the_report_repeats(tmp_path: Path) -> None:
    folder = full_folder(tmp_path)
    html, page = write(folder)
    names = {path.name for path in (folder / "figures").iterdir()}
    assert names == {
        f"{name}-{theme}.{kind}"
        for name in ("psnr", "utility", "history")
        for theme in ("light", "dark")
        for kind in ("png", "svg")
    }
    drawn = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    for name, content in drawn.items():
        assert content.startswith(b"\x89PNG" if name.endswith("png") else b"<?xml")
    assert write(folder)[0] == html
    assert {path.name: path.read_bytes() for path in (folder / "figures").iterdir()} == drawn
    assert (folder / "summary.parquet").is_file()
    assert not list(folder.glob("_*"))
    assert "Mean PSNR with 95% interval: none / generic 23.8" in " ".join(
        str(found.get("alt")) for _, found in page.elements
    )


def test_curves_of_attacks_are_quartiles_over_victims(tmp_path: Path) -> None:
    iterations, quartiles = middle_half([[(1, 8.0), (3, 4.0)], [(1, 6.0), (3, 2.0)], [(1, 1.0), (2, 0.5)]])
    assert iterations.tolist() == [1, 2, 3]
    # At 2 the first two are halfway between their points; at 3 the third has ended and keeps its last loss.
    assert quartiles[1].tolist() == [6.0, 4.0, 2.0]
    assert quartiles[0].tolist() == [3.5, 2.25, 1.25]
    folder = write_folder(
        tmp_path,
        [
            trial(row(victim=victim, convergence=json.dumps([[1, 2.0 * victim], [8, 0.5 * victim]])))
            for victim in (2, 3, 4)
        ],
        config=sweep(),
    )
    _, page = write(folder)
    assert "Median loss at the end: none / generic 1.5." in [found.get("alt") for _, found in page.elements]
    assert (folder / "figures" / "convergence-light.svg").is_file()


def test_many_victims_make_no_large_figure_and_the_legend_names_what_was_run(tmp_path: Path) -> None:
    def svg(victims: int, prior: float | None) -> str:
        folder = tmp_path / f"{victims}{prior}"
        tests = [
            trial(row(victim=victim, psnr=9 + victim % 7, psnr_prior=prior)) for victim in range(victims)
        ]
        write(write_folder(folder, tests, config=sweep(test=victims)))
        return (folder / "figures" / "psnr-light.svg").read_text()

    few, many = svg(20, 9.0), svg(1000, None)
    assert len(many) < 2 * len(few) + 100_000
    assert few.count("<use ") > 20
    assert "<image" in many
    assert "same attack on noise" in few
    assert "same attack on noise" not in many


def test_gallery_shows_closest_median_and_farthest(tmp_path: Path) -> None:
    psnr = {2: 12.0, 3: 19.5, 4: None, 5: 30.25, 6: 11.0, 7: 14.0, 8: 13.0, 9: 10.0}
    tests = [trial(row(victim=victim, psnr=value), pictures=True) for victim, value in psnr.items()]
    _, page = write(write_folder(tmp_path, tests))
    shown = re.findall(r"(closest|median|farthest): [\d.-]+ dB , SSIM [\d.-]+ victim (\d+)", page.text)
    assert shown == [("closest", "5"), ("median", "8"), ("farthest", "4")]
    assert "closest: 30.2 dB , SSIM 0.50 victim 5, 000005.jpg" in page.text


@pytest.mark.parametrize(("count", "places"), [(1, ["closest"]), (2, ["closest", "farthest"])])
def test_gallery_of_few_victims_shows_each_once(tmp_path: Path, count: int, places: list[str]) -> None:
    tests = [trial(row(victim=victim, psnr=20.0 - victim), pictures=True) for victim in range(count)]
    _, page = write(write_folder(tmp_path, tests))
    assert re.findall(r"(\w+): [\d.]+ dB , SSIM", page.text) == places


def test_gallery_shows_a_victims_most_exposed_image_and_what_was_not_reconstructed(tmp_path: Path) -> None:
    images = [row(psnr=value, image_id=f"{value}.jpg", batch_size=3) for value in (10.0, 21.0, None)]
    lost = row(victim=3, psnr=None, image_id="lost.jpg")
    _, page = write(write_folder(tmp_path, [trial(*images, pictures=True), trial(lost, pictures=True)]))
    assert "21.0 dB , SSIM 0.50 victim 2, 21.0.jpg, of a batch of 3" in page.text
    assert "10.0.jpg" not in page.text
    assert "not reconstructed farthest: - dB , SSIM - victim 3, lost.jpg" in page.text


def test_one_victim_is_shown_across_cells(tmp_path: Path) -> None:
    levels = {"none": (24.0, 22.0, 25.5), "dp": (9.0, 8.0, 10.0), "late": (7.0, 6.0, 5.0)}
    tests = [
        trial(row(cell, victim, psnr), pictures=True)
        for cell, values in levels.items()
        for victim, psnr in enumerate(values, start=2)
    ]
    config = sweep(none={}, dp={}, late={})
    _, page = write(write_folder(tmp_path, tests, config=config))
    assert "Victim 2 across cells" in page.text
    assert "original 24.0 dB none 9.0 dB dp 7.0 dB late" in page.text


def test_the_error_map_is_the_mean_absolute_difference() -> None:
    one = Image.fromarray(np.array([[[0, 0, 0], [255, 255, 255]]], dtype=np.uint8))
    other = Image.fromarray(np.array([[[51, 0, 0], [0, 0, 0]]], dtype=np.uint8))
    # 51 / 255 / 3 over a white of 0.5; a full difference is white.
    assert np.asarray(error_map(one, other)).tolist() == [[34, 255]]


@pytest.mark.slow
def test_a_page_of_many_large_pictures_stays_small(tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def noise() -> bytes:
        """Pixels that no format makes smaller, on a side that the page halves."""
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()

    tests = []
    for cell in range(18):
        for attacker in ("generic", "adaptive"):
            for victim in range(2, 5):
                entry = row(f"cell-{cell}", victim, 10.0 + victim + cell, attacker=attacker)
                plain = trial(entry)
                shown = [(entry["image_id"], noise(), noise())] if attacker == "adaptive" else []
                tests.append(replace(plain, images=picture_rows(plain.trial_id, shown)))
    html, page = write(write_folder(tmp_path, tests))
    assert len(html) < 10e6
    assert "Of each cell the strongest attacker is shown" in page.text


def test_everything_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('1')</script>"
    tests = [
        trial(row(evil, attacker='"><img src=x onerror=alert(2)>', image_id=evil), pictures=True),
        trial(failed_row(error="<b>&amp;</b>")),
    ]
    html, page = write(write_folder(tmp_path, tests))
    assert html.count("<script") == 1
    assert "<img src=x" not in html
    assert evil in page.text
    assert "<b>&amp;</b>" in page.text


def test_a_cell_that_differs_carries_a_footnote(tmp_path: Path) -> None:
    differs = {"capture.round": 2}
    config = sweep(test=1, none={}, late=dict(differs))
    tests = [trial(row("none")), trial(row("late", differs=json.dumps(differs), round=2))]
    html, page = write(write_folder(tmp_path, tests, config=config))
    assert "*1 Cell late differs from the others" in page.text
    assert "capture.round = 2 (the others: 0)" in page.text
    assert html.count('href="#differs-1"') == 1


def test_failures_with_the_same_error_share_a_line(tmp_path: Path) -> None:
    tests = [
        trial(row(victim=2)),
        *(trial(failed_row(victim=victim, error="not finite")) for victim in (3, 5)),
    ]
    hidden = trial(failed_row(victim=4, error="ciphertexts") | {"status": "not_observable"})
    _, page = write(write_folder(tmp_path, [*tests, hidden]))
    found = [entry for entry in page.rows if "Error" in entry]
    assert [(entry["Error"], entry["Trials"], entry["Victims"], entry["Status"]) for entry in found] == [
        ("not finite", "2", "3, 5", "failed"),
        ("ciphertexts", "1", "4", "not observable"),
    ]
    assert "2 of 4 test attacks failed" in page.text


def test_configuration_and_versions_are_in_the_appendix(tmp_path: Path) -> None:
    _, page = write(full_folder(tmp_path))
    assert '"sampler": "tpe"' in page.text
    assert "python 3.11" in page.text
    assert "Synthetic faces." in page.text


def test_photographs_are_not_called_synthetic(tmp_path: Path) -> None:
    _, page = write(write_folder(tmp_path, [trial(row(data="celeba:feed"))]))
    assert "Synthetic faces." not in page.text
    assert "celeba, fingerprint feed" in page.text


def test_the_strongest_attacker_of_a_cell_is_named(tmp_path: Path) -> None:
    tests = [trial(row(attacker=name, psnr=psnr)) for name, psnr in (("weak", 9.0), ("strong", 14.0))]
    html, page = write(write_folder(tmp_path, tests))
    assert html.count("strongest attacker of this cell") == 1
    assert re.search(r"strong strongest attacker of this cell", page.text)


@pytest.mark.parametrize("pictures", [False, True])
def test_one_victim_without_study_utility_or_config(tmp_path: Path, pictures: bool) -> None:
    _, page = write(write_folder(tmp_path, [trial(row(), pictures=pictures)]))
    assert "One victim gives no interval, which takes 5: the attack is 4.0 dB above" in page.text
    assert "no search" in page.text
    assert "Privacy and utility" not in page.text
    assert "Tuning history" not in page.text
    assert ("This folder holds no pictures" in page.text) is not pictures
    assert "The folder has no sweep.json" in page.text
    assert not any(word in page.text.lower().split() for word in ("nan", "none,", "undefined"))


def test_all_trials_failed(tmp_path: Path) -> None:
    tuning = [trial(failed_row(victim=0, phase="tune", suggestion=0))]
    folder = write_folder(tmp_path, tuning, suggestions=[suggestion(0, None)], config=sweep())
    _, page = write(folder)
    assert "All 1 trials failed: nothing was measured" in page.text
    assert "There is nothing to draw yet." in page.text
    assert "This sweep is not finished" not in page.text


def test_a_sweep_that_still_tunes_says_so(tmp_path: Path) -> None:
    tuning = [trial(row(victim=0, phase="tune", suggestion=0))]
    folder = write_folder(tmp_path, tuning, suggestions=[suggestion(0, 15.0)], config=sweep(none={}, dp={}))
    _, page = write(folder)
    assert "This sweep is not finished." in page.text
    assert "none / generic: 0 of 3 test victims dp / generic: 0 of 3 test victims" in page.text
    assert "tuning trials alone support no conclusion" in page.text
    assert "Tuning history" in page.text


def test_a_finished_sweep_does_not_say_that_it_is_unfinished(tmp_path: Path) -> None:
    _, page = write(full_folder(tmp_path))
    assert "not finished" not in page.text
    assert "Preliminary" not in page.text


@pytest.mark.parametrize(
    ("changes", "level", "sentence"),
    [
        (
            bounds("gain", 9.1, 8.0, 10.2),
            "beats",
            "The attack beats the mean public image by 9.1 dB [8.0, 10.2].",
        ),
        (bounds("gain", 0.3, 0.01, 0.6), "beats", "by 0.30 dB [0.01, 0.60]."),
        (bounds("gain", 0.5, 0.0, 1.0), "unclear", "No evidence that the attack beats the mean public image"),
        (bounds("gain", 0.5, -0.5, 1.5), "unclear", "0.5 dB [-0.5, 1.5], reaches 0."),
        (bounds("gain", -0.4, -0.8, 0.0), "unclear", "No evidence"),
        (
            bounds("gain", -0.7, -1.2, -0.2),
            "worse",
            "does worse than the mean public image, by 0.7 dB [0.2, 1.2].",
        ),
        (bounds("gain", -0.7, -1.2, -0.2), "worse", "is no evidence of safety."),
        (bounds("gain", 2.0, math.nan, math.nan), "single", "2.0 dB above"),
        (bounds("gain", -2.0, math.nan, math.nan), "single", "2.0 dB below"),
        ({}, "single", "There is no control to compare with."),
        ({"n": 0, "tests": 0, "trials_failed": 22}, "nothing", "All 22 trials failed"),
        ({"n": 0, "tests_failed": 6, "trials_failed": 6}, "nothing", "(6 failed, 0 not observable)"),
        ({"n": 0, "tests": 0, "not_observable": 22}, "nothing", "Not observable: in all 22 trials"),
        ({"n": 0, "tests_failed": 1, "not_observable": 5}, "nothing", "(1 failed, 5 not observable)"),
        ({"n": 0, "tests": 0}, "nothing", "No test victim has been attacked so far"),
        ({"psnr": NOTHING}, "nothing", "without a single reconstruction"),
    ],
)
def test_verdict_follows_from_the_gain(changes: dict[str, Any], level: Level, sentence: str) -> None:
    found = verdict(line(**changes))
    assert found.level == level
    assert sentence in found.text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (bounds("over_prior", 2.0, 1.0, 3.0), "by 2.0 dB [1.0, 3.0]: it makes use of the signal."),
        (bounds("over_prior", 0.5, -1.0, 2.0), "not shown to beat its own result on noise"),
        (
            bounds("over_prior", -2.0, -3.0, -1.0),
            "On noise of the same norm it does better, by 2.0 dB [1.0, 3.0].",
        ),
        (
            {"undefended": "none"} | bounds("drop", 5.0, 4.0, 6.0),
            "Against cell none, without a defense, it loses 5.0",
        ),
        ({"undefended": "none"} | bounds("drop", 0.5, -1.0, 2.0), "No evidence that the defense hinders it"),
        (
            {"undefended": "none"} | bounds("drop", -5.0, -6.0, -4.0),
            "closer than in cell none, without a defense, by 5.0",
        ),
        (
            bounds("success", 0.5, 0.118, 0.882),
            "3 of 6 images reach 20 dB (95% interval of their share: 12% to 88%); the most exposed has 23.0 dB.",
        ),
        ({"success": Interval(1 / 6, 0.0, 0.6)}, "1 of 6 images reaches 20 dB"),
        (
            bounds("success", 0.0, 0.0, 0.459) | {"psnr_worst": 13.3},
            "No image of 6 reaches 20 dB (95% interval of their share: 0% to 46%); the most",
        ),
        ({"tests_failed": 2}, "2 of 6 test attacks failed and are in no figure here."),
    ],
)
def test_verdict_adds_what_else_was_measured(changes: dict[str, Any], sentence: str) -> None:
    assert sentence in verdict(line(**bounds("gain", 1.0, 0.5, 1.5) | changes)).text


def test_verdict_is_preliminary_while_victims_are_missing() -> None:
    ready = line(**bounds("gain", 1.0, 0.5, 1.5))
    assert "Preliminary: 6 of 16 test victims so far." in verdict(ready, planned=16).text
    assert "Preliminary" not in verdict(ready, planned=6).text


@pytest.mark.parametrize(
    ("low", "high", "diverged", "sentence"),
    [
        (0.61, 0.7, False, "The model learns: accuracy 65% [61%, 70%], majority 60%."),
        (0.5, 0.7, False, "No evidence that the model learns"),
        (0.6, 0.7, False, "No evidence that the model learns"),
        (0.4, 0.59, False, "worse than always naming the majority class"),
        (0.61, 0.7, True, "Training with this defense diverged"),
    ],
)
def test_utility_verdict(low: float, high: float, diverged: bool, sentence: str) -> None:
    assert sentence in str(utility_verdict(trained(Interval(0.65, low, high), diverged=diverged)))


@pytest.mark.parametrize(
    ("trainings", "low", "sentence"),
    [
        (1, 0.61, "The interval is over validation images, for this one training."),
        (5, 0.61, "The interval is over 5 trainings."),
        (3, math.nan, "Accuracy 65%, majority 60%; 3 trainings give no interval, which takes 5."),
    ],
)
def test_the_sentence_on_accuracy_says_what_its_interval_is_over(
    trainings: int, low: float, sentence: str
) -> None:
    measured = trained(Interval(0.65, low, low + 0.1), trainings=trainings)
    assert sentence in str(utility_verdict(measured))


def test_no_utility_run_gives_no_sentence() -> None:
    assert utility_verdict(None) is None
