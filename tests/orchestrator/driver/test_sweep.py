"""Whole sweeps: the same rows serially and on Ray, resumed or not, killed or not."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from ruamel.yaml import YAML

from attack_core.base.types import AttackFailed
from fl_core.base.errors import InputError
from fl_core.base.shape import ImageShape
from fl_core.data.dataset import ImageDataset
from orchestrator.analysis.summary import summarize
from orchestrator.capture.store import CaptureSource
from orchestrator.config.sweep import SweepConfig
from orchestrator.driver import sweep as driver
from orchestrator.driver.sweep import run_sweep
from orchestrator.results.store import read_images
from orchestrator.results.utility_files import UtilityResult
from orchestrator.runtime.progress import Silent
from orchestrator.study import utility_runs
from orchestrator.trial import run as trial_module
from orchestrator.trial.utility import UtilitySpec
from tests.support.forked import Child
from tests.support.ray_cluster import ray_cluster
from tests.support.small import both, comparable, sweep, tree

TRIALS = 2 * (5 * 2 + 3)


def run(config: SweepConfig, out: Path, address: str = "serial") -> driver.Outcome:
    return run_sweep(config, out, address=address, reporter=Silent())


@pytest.fixture(scope="module")
def undisturbed(faces_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    outcome = run(sweep(faces_root), out)
    assert (outcome.trials, outcome.fresh, outcome.failed) == (TRIALS, TRIALS, 0)
    return out


def test_rows_say_what_was_run(undisturbed: Path) -> None:
    rows = pd.read_parquet(undisturbed / "trials")
    assert len(rows) == TRIALS
    assert not rows.duplicated(["trial_id", "image_id"]).any()
    assert set(rows["status"]) == {"ok"}
    assert rows.groupby(["cell", "phase"])["trial_id"].nunique().to_dict() == {
        ("none", "tune"): 10,
        ("none", "test"): 3,
        ("dp", "tune"): 10,
        ("dp", "test"): 3,
    }
    assert rows["weights"].nunique() == 1, "all cells are captured at the same weights"
    tune, test = (set(rows[rows["phase"] == phase]["image_id"]) for phase in ("tune", "test"))
    assert not tune & test, "tuning and test victims are disjoint"
    none, dp = rows[rows["cell"] == "none"], rows[rows["cell"] == "dp"]
    assert set(none["image_id"]) == set(dp["image_id"]), "comparisons are paired"
    assert none["epsilon"].isna().all()
    assert (dp["epsilon"] == 1e6).all()
    assert (dp["epsilon_release"] < 1e6).all()
    assert (dp["clip_factor"] < 1).all()
    assert rows["psnr_mean_image"].notna().all()
    assert rows[rows["phase"] == "test"]["psnr_prior"].notna().all()
    assert (rows["psnr_oracle"] >= rows["psnr"] - 1e-6).all()
    np.testing.assert_allclose(rows["psnr_range4"] - rows["psnr"], 20 * np.log10(2), atol=1e-3)
    for row in rows.to_dict("records"):
        attack = json.loads(row["attack_params"])
        assert (attack["lr"], attack["restarts"], attack["init"]) == (
            row["hp_lr"],
            row["hp_restarts"],
            row["hp_init"],
        )


def test_values_of_suggestions_are_means_over_tuning_victims_and_the_best_is_tested(
    undisturbed: Path,
) -> None:
    rows, studies = pd.read_parquet(undisturbed / "trials"), pd.read_parquet(undisturbed / "studies")
    assert len(studies) == 10
    for study in studies.to_dict("records"):
        trials = rows[rows["trial_id"].isin(study["trial_ids"])]
        assert len(trials) == 2
        assert study["state"] == "ok"
        assert study["value"] == pytest.approx(trials["psnr"].mean())
    for cell in ("none", "dp"):
        mine = studies[studies["study"] == f"{cell}/generic"]
        best = mine.loc[mine["value"].idxmax(), "suggestion"]
        assert set(rows[(rows["cell"] == cell) & (rows["phase"] == "test")]["suggestion"]) == {best}
    summary = summarize(undisturbed)
    assert summary["cell"].tolist() == ["none", "dp"]
    assert summary["n"].tolist() == [3, 3]
    tested = rows[(rows["cell"] == "none") & (rows["phase"] == "test")]
    assert summary["psnr"][0] == pytest.approx(tested["psnr"].mean())
    assert summary["psnr_worst"][0] == tested["psnr"].max()


def test_pictures_are_the_truth_and_the_reconstruction(undisturbed: Path, faces_root: Path) -> None:
    import io

    from fl_core.data.kinds.celeba import open_celeba

    table = read_images(undisturbed).to_pylist()
    assert len(table) == 6
    dataset: ImageDataset = open_celeba(faces_root, shape=ImageShape.square(16))
    rows = pd.read_parquet(undisturbed / "trials").set_index(["trial_id", "image_id"])
    for picture in table:
        true = (
            dataset.image(list(dataset.names).index(picture["image_id"])).permute(1, 2, 0).numpy() / 2 + 0.5
        )
        original, found = (
            np.asarray(Image.open(io.BytesIO(picture[name]["bytes"]))) / 255
            for name in ("original", "reconstruction")
        )
        np.testing.assert_allclose(original, true, atol=1 / 255)
        psnr = -10 * np.log10(((original - found) ** 2).mean())
        assert psnr == pytest.approx(rows.loc[(picture["trial_id"], picture["image_id"]), "psnr"], abs=0.2)


def test_a_second_run_does_no_attack_and_writes_nothing(undisturbed: Path, faces_root: Path) -> None:
    before = comparable(undisturbed)
    files = sorted((path, path.stat().st_mtime_ns) for path in (undisturbed / "trials").iterdir())
    outcome = run(sweep(faces_root), undisturbed)
    assert (outcome.trials, outcome.fresh) == (TRIALS, 0)
    assert files == sorted((path, path.stat().st_mtime_ns) for path in (undisturbed / "trials").iterdir())
    pd.testing.assert_frame_equal(before, comparable(undisturbed))


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with ray_cluster(cpus=2) as address:
        yield address


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_ray_gives_the_serial_rows(
    undisturbed: Path, faces_root: Path, tmp_path: Path, cluster: str, workers: int
) -> None:
    outcome = run(sweep(faces_root, execution__workers=workers), tmp_path, cluster)
    assert outcome.failed == 0
    pd.testing.assert_frame_equal(comparable(undisturbed), comparable(tmp_path))
    left, right = (pd.read_parquet(out / "studies") for out in (undisturbed, tmp_path))
    pd.testing.assert_frame_equal(left, right)


@pytest.mark.slow
def test_the_threads_of_the_driver_change_nothing(faces_root: Path, tmp_path: Path) -> None:
    import torch

    attack = {"kind": "matching", "iterations": 20}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        run(sweep(faces_root, attackers__0__attack=attack, attackers__0__search={}), tmp_path / str(threads))
    pd.testing.assert_frame_equal(comparable(tmp_path / "1"), comparable(tmp_path / "2"), rtol=0, atol=0)
    assert torch.get_num_threads() == 1, "the config's"


def test_an_interrupted_sweep_resumes_to_the_same_end(
    undisturbed: Path, faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = trial_module.run_trial, 0

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 7 == 0:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(trial_module, "run_trial", interrupted)
    stops = 0
    while True:
        try:
            outcome = run(sweep(faces_root), tmp_path)
            break
        except KeyboardInterrupt:
            stops += 1
            assert not list(tmp_path.glob("trials/_*"))
    assert stops >= 3
    assert outcome.trials == TRIALS
    pd.testing.assert_frame_equal(comparable(undisturbed), comparable(tmp_path))


@pytest.mark.slow
def test_a_killed_driver_loses_nothing(undisturbed: Path, faces_root: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "small.yaml", tmp_path / "out"
    YAML(typ="safe", pure=True).dump(tree(faces_root, attackers__0__attack__iterations=8), file)
    arguments = ["sweep", str(file), "--out", str(out), "--address", "serial"]
    for wanted in (4, 11):
        child = Child(arguments, tmp_path / "log")
        deadline = time.monotonic() + 120
        while _finished(out) < wanted and time.monotonic() < deadline and child.poll() is None:
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert 4 <= _finished(out) <= TRIALS
    outcome = run(sweep(faces_root, attackers__0__attack__iterations=8), out)
    assert (outcome.trials, outcome.failed) == (TRIALS, 0)
    rows = pd.read_parquet(out / "trials")
    assert rows[rows["status"] == "ok"].groupby("trial_id").size().eq(1).all()
    pd.testing.assert_frame_equal(comparable(undisturbed), comparable(out))


def _finished(out: Path) -> int:
    log = out / "pending.jsonl"
    logged = sum('"trial"' in line for line in log.read_text().splitlines()) if log.exists() else 0
    parts = list(out.glob("trials/part-*.parquet"))
    return logged + (len(pd.read_parquet(out / "trials")) if parts else 0)


def test_a_larger_budget_extends_a_sweep_and_another_config_is_refused(
    undisturbed: Path, faces_root: Path, tmp_path: Path
) -> None:
    import shutil

    out = tmp_path / "copy"
    shutil.copytree(undisturbed, out)
    outcome = run(sweep(faces_root, study__suggestions=6, victims__test=4), out)
    assert outcome.fresh >= 2 * 2
    studies = pd.read_parquet(out / "studies")
    old = pd.read_parquet(undisturbed / "studies")
    kept = studies[studies["suggestion"] < 5].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, old.reset_index(drop=True))
    with pytest.raises(InputError, match=r"another sweep: federation\.local\.lr was 0\.05 and is now 0\.1"):
        run(sweep(faces_root, federation__local__lr=0.1), out)
    with pytest.raises(InputError, match=r"study\.suggestions was 6 and may grow, not shrink to 5"):
        run(sweep(faces_root), out)


def test_failures_stay_in_the_table_and_give_exit_counts(
    faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trial_module.run_trial

    def failing(spec: Any, *args: Any, **kwargs: Any) -> Any:
        if spec.phase == "tune" and spec.suggestion in (0, 1):
            raise RuntimeError("a programming error")
        return real(spec, *args, **kwargs)

    monkeypatch.setattr(trial_module, "run_trial", failing)
    outcome = run(sweep(faces_root), tmp_path)
    assert (outcome.trials, outcome.failed) == (TRIALS, 8)
    rows = pd.read_parquet(tmp_path / "trials")
    failed = rows[rows["status"] == "failed"]
    assert len(failed) == 8
    assert failed["image_id"].isna().all()
    assert set(failed["error"]) == {"RuntimeError: a programming error"}
    studies = pd.read_parquet(tmp_path / "studies")
    assert set(studies[studies["suggestion"] < 2]["state"]) == {"failed"}
    assert summarize(tmp_path)["trials_failed"].tolist() == [4, 4]


def test_when_every_candidate_is_not_finite_the_trial_fails_and_says_so(
    faces_root: Path, tmp_path: Path
) -> None:
    config = sweep(
        faces_root,
        attackers__0__search={},
        attackers__0__attack={"kind": "matching", "iterations": 4, "lr": 1e30, "preset": "none"},
    )
    outcome = run(config, tmp_path)
    assert outcome.failed == outcome.trials == 6
    assert set(pd.read_parquet(tmp_path / "trials")["error"]) == {
        "All 1 candidates met a loss that is not finite."
    }
    assert issubclass(AttackFailed, Exception)


@pytest.mark.slow
def test_what_the_threat_model_hides_is_not_observable(faces_root: Path, tmp_path: Path) -> None:
    cells = [{"name": kind, "defense": [{"kind": kind}]} for kind in ("ckks", "masking")]
    config = sweep(faces_root, threat={"view": "ciphertext"}, attackers__0__search={}, cells=cells)
    outcome = run(config, tmp_path)
    assert (outcome.trials, outcome.failed) == (6, 0)
    rows = pd.read_parquet(tmp_path / "trials")
    assert set(rows["status"]) == {"not_observable"}
    assert rows["psnr"].isna().all()


def test_a_cell_may_differ_openly_and_the_rows_say_so(faces_root: Path, tmp_path: Path) -> None:
    cells = [
        {"name": "none"},
        {"name": "step", "differs": {"capture.signal": "one_step_update", "capture.round": 1}},
    ]
    run(sweep(faces_root, cells=cells, attackers__0__search={}), tmp_path)
    rows = pd.read_parquet(tmp_path / "trials")
    step = rows[rows["cell"] == "step"].iloc[0]
    assert (step["signal"], step["round"]) == ("one_step_update", 1)
    assert json.loads(step["differs"]) == {"capture.signal": "one_step_update", "capture.round": 1}
    assert rows["weights"].nunique() == 2


def test_aggregates_score_every_image_in_the_signal(faces_root: Path, tmp_path: Path) -> None:
    config = sweep(
        faces_root,
        capture__signal="agg_update",
        victims={"tuning": 0, "test": 2},
        attackers__0__search={},
        attackers__0__attack={"kind": "matching", "iterations": 3, "images": 3},
    )
    run(config, tmp_path)
    rows = pd.read_parquet(tmp_path / "trials")
    for _, trial in rows.groupby("trial_id"):
        assert len(trial) == 12, "two clients with six images each"
        assert trial["psnr"].notna().sum() == 3
        assert trial["psnr_mean_image"].notna().sum() == 3
        assert trial["label_match"].notna().sum() == 3
    assert set(rows["view"]) == {"aggregate"}


def test_a_corrupt_image_stops_the_sweep_with_its_name_and_keeps_what_is_done(
    faces_root: Path, tmp_path: Path
) -> None:
    import shutil

    root = tmp_path / "faces"
    shutil.copytree(faces_root, root)
    config = sweep(root, attackers__0__search={})
    first = run(config, tmp_path / "out")
    assert first.failed == 0
    victim = pd.read_parquet(tmp_path / "out" / "trials")["image_id"].iloc[-1]
    (root / "img_align_celeba" / victim).write_bytes(b"no picture")
    with pytest.raises(InputError, match=str(victim)):
        run(config, tmp_path / "fresh")


@pytest.mark.slow
def test_accuracy_of_several_trainings_is_their_mean(
    many_faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each training has a seed of its own; the first is the one of a sweep without `seeds`."""
    root = many_faces_root
    trained: list[int] = []

    def quick(spec: UtilitySpec, *_: object, **__: object) -> UtilityResult:
        trained.append(spec.seed)
        accuracy = 0.6 + 0.1 * len(trained)
        return UtilityResult(
            accuracy=accuracy, low=0.5, high=1.0, majority=0.6, images=9, per_round=(0.6,), diverged=False
        )

    monkeypatch.setattr(utility_runs, "run_utility", quick)
    single = sweep(root, attackers__0__search={}, cells=[{"name": "none"}], utility={"train": 1000})
    several = sweep(
        root, attackers__0__search={}, cells=[{"name": "none"}], utility={"train": 1000, "seeds": 3}
    )
    run(single, tmp_path / "single")
    first = [path.name for path in (tmp_path / "single" / "utility").iterdir()]
    assert trained == [single.seed]
    trained.clear()
    run(several, tmp_path / "several")
    assert trained[0] == single.seed
    assert len(set(trained)) == 3
    files = {path.name for path in (tmp_path / "several" / "utility").iterdir()}
    assert len(files) == 3
    assert files.issuperset(first)
    rows = pd.read_parquet(tmp_path / "several" / "trials")
    assert rows["accuracy"].tolist() == pytest.approx([0.8] * len(rows))
    assert run(several, tmp_path / "several").fresh == 0
    assert len(trained) == 3, "what is there is not trained again"


