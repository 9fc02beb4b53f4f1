"""Several seeds: each replicate is the sweep of that seed, one seed is what it always was, and seeds may be added."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from fl_core.base.errors import InputError
from orchestrator.analysis.summary import summary_lines, winners
from orchestrator.config.sweep import SweepConfig
from orchestrator.driver.plan import check_plan, make_plan, plan_table, victims_line
from orchestrator.io.identity import content_hash
from orchestrator.report.notes import notes
from orchestrator.report.reader import Results
from orchestrator.report.remaining import pairs, progress
from orchestrator.report.report import write_report
from tests.support.small import TIMES, comparable, run, run_quietly, sweep

SMALL = {"victims": {"tuning": 1, "test": 2}, "study__suggestions": 2, "study__lag": 1}


def small(root: Path, **changes: object) -> SweepConfig:
    return sweep(root, **{**SMALL, **changes})


def rows_at(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    kept = rows[rows["sweep_seed"] == seed].drop(columns=TIMES, errors="ignore")
    return kept.sort_values(["trial_id", "image_id"]).reset_index(drop=True)


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory, faces_root: Path) -> Path:
    """The small sweep at seeds 5, 6 and 7."""
    out = tmp_path_factory.mktemp("seeds") / "out"
    run_quietly(small(faces_root, seeds=3), out)
    return out


def test_one_seed_is_no_part_of_an_identity(faces_root: Path) -> None:
    assert content_hash(small(faces_root)) == content_hash(small(faces_root, seeds=1))
    assert content_hash(small(faces_root)) != content_hash(small(faces_root, seeds=2))


def test_each_replicate_is_the_sweep_of_its_seed(repeated: Path, faces_root: Path, tmp_path: Path) -> None:
    rows = pd.read_parquet(repeated / "trials")
    assert set(rows["sweep_seed"]) == {5, 6, 7}
    for seed in (5, 6):
        run_quietly(small(faces_root, seed=seed), tmp_path / str(seed))
        alone = rows_at(comparable(tmp_path / str(seed)), seed)
        mine = rows_at(rows, seed)
        assert len(alone) == 2 * (2 + 2)
        study = ["study"] if seed != 5 else []
        assert mine.drop(columns=study).equals(alone.drop(columns=study))
    assert {name for name in rows["study"] if "/6" in name} == {"none/generic/6", "dp/generic/6"}


def test_weights_images_and_noise_differ_between_replicates(repeated: Path) -> None:
    rows = pd.read_parquet(repeated / "trials")
    tests = rows[rows["phase"] == "test"]
    assert tests["weights"].nunique() == 3
    assert tests["trial_id"].nunique() == 3 * 2 * 2
    images = tests[tests["cell"] == "none"].groupby("sweep_seed")["image_id"].agg(tuple)
    assert len(set(images)) == 3, "clients hold other images"


def test_seeds_may_be_added_and_not_taken_away(faces_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(small(faces_root), out)
    more = run(small(faces_root, seeds=2), out)
    assert (first.trials, more.trials, more.fresh) == (8, 16, 8)
    assert run(small(faces_root, seeds=2), out).fresh == 0
    with pytest.raises(InputError, match="seeds was 2 and may grow, not shrink to 1"):
        run(small(faces_root), out)


def test_the_summary_has_all_seeds_and_each_ones_winner(repeated: Path) -> None:
    lines = summary_lines(repeated)
    assert [(line.cell, line.n, line.seeds, line.tests, line.trials) for line in lines] == [
        ("none", 6, 3, 6, 12),
        ("dp", 6, 3, 6, 12),
    ]
    best, rows = winners(repeated), Results(repeated, lines).tested(lines[0].cell, lines[0].attacker)
    assert len(best) == 6
    assert len(rows) == 6
    for name, mine in rows.groupby("study"):
        assert set(mine["suggestion"]) == {best[str(name)].suggestion}
    assert lines[0].psnr.bounded
    assert lines[1].drop.measured
    assert lines[0].psnr.mean == pytest.approx(rows["psnr"].mean())
    assert "Run at 3 seeds" in " ".join(notes(lines))


def test_report_and_progress_count_all_seeds(repeated: Path) -> None:
    lines = summary_lines(repeated)
    results = Results(repeated, lines)
    assert progress(results) is None
    assert [(pair.tests_planned, pair.tuning_planned) for pair in pairs(results)] == [(6, 6), (6, 6)]
    assert "5 to 7" in write_report(repeated, lines, []).read_text()


def test_a_plan_counts_all_seeds(faces_root: Path) -> None:
    config = small(faces_root, seeds=3)
    check_plan(config, ["*"])
    table = plan_table(make_plan(config, ["*"]))
    assert "at each of 3 seeds" in victims_line(make_plan(config, ["*"]))
    assert [str(cell) for cell in table.columns[2].cells][-1] == str(2 * 3 * (2 + 2))


@pytest.mark.slow
def test_rows_from_before_there_were_seeds_are_of_the_sweeps_own(faces_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_quietly(small(faces_root), out)
    for part in (out / "trials").glob("*.parquet"):
        table = pq.read_table(part)
        pq.write_table(table.drop_columns(["sweep_seed"]), part)
    before = summary_lines(out)
    assert [(line.seeds, line.n) for line in before] == [(1, 2), (1, 2)]
    more = run(small(faces_root, seeds=3), out)
    assert (more.trials, more.fresh) == (24, 16), "its finished trials are not repeated"
    assert [(line.seeds, line.n) for line in summary_lines(out)] == [(3, 6), (3, 6)]


@pytest.mark.parametrize("seeds", [0, 101])
def test_how_many_seeds_there_may_be(seeds: int, faces_root: Path) -> None:
    with pytest.raises(InputError, match=r"SweepConfig.seeds = .*: must be from 1 to 100"):
        small(faces_root, seeds=seeds)
