"""The original command line: its flags are frozen, its outputs are written."""

from __future__ import annotations

import dataclasses
import json
import runpy
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from attack_core.attacks.registry import NAMED
from attack_core.gradients.objectives import Both, Cosine, Similarity
from attack_core.matching.candidates import EarlyStop
from attack_core.matching.matching import Matching
from defenses.dp.local import DPUpdate
from defenses.he.encryption import CKKS, Paillier
from fl_core.base.errors import InputError
from fl_core.federation.rounds import FederationConfig
from orchestrator.cli.experiment import Experiment, parse
from orchestrator.cli.main import execute
from tests.support.command import as_main
from tests.support.paths import ROOT

ORIGINAL = {
    "device": "auto",
    "seed": 42,
    "out_dir": None,
    "save_config": False,
    "num_clients": 10,
    "batch_size": 1,
    "data_subset": 200,
    "num_rounds": 5,
    "local_epochs": 1,
    "client_lr": 0.01,
    "client_momentum": 0.9,
    "no_augment": False,
    "capture_client": 0,
    "capture_round": None,
    "attack_source": "gradients",
    "attack_iterations": 2000,
    "attack_lr": 0.1,
    "tv_weight": 0.001,
    "attack_optimizer": "adam",
    "attack_restarts": 1,
    "attack_batch": 1,
    "label_strategy": "auto",
    "controls": False,
    "compute_lpips": False,
    "lr_schedule": "none",
    "early_stop": False,
    "patience": 500,
    "min_delta": 1e-4,
    "fft_init": False,
    "preset": "none",
    "match_metric": "l2",
    "l2_weight": 1.0,
    "cos_weight": 1.0,
    "use_layers": ("all",),
    "select_by_name": None,
    "layer_weights": ("uniform",),
    "no_heatmap": False,
    "dp_epsilon": None,
    "dp_delta": 1e-5,
    "dp_max_norm": 1.0,
    "use_he": False,
    "he_bits": None,
    "he_precision": None,
}
ADDED = {
    "data_root": "data",
    "target_attr": "Male",
    "victims": 1,
    "he_scheme": "ckks",
    "yes": False,
    "attack": "matching",
    "model": "cnn64",
    "image_size": 64,
    "local_steps": None,
    "given": (),
}


def test_the_flags_and_their_defaults_are_frozen() -> None:
    assert vars(parse([])) == ORIGINAL | ADDED


def test_defaults_mean_what_they_meant() -> None:
    sweep = parse([]).sweep()
    assert (sweep.data.train, sweep.data.valid) == (160, 40)
    assert (sweep.federation.clients, sweep.federation.fraction, sweep.federation.per_round) == (10, 0.5, 5)
    assert sweep.federation.flip
    assert (sweep.capture.round, sweep.capture.client) == (4, 0)
    assert sweep.attackers[0].attack == Matching(images=1)
    assert sweep.attackers[0].attack.clamp == 2.0
    assert sweep.cells[0].defense == ()


def test_flags_reach_the_attack() -> None:
    flags = (
        "--match-metric both --l2-weight 2 --cos-weight 3 --lr-schedule cosine --early-stop --patience 7 "
        "--min-delta 0.5 --fft-init --preset tight --use-layers 0 2,3 --select-by-name conv fc "
        "--layer-weights early_conv --attack-restarts 4 --attack-optimizer lbfgs --label-strategy optimize"
    )
    attack = parse(flags.split()).chosen_attack()
    assert attack == Matching(
        objective=Both(l2_weight=2.0, cos_weight=3.0),
        schedule="cosine",
        early_stop=EarlyStop(patience=7, min_delta=0.5),
        init="fourier",
        preset="tight",
        layers=(0, 2, 3),
        layer_names=("conv", "fc"),
        layer_weights="early_conv",
        restarts=4,
        optimizer="lbfgs",
        labels="optimize",
        images=1,
    )
    assert parse(["--match-metric", "cosine"]).chosen_attack().objective == Cosine()
    assert parse(["--match-metric", "sim"]).chosen_attack().objective == Similarity()
    assert parse(["--layer-weights", "1", "0.5"]).chosen_attack().layer_weights == (1.0, 0.5)


def test_a_named_attack_keeps_its_settings_but_for_the_flags_that_are_given() -> None:
    assert parse(["--attack", "inverting_gradients"]).chosen_attack() == NAMED["inverting_gradients"]
    flags = "--attack inverting_gradients --attack-iterations 2000 --attack-lr 0.3 --patience 9 --victims 4"
    changed = parse([*flags.split(), "--early-stop"]).chosen_attack()
    assert changed == dataclasses.replace(
        NAMED["inverting_gradients"],
        iterations=2000,
        lr=0.3,
        early_stop=EarlyStop(patience=9, min_delta=1e-4),
    )
    assert parse(["--attack", "matching"]).sweep() == parse([]).sweep(), (
        "the default is the original's attack"
    )