@pytest.mark.slow
def test_accuracy_is_measured_once_and_stands_in_the_test_rows(many_faces_root: Path, tmp_path: Path) -> None:
    root = many_faces_root
    cells = [*tree(root)["cells"], {"name": "known", "differs": {"threat.labels": "known"}}]
    config = sweep(root, cells=cells, attackers__0__search={}, utility={"train": 1000, "batch_size": 25})
    run(config, tmp_path)
    rows = pd.read_parquet(tmp_path / "trials")
    found = {}
    for path in (tmp_path / "utility").glob("*.json"):
        content = json.loads(path.read_bytes())
        found |= dict.fromkeys(content["cells"], content["result"])
    assert set(found) == {"none", "dp", "known"}
    assert len(list((tmp_path / "utility").glob("*.json"))) == 2, "none and known share one run"
    for cell, result in found.items():
        assert set(rows[rows["cell"] == cell]["accuracy"]) == {result["accuracy"]}
        assert result["low"] <= result["accuracy"] <= result["high"]
        assert len(result["per_round"]) == 2
        assert result["majority"] >= 0.5
    assert run(config, tmp_path).fresh == 0


def test_two_drivers_on_one_folder_are_refused(faces_root: Path, tmp_path: Path) -> None:
    from orchestrator.results.schema import trials_schema
    from orchestrator.results.store import ResultStore

    with (
        ResultStore(tmp_path, trials_schema([])),
        pytest.raises(InputError, match="in use by another gradsweep"),
    ):
        run(sweep(faces_root), tmp_path)


def test_two_attackers_share_a_cells_captures(faces_root: Path, tmp_path: Path) -> None:
    plain = {"kind": "matching", "iterations": 3}
    attackers = [{"name": name, "attack": plain | {"lr": lr}} for name, lr in (("slow", 0.01), ("fast", 0.2))]
    victims = {"tuning": 0, "test": 1}
    outcome = run(sweep(faces_root, attackers=attackers, victims=victims), tmp_path)
    assert (outcome.trials, outcome.failed) == (4, 0)
    rows = pd.read_parquet(tmp_path / "trials")
    assert sorted(zip(rows["cell"], rows["attacker"], strict=True)) == [
        ("dp", "fast"),
        ("dp", "slow"),
        ("none", "fast"),
        ("none", "slow"),
    ]
    assert rows["image_id"].nunique() == 1


@pytest.mark.slow
@pytest.mark.parametrize("where", ["serial", "ray"])
def test_captures_that_are_not_kept_go_victim_by_victim(
    faces_root: Path, tmp_path: Path, request: pytest.FixtureRequest, where: str
) -> None:
    """A sweep of many victims needs room for the few that it works on, and its rows are the same."""
    victims = 8
    changes: dict[str, Any] = {
        "attackers": both({"kind": "matching", "iterations": 3}),
        "victims": {"tuning": 0, "test": victims},
    }
    kept, dropped = tmp_path / "kept", tmp_path / "dropped"

    def captures(out: Path) -> int:
        return sum(path.name != "weights" for path in (out / "captures").iterdir())

    class Counting(Silent):
        most = 0

        def job_done(self, study: str, psnr: float | None) -> None:
            self.most = max(self.most, captures(dropped))

    run(sweep(faces_root, **changes), kept)
    assert captures(kept) == 2 * victims
    counting = Counting()
    config = sweep(faces_root, **changes, execution__keep_captures=False, execution__workers=1)
    address = request.getfixturevalue("cluster") if where == "ray" else where
    outcome = run_sweep(config, dropped, address=address, reporter=counting)
    assert (outcome.trials, outcome.failed) == (2 * 2 * victims, 0), "two attackers share a cell's captures"
    # Attackers of a cell come to a victim one after the other; on workers others wait and run.
    assert 0 < counting.most <= (4 if where == "serial" else 9)
    assert captures(dropped) == 0
    pd.testing.assert_frame_equal(comparable(kept), comparable(dropped))