def test_flags_that_do_less_than_they_seem_to_are_remarked_on() -> None:
    remarks = parse(["--attack", "auto", "--attack-iterations", "2", "--round", "1"]).remarks()
    assert remarks == [
        "--attack-iterations changes the matching that --attack auto falls back to; what it does before that stays as "
        "it is."
    ]
    assert parse(["--attack", "dlg", "--attack-iterations", "2"]).remarks() == []
    assert parse(["--attack", "auto", "--seed", "2"]).remarks() == []
    assert "512 bits are insecure" in parse(["--use-he", "--he-bits", "512"]).remarks()[0]
    assert parse(["--use-he", "--he-bits", "2048"]).remarks() == []


def test_flags_describe_the_federation_too() -> None:
    flags = "--model lenet --image-size 32 --signal local_update --round 2 --local-steps 4 --batch-size 2"
    sweep = parse(flags.split()).sweep()
    assert (sweep.model.kind, sweep.model.image_size) == ("lenet", 32)
    assert (sweep.capture.signal, sweep.capture.round) == ("local_update", 2)
    assert (sweep.federation.local.max_steps, sweep.federation.local.batch_size) == (4, 2)
    assert (
        sweep
        == parse(flags.replace("signal", "attack-source").replace("round", "capture-round").split()).sweep()
    )


def test_dp_flags_mean_one_release() -> None:
    sweep = parse(["--dp-epsilon", "8", "--dp-delta", "1e-6", "--dp-max-norm", "2"]).sweep()
    assert sweep.cells[0].defense == (DPUpdate(epsilon=8.0, delta=1e-6, max_norm=2.0, budget="release"),)
    privacy = sweep.cells[0].defense[0].privacy(FederationConfig(rounds=5))
    assert privacy.epsilon_release == 8.0
    assert privacy.epsilon > 8.0