@pytest.mark.slow
def test_a_capture_stays_for_whoever_has_yet_to_come_to_it(faces_root: Path, tmp_path: Path) -> None:
    """An attacker left out of the first run finds the captures, and those that nobody needs any more are removed."""
    tuned, plain = tree(faces_root)["attackers"][0], {"kind": "matching", "iterations": 3}
    attackers = [tuned, {"name": "plain", "attack": plain}]
    config = sweep(faces_root, attackers=attackers, victims__test=2, execution__keep_captures=False)

    class Left(Silent):
        """Stops when the attacker that is not tuned is done with everything and the tuned one has not begun to test."""

        plain = 0

        def job_done(self, study: str, psnr: float | None) -> None:
            self.plain += study.endswith("/plain")
            if self.plain == 4:
                raise KeyboardInterrupt

    made: list[str] = []
    original = CaptureSource._compute

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            CaptureSource,
            "_compute",
            lambda self, victim: made.append(self.key(victim)) or original(self, victim),
        )
        with pytest.raises(KeyboardInterrupt):
            run_sweep(config, tmp_path, address="serial", reporter=Left())
        run(config, tmp_path)
    assert len(made) == len(set(made)) == 2 * (2 + 2), "nothing was captured twice"
    assert [path.name for path in (tmp_path / "captures").iterdir()] == ["weights"]