@pytest.mark.parametrize(
    ("flags", "chain"),
    [
        ("--use-he", (CKKS(),)),
        ("--use-he --he-scheme paillier", (Paillier(),)),
        # The original's own flags, which say Paillier.
        ("--use-he --he-bits 512 --he-precision 1000000", (Paillier(key_bits=512, precision=1_000_000),)),
        ("--use-he --he-precision 1000", (Paillier(precision=1000),)),
        (
            "--use-he --he-scheme paillier --he-bits 512 --he-precision 1000",
            (Paillier(key_bits=512, precision=1000),),
        ),
    ],
)
def test_encryption_is_a_real_scheme_behind_the_noise(flags: str, chain: tuple[CKKS | Paillier, ...]) -> None:
    assert parse(flags.split()).sweep().cells[0].defense == chain
    noisy = parse([*flags.split(), "--dp-epsilon", "1"]).sweep().cells[0].defense
    assert (noisy[0].kind, noisy[1:]) == ("dp_update", chain)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--atack-lr 1", "unrecognized arguments: --atack-lr 1. Did you mean '--attack-lr'?"),
        ("--atack dlg", "Did you mean '--attack'?"),
        ("--iterations 5", "Did you mean '--attack-iterations'?"),
        ("--iterations=5", "Did you mean '--attack-iterations'?"),
        ("dlg", "unrecognized arguments: dlg."),
        ("--attack-lr inf", "--attack-lr: 'inf': must be a finite number"),
        ("--tv-weight nan", "--tv-weight: 'nan': must be a finite number"),
        ("--client-lr 1e400", "--client-lr: '1e400': must be a finite number"),
        ("--layer-weights inf", "Unknown --layer-weights 'inf'"),
        ("--image-size 1000000000000000000000000000000", "must be a whole number of less than 19 digits"),
        (
            "--image-size 8000",
            "ModelConfig.image_size = 8000: must be from 8 to 4096",
        ),
        (
            "--attack-restarts 1000000000000000000",
            "Matching.restarts = 1000000000000000000: must be from 1 to",
        ),
        ("--use-layers ²", "--use-layers '²': must be parameter indices"),
        ("--select-by-name nolayer", "Unknown layer name 'nolayer'. Known: conv1.bias, "),
        ("--attack-batch 2", "Matching.images = 2, but the signal holds 1 images at most"),
        ("--seed x", "--seed"),
        ("--attack idgl", "Unknown --attack 'idgl'. Did you mean 'idlg'?"),
        ("--image-size 7", "ModelConfig.image_size = 7"),
        ("--attack dlg --attack-lr 0", "Matching.lr = 0.0"),
        ("--match-metric l3", "invalid choice: 'l3'"),
        ("--use-he --he-scheme paillier --he-bits 1024", "Paillier.key_bits = 1024"),
        ("--use-he --he-scheme bfv", "invalid choice: 'bfv'"),
        ("--he-bits 512", "--he-bits 512 goes with --use-he"),
        ("--he-precision 10", "goes with --use-he"),
        ("--use-he --he-scheme ckks --he-bits 512", "--he-bits 512 goes with --he-scheme paillier"),
        ("--use-he --he-bits 511", "Paillier.key_bits = 511: must be one of 512, 2048"),
        ("--use-layers first", "--use-layers 'first'"),
        ("--layer-weights early_linea", "Did you mean 'early_linear'"),
        ("--data-subset 3", "must be at least 5"),
        ("--victims 0", "VictimsConfig.test = 0"),
        ("--device tpu", "invalid choice: 'tpu'"),
        ("--dp-epsilon -1", "DPUpdate.epsilon = -1.0"),
    ],
)
def test_bad_flags_are_refused_in_one_line(
    flags: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["run", *flags.split()]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1


def test_an_experiment_writes_picture_metrics_config_and_rows(
    faces_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = (
        f"--data-root {faces_root} --data-subset 40 --num-clients 4 --num-rounds 1 --attack-iterations 3 "
        f"--victims 2 --lr-schedule cosine --tv-weight 1e-5 --out-dir {tmp_path} --compute-lpips"
    )
    script = partial(runpy.run_path, str(ROOT / "run_experiment.py"), run_name="__main__")
    done = as_main(script, flags.split(), capfd, monkeypatch)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "baseline_attack_result.png") as picture:
        assert picture.size[1] > picture.size[0]
    metrics = dict(line.split(": ", 1) for line in (tmp_path / "metrics.txt").read_text().splitlines())
    assert {"MSE", "PSNR", "SSIM", "LPIPS", "LabelMatch"} <= metrics.keys()
    rows = pd.read_parquet(tmp_path / "trials")
    assert len(rows) == 2
    assert float(metrics["PSNR"]) == pytest.approx(rows["psnr"].mean(), abs=1e-3)
    assert float(metrics["MSE"]) == pytest.approx(rows["mse"].mean(), abs=1e-5)
    assert set(rows["phase"]) == {"test"}
    assert "PSNR" in done.stdout
    assert "95% interval" in done.stdout
    assert f"Data: CelebA layout at {faces_root}, attribute Male" in done.stdout
    assert "What ran: matching" in done.stdout
    assert "CPU-s a victim" in done.stdout
    line = pd.read_parquet(tmp_path / "summary.parquet").iloc[0]
    assert (line["n"], line["attacker"], line["method"]) == (2, "matching", "matching")
    assert line["psnr"] == pytest.approx(rows["psnr"].mean())
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["attack_iterations"] == 3
    assert saved["out_dir"] == str(tmp_path)
    assert saved.keys() == vars(Experiment()).keys()


def test_an_attack_that_does_not_fit_ends_in_one_clear_line(
    faces_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = (
        f"--data-root {faces_root} --data-subset 40 --num-clients 4 --num-rounds 1 --model mlp --image-size 16 "
        f"--attack idlg --batch-size 2 --victims 2 --out-dir {tmp_path}"
    )
    assert execute(["run", *flags.split()]) == 1
    shown = capsys.readouterr().out
    assert "label_strategy 'idlg' infers one label, but 2 images are reconstructed. (2 of 2 trials)" in shown
    assert "nothing was measured" in shown
    assert not (tmp_path / "baseline_attack_result.png").exists()
    assert pd.read_parquet(tmp_path / "summary.parquet")["n"].tolist() == [0]


def test_too_few_images_for_the_victims_is_an_error(faces_root: Path, tmp_path: Path) -> None:
    flags = f"--data-root {faces_root} --data-subset 40 --victims 33 --out-dir {tmp_path}"
    assert execute(["run", *flags.split()]) == 2
    with pytest.raises(InputError, match="33 victims were asked for"):
        from orchestrator.cli.experiment import run

        run(parse(flags.split()), console=_quiet())


def _quiet():  # type: ignore[no-untyped-def]
    from rich.console import Console

    return Console(quiet=True)


@pytest.mark.slow
def test_showcase_settings_on_real_faces(celeba_root: Path, tmp_path: Path) -> None:
    """A short form of the showcase: far above the mean image within 60 iterations."""
    flags = (
        f"--data-root {celeba_root} --num-rounds 1 --capture-round 0 --client-momentum 0 --attack-iterations 60 "
        f"--tv-weight 1e-5 --lr-schedule cosine --victims 2 --out-dir {tmp_path}"
    )
    assert execute(["run", *flags.split()]) == 0
    rows = pd.read_parquet(tmp_path / "trials")
    assert (rows["psnr"] > rows["psnr_mean_image"] + 6).all()
    assert rows["psnr"].mean() > 20
    assert rows["label_match"].all()
