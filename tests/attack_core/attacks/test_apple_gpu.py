"""On an Apple GPU every attack, defense and federation would find its operators: run on a stand-in.

Beside being possible, what runs there must give the numbers that it gives on the CPU.
"""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from attack_core.attacks.analytic import Analytic
from attack_core.attacks.auto import Auto
from attack_core.attacks.convolution_inversion import ConvolutionInversion
from attack_core.attacks.registry import NAMED, AnyAttack
from attack_core.attacks.token_inversion import TokenInversion
from attack_core.base.reading import Estimate
from attack_core.base.types import Reconstruction
from attack_core.gradients.comparison.layers import LayerMode
from attack_core.gradients.objectives import Both, Cosine, Objective, Signs, Similarity
from attack_core.inversion.continuation import Continuation
from attack_core.local_sgd.simulation import LocalModel, Simulated, Surrogate
from attack_core.matching.candidates import EarlyStop, Parametrisation
from attack_core.matching.matching import Matching
from attack_core.matching.schedules import OptimizerName, Schedule, Sign
from attack_core.metrics.controls import norm_matched_noise
from attack_core.metrics.metrics import psnr, ssim
from attack_core.priors.priors import (
    BatchNormStatistics,
    ColourVariation,
    GroupConsistency,
    L2Norm,
    PatchSparsity,
    Prior,
    TotalVariation,
    Trained,
    Wavelet,
)
from attack_core.signal.choices import Init, LabelStrategy
from defenses.chain import AnyDefense, Chain
from defenses.dp.local import DPUpdate
from defenses.inputs.ats import ATS
from defenses.inputs.mixing import InstaHide, MixUp
from defenses.inputs.precode import Precode
from fl_core.base.device import _announce
from fl_core.base.own_object import OwnObject
from fl_core.base.rng import generator, stream
from fl_core.base.shape import ImageShape
from fl_core.base.types import ClientUpdate
from fl_core.data.dataset import ImageDataset
from fl_core.data.kinds.celeba import open_celeba
from fl_core.federation.accuracy import count_correct
from fl_core.federation.client import LocalTraining
from fl_core.federation.federation import Federation
from fl_core.federation.rounds import FederationConfig
from fl_core.federation.training import run
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.captures import Victim, capture
from fl_core.threat.facts import Clip, Noise
from fl_core.threat.model import ThreatModel
from fl_core.threat.observation import Observation, observe
from orchestrator.cli import doctor
from orchestrator.driver.sweep import run_sweep
from orchestrator.runtime.progress import Silent
from orchestrator.trial.run import TrialResult, run_trial
from orchestrator.trial.spec import TrialInput, TrialSpec
from tests.support.analytic import observed
from tests.support.apple import HANDED_OVER, MPS, AppleGPU, NotOnMPS, apple_gpu, kernels
from tests.support.claims import CLAIMS
from tests.support.defended import public_mean
from tests.support.local_training import trained_client
from tests.support.small import sweep

CNN, LENET, MLP = (ModelConfig(kind=kind, image_size=16) for kind in ("cnn64", "lenet", "mlp"))
SHORT = Continuation(evaluations=6)


def on_gpu(
    attack: AnyAttack, observation: Observation, *, close: float | None = 1e-4
) -> tuple[Reconstruction, AppleGPU]:
    """The attack's answer there, as good as the CPU's: as `close`, or where that is None, with about the same loss."""
    model = build_model(observation.model)
    expected = attack(observation, model, generator("attack"))
    with apple_gpu() as gpu:
        found = attack(observation.to(MPS), model, generator("attack"))
        assert type(found.images) is type(found.labels) is Tensor, "answers are on the CPU"
    assert found.method == expected.method
    assert torch.equal(found.labels, expected.labels)
    if close is not None:
        torch.testing.assert_close(found.images, expected.images, atol=close, rtol=0.0)
    loss_close = 1e-2 if close is not None else 0.3
    assert found.loss == pytest.approx(expected.loss, rel=loss_close, abs=1e-6, nan_ok=True)
    return found, gpu


def brief(attack: AnyAttack, iterations: int = 2) -> Any:
    """The same attack, over in a moment."""
    match attack:
        case Auto():
            parts = {
                name: brief(getattr(attack, name), iterations)
                for name in ("analytic", "convolutions", "fallback")
            }
            return dataclasses.replace(attack, **parts)
        case Analytic():
            fallback = brief(attack.fallback, iterations)
            return dataclasses.replace(attack, inversion=SHORT, refinement=SHORT, passes=2, fallback=fallback)
        case ConvolutionInversion():
            fallback = brief(attack.fallback, iterations)
            return dataclasses.replace(attack, inversion=SHORT, fallback=fallback)
        case TokenInversion():
            return dataclasses.replace(attack, fallback=brief(attack.fallback, iterations))
        case Matching():
            return dataclasses.replace(attack, iterations=iterations, restarts=min(attack.restarts, 2))


def test_pytorch_lists_what_has_a_kernel() -> None:
    assert kernels().on_mps("mm")
    assert kernels().on_mps("add.Tensor"), "by its structured delegate"
    assert not kernels().on_mps("linalg_eig")
    assert not kernels().composite("linalg_eig")
    assert kernels().composite("square"), "no entry: always made of others"
    assert not kernels().composite("add.Tensor")
    assert all(kernels().on_mps(name) for name in HANDED_OVER)


@pytest.mark.parametrize(
    ("refused", "why"),
    [
        (torch.linalg.eigvals, "aten::linalg_eig has no kernel for MPS"),
        (lambda x: x.double(), "float64 on an Apple GPU"),
        (lambda x: x.double().cpu(), "float64 on an Apple GPU"),
        (lambda x: x.to("cpu", torch.float64), "float64 on an Apple GPU"),
        (lambda x: torch.zeros(2, dtype=torch.float64, device=x.device), "float64 on an Apple GPU"),
        (lambda x: x @ torch.ones(4, 4), "aten::mm with one operand on mps and one, .*, on cpu"),
        (lambda x: x + torch.ones(4, 4), "aten::add.Tensor with one operand on mps and one"),
        (lambda x: x.numpy(), "numpy"),
    ],
)
def test_what_an_apple_gpu_refuses_is_refused(refused: Callable[[Tensor], Any], why: str) -> None:
    with apple_gpu():
        point = torch.rand(4, 4).to(MPS)
        assert (2.0 * point + torch.tensor(1.0)).cpu().shape == (4, 4)
        with pytest.raises(NotOnMPS, match=why):
            refused(point)


def slope(images: Tensor, weight: Tensor, *, pool: Callable[..., Tensor], twice: bool) -> Tensor:
    squares = functional.linear(pool(images, 2).flatten(1), weight).square().sum()
    (found,) = torch.autograd.grad(squares, images, create_graph=twice)
    return torch.autograd.grad(found.square().sum(), images)[0] if twice else found


@pytest.mark.parametrize("pool", [functional.avg_pool2d, functional.max_pool2d])
@pytest.mark.parametrize("twice", [False, True])
def test_slopes_are_those_of_an_apple_gpu(pool: Callable[..., Tensor], twice: bool) -> None:
    """Kernels of its own stand where others take operators apart, and plain pooling by maxima has no second slope."""
    images, weight = torch.rand(2, 3, 8, 8), torch.rand(5, 48)
    expected = slope(images.clone().requires_grad_(True), weight, pool=pool, twice=twice)
    with apple_gpu() as gpu:
        moved = images.to(MPS).requires_grad_(True)
        if twice and pool is functional.max_pool2d:
            with pytest.raises(RuntimeError, match="not infinitely differentiable"):
                slope(moved, weight.to(MPS), pool=pool, twice=twice)
            return
        torch.testing.assert_close(slope(moved, weight.to(MPS), pool=pool, twice=twice).cpu(), expected)
        assert {"linear", "linear_backward"} <= gpu.seen


def unless_large(name: str, kind: str) -> Any:
    """Trials on the largest network take seconds each."""
    return pytest.param(name, kind, marks=pytest.mark.slow if kind == "resnet18" else ())


@pytest.mark.parametrize(
    ("name", "kind"), [unless_large(name, kind) for name in CLAIMS for kind in CLAIMS[name]]
)
def test_every_attack_runs_on_every_model_that_it_claims(faces_root: Path, name: str, kind: Any) -> None:
    # At 16 pixels even resnet18 has features enough for the choice to fall on the analytic attack.
    size = 32 if (name, kind) == ("auto", "resnet18") else 16
    faces = open_celeba(faces_root, shape=ImageShape.square(size))
    observation, _ = observed(faces, ModelConfig(kind=kind, image_size=size))
    # The equations for the inputs of many layers multiply the rounding: 2e-2 was seen.
    close = 1e-4 if size == 16 else 5e-2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, gpu = on_gpu(brief(NAMED[name], 1 if kind == "resnet18" else 2), observation, close=close)
    assert len(gpu.seen) > 30


def test_no_attack_is_left_out() -> None:
    assert set(CLAIMS) == set(NAMED)


RUNS: Sequence[tuple[str, dict[str, Any]]] = (
    ("known", {"objective": Both(), "layer_weights": "auto", "init": "uniform", "layers": (0, 1, 2)}),
    ("known", {"objective": Similarity(), "optimizer": "adamw", "schedule": "cosine", "sign": "soft"}),
    ("known", {"objective": Signs()}),
    (
        "idlg",
        {"objective": Cosine(), "optimizer": "sgd", "schedule": "step", "sign": "hard", "lr": (0.1, 0.2)},
    ),
    ("counts", {"optimizer": "lbfgs", "layer_weights": "early", "init": "fourier", "preset": "tight"}),
    ("bias_corrected", {"layer_weights": "early_linear", "init": "pattern-2", "layer_names": ("weight",)}),
    ("optimize", {"layer_weights": "early_strong", "init": "pattern-4", "early_stop": EarlyStop(patience=1)}),
    ("optimize", {"layer_weights": "early_conv", "init": "pattern-8", "optimizer": "lbfgs"}),
    ("auto", {"init": "mean", "priors": (L2Norm(), Wavelet(), PatchSparsity(), ColourVariation())}),
    ("auto", {"parametrisation": "deep_prior", "priors": (TotalVariation(inner=2.0, outer=0.5),)}),
    ("auto", {"priors": (GroupConsistency(centre="median"), TotalVariation(double_opponents=True))}),
    ("auto", {"priors": (GroupConsistency(centre="mean"), BatchNormStatistics())}),
)
"""Label strategies and settings of matching, between them all that there are."""


@pytest.mark.slow
@pytest.mark.parametrize(("labels", "settings"), RUNS, ids=range(len(RUNS)))
def test_every_setting_of_matching_runs(faces: ImageDataset, labels: Any, settings: dict[str, Any]) -> None:
    needs_norms = any(isinstance(prior, BatchNormStatistics) for prior in settings.get("priors", ()))
    model = ModelConfig(kind="resnet18", image_size=16) if needs_norms else LENET
    observation, truth = observed(faces, model, batch=1 if labels == "idlg" else 2)
    seen = dataclasses.replace(
        observation,
        public_mean=torch.full((3, 16, 16), 0.1),
        labels=truth.labels if labels == "known" else None,
    )
    # L-BFGS tells rounding apart within a step: images differed by 0.5, losses by 8%, where AVX-512 rounds.
    lbfgs = settings.get("optimizer") == "lbfgs"
    close, iterations = None if lbfgs else 1e-4, 1 if needs_norms or lbfgs else 2
    on_gpu(Matching(iterations=iterations, restarts=2, labels=labels, **settings), seen, close=close)


def _ours(choices: Any) -> set[Any]:
    """All choices but a user's own classes, whose arithmetic is not the package's."""
    return {
        each for each in get_args(choices) if not (isinstance(each, type) and issubclass(each, OwnObject))
    }


def test_no_setting_of_matching_is_left_out() -> None:
    runs = [Matching(restarts=2, labels=labels, **settings) for labels, settings in RUNS]  # type: ignore[arg-type]
    for name, choices in (
        ("objective", Objective),
        ("optimizer", OptimizerName),
        ("schedule", Schedule),
        ("sign", Sign),
        ("init", Init),
        ("parametrisation", Parametrisation),
        ("layer_weights", LayerMode),
        ("labels", LabelStrategy),
    ):
        values = [getattr(run, name) for run in runs]
        assert {value if isinstance(value, str) else type(value) for value in values} == _ours(choices)
    # The trained prior needs one that an attacker has trained; it has not been run here.
    assert {type(prior) for run in runs for prior in run.priors} == _ours(Prior) - {Trained}


LOCALS: tuple[LocalModel, ...] = (
    Simulated(),
    Simulated(order="free", checkpoint=True),
    Surrogate(),
    Surrogate(learn=False),
)


@pytest.mark.slow
@pytest.mark.parametrize("local", LOCALS, ids=("simulated", "free", "learned", "halfway"))
def test_every_account_of_local_steps_runs(local: LocalModel) -> None:
    observation, _, _ = trained_client(persistent=True)
    assert observation.earlier
    on_gpu(Matching(iterations=2, restarts=2, local=local), observation)


@pytest.mark.slow
def test_batches_behind_batch_norm_run(faces: ImageDataset) -> None:
    model = ModelConfig(kind="resnet18", image_size=16, batch_norm="train")
    # Of two images, one position each in the last stage, the variance may be next to 0 and the gradient 1e13.
    observation, _ = observed(faces, model, batch=6)
    on_gpu(Matching(iterations=1), observation)


@pytest.mark.slow
@pytest.mark.parametrize("signal", ["gradients", "one_step_update", "local_update", "agg_update"])
@pytest.mark.parametrize("model", [CNN, MLP], ids=lambda model: model.kind)
def test_batches_of_every_signal_are_taken_apart(
    faces: ImageDataset, signal: str, model: ModelConfig, caplog: pytest.LogCaptureFixture
) -> None:
    steps = 1 if signal == "local_update" else 2
    observation, _ = observed(faces, model, signal=signal, batch=steps, images=2, lr=0.01, momentum=0.0)
    _announce.cache_clear()
    with caplog.at_level(logging.WARNING, logger="fl_core.base.device"):
        # Along local steps the weights follow from the images and these from the weights, which multiplies rounding.
        close = 0.25 if signal == "local_update" else 0.05
        found, _ = on_gpu(brief(NAMED["analytic"]), observation, close=close)
    assert found.method.startswith("analytic")
    assert "(in float64 on the CPU)" in found.notes[0]
    assert "taking a batch's gradient apart runs in float64 on the CPU, not on mps" in caplog.messages
    assert len(caplog.messages) == len(set(caplog.messages)), "said once"


@pytest.mark.parametrize("estimate", get_args(Estimate))
def test_single_images_are_read_off_in_every_way(faces: ImageDataset, estimate: Any) -> None:
    observation, _ = observed(faces, CNN)
    seen = dataclasses.replace(
        observation, facts=(Noise(distribution="gaussian", sigma=1e-6), Clip(max_norm=1.0))
    )
    found, _ = on_gpu(dataclasses.replace(brief(NAMED["analytic"]), estimate=estimate), seen, close=0.05)
    assert "(in float64 on the CPU)" in found.notes[0]


def test_the_control_runs(faces: ImageDataset) -> None:
    observation, _ = observed(faces, MLP)
    with apple_gpu():
        noise = norm_matched_noise(observation.to(MPS), generator("control"))
        assert all(value.device == MPS for value in noise.tensors.values())


@pytest.mark.parametrize(
    "defense", sorted(_ours(AnyDefense), key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__
)
def test_every_defense_runs(defense: Any) -> None:
    tensors = {"a": torch.rand(4, 3), "b": torch.rand(4)}
    update = ClientUpdate(
        client=0, tensors=tensors, buffers={"c": torch.ones(2)}, examples=1, steps=1, lr=0.1, momentum=0.0
    )
    expected = defense().on_update(update, stream("defense"), FederationConfig(rounds=2))
    with apple_gpu():
        moved = dataclasses.replace(
            update,
            tensors={name: value.to(MPS) for name, value in update.tensors.items()},
            buffers={name: value.to(MPS) for name, value in update.buffers.items()},
        )
        released = defense().on_update(moved, stream("defense"), FederationConfig(rounds=2))
        for name, value in expected.tensors.items():
            assert released.tensors[name].device == MPS
            torch.testing.assert_close(released.tensors[name].cpu(), value)


INPUTS: dict[str, AnyDefense] = {
    "precode": Precode(size=16),
    "mixup": MixUp(),
    "instahide": InstaHide(images=2),
    "ats": ATS(),
}
"""Defenses of what a client computes its gradient of, and with which network."""


@pytest.mark.parametrize("defense", INPUTS.values(), ids=list(INPUTS))
@pytest.mark.parametrize("batch", [1, 2])
def test_defended_gradients_are_taken_and_attacked(
    faces: ImageDataset, defense: AnyDefense, batch: int
) -> None:
    """The signal that is captured there is the CPU's, and so is what attackers who know of the defense answer."""
    if batch == 1 and isinstance(defense, MixUp | InstaHide):
        pytest.skip("one image leaves nothing to mix with")
    chain, plan = (
        Chain(defenses=(defense,)),
        FederationConfig(rounds=1, local=LocalTraining(batch_size=batch)),
    )
    model = chain.on_model(CNN)
    federation = Federation(
        config=plan,
        model=model,
        dataset=faces,
        train=faces.split("train", 40),
        seed=3,
        device=torch.device("cpu"),
    )
    state, clients = initial_state(model, generator("model")), chain.clients(seed=1, plan=plan)
    record, truth = capture(
        federation,
        state,
        signal="gradients",
        round_number=0,
        victim=Victim(client=0),
        defense=clients,
        facts=chain.facts(plan),
    )
    with apple_gpu():
        federation.device = MPS
        update = federation.client_gradient(
            state.to(MPS), 0, federation.local_batches(0, 0)[0], round_number=0, defense=clients
        )
        for name, value in record.updates[0].tensors.items():
            torch.testing.assert_close(update.tensors[name].cpu(), value, atol=1e-5, rtol=1e-3)
    seen = observe(record, ThreatModel(), labels=truth.labels, public_mean=public_mean(faces))
    # A search that is cut short multiplies rounding: from decoded inputs 0.1 was seen under `ats`.
    for attack in (brief(Auto(analytic=Analytic(decode=False))), Matching(iterations=2, restarts=2)):
        on_gpu(attack, seen, close=1e-3)


@pytest.mark.parametrize("kind", ["cnn64", "lenet", "mlp", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_federations_train_and_are_captured(faces: ImageDataset, kind: Any) -> None:
    model = ModelConfig(kind=kind, image_size=16, batch_norm="train")
    local = LocalTraining(lr=0.05, batch_size=2, momentum_state="persistent")
    config = FederationConfig(clients=2, fraction=1.0, rounds=2, local=local, flip=True)
    defense = DPUpdate()

    def trained(device: torch.device) -> tuple[Tensor, int]:
        federation = Federation(
            config=config, model=model, dataset=faces, train=faces.split("train", 4), seed=3, device=device
        )
        state = initial_state(model, generator("model", 0)).to(device)
        history = [state, *(result.state for result in run(federation, state, rounds=2))]
        record, _ = capture(
            federation,
            history[1].to(device),
            signal="local_update",
            round_number=1,
            victim=Victim(client=0),
            defense=Chain(defenses=(defense,)).clients(seed=0, plan=FederationConfig(rounds=2)),
            history=[history[0].to(device)],
        )
        assert all(value.device == device for value in record.updates[0].tensors.values())
        right = count_correct(model, history[-1], faces, faces.split("valid", 4), device=device)
        return torch.cat([value.flatten().cpu() for value in record.updates[0].tensors.values()]), right

    expected, right = trained(torch.device("cpu"))
    with apple_gpu():
        found, also = trained(MPS)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    assert also == right


def test_metrics_run(faces: ImageDataset) -> None:
    truth = faces.batch(faces.split("test")[:2])[0]
    with apple_gpu():
        same = truth.to(MPS)
        assert (psnr(0.9 * same, same) > 20.0).all()
        assert float(ssim(0.9 * same, same).min()) > 0.9


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Calls of what only a real device has."""
    calls: list[str] = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: calls.append("synchronised"))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: calls.append("emptied"))
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 123_000_000)
    monkeypatch.delenv("PYTORCH_ENABLE_MPS_FALLBACK", raising=False)
    return calls


def trial_on_gpu(faces: ImageDataset, attack: Any) -> TrialResult:
    federation = Federation(
        config=FederationConfig(clients=2, local=LocalTraining(batch_size=2)),
        model=CNN,
        dataset=faces,
        train=faces.split("train", 8),
        seed=3,
        device=torch.device("cpu"),
    )
    state = initial_state(CNN, generator("model", 0))
    record, truth = capture(federation, state, signal="gradients", round_number=0, victim=Victim(client=0))
    spec = TrialSpec(
        cell="c",
        attacker="a",
        phase="test",
        suggestion=None,
        victim=0,
        capture="k",
        attack=attack,
        threat=ThreatModel(),
        seed=1,
        device="mps",
        threads=1,
        control=True,
        images=True,
    )
    with apple_gpu():
        return run_trial(spec, TrialInput(state, record, truth, torch.zeros(3, 16, 16)))


def test_a_trial_runs(faces: ImageDataset, waits: list[str]) -> None:
    """From the record to the scores, with the clock and the memory that only the device knows."""
    result = trial_on_gpu(faces, brief(NAMED["auto"]))
    assert result.status == "ok"
    assert result.method is not None
    assert result.method.startswith("analytic: ")
    assert result.device == "mps"
    assert waits == ["emptied", "synchronised", "synchronised"]
    assert result.peak_memory_mb == 123.0
    assert all(score.psnr is not None and score.psnr_prior is not None for score in result.scores)
    assert result.notes is not None
    assert "(in float64 on the CPU)" in result.notes[0]


@pytest.mark.usefixtures("waits")
def test_a_fallback_that_the_user_asked_for_is_told(
    faces: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "PYTORCH_ENABLE_MPS_FALLBACK is set: operators that MPS lacks run on the CPU"
    attack = Matching(iterations=1)
    assert trial_on_gpu(faces, attack).notes == ()
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    assert trial_on_gpu(faces, attack).notes == (told,)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 12_000_000_000)
    (here,) = [line for line in doctor.table().columns[1].cells if "GB of memory" in str(line)]
    assert here == f"yes, up to 12 GB of memory; {told}"


@pytest.mark.usefixtures("waits")
def test_no_memory_ends_the_trial_and_a_mistake_ends_the_sweep(
    faces: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(error: Exception) -> Any:
        def attack(*_: Any, **__: Any) -> Any:
            raise error

        monkeypatch.setattr(Matching, "search", attack)
        return Matching()

    short = RuntimeError("MPS backend out of memory (MPS allocated: 9 GB, max allowed: 9 GB). Tried ...")
    for error in (short, torch.OutOfMemoryError("no memory")):
        result = trial_on_gpu(faces, failing(error))
        assert result.status == "failed"
        assert str(result.error).startswith("out of memory with 1 restarts at a time on mps: ")
    with pytest.raises(RuntimeError, match="shapes"):
        trial_on_gpu(faces, failing(RuntimeError("shapes do not fit")))


@pytest.mark.slow
@pytest.mark.usefixtures("waits")
def test_a_sweep_runs(faces_root: Path, tmp_path: Path) -> None:
    """Training, captures, studies and rows, with the CPU's numbers."""
    changes = {
        "study__suggestions": 2,
        "study__startup": 1,
        "study__lag": 1,
        "victims__tuning": 1,
        "victims__test": 1,
    }
    changes |= {"capture": {"round": 1, "signal": "local_update"}}
    for device in ("cpu", "auto"):
        config = sweep(faces_root, execution__device=device, **changes)
        with apple_gpu() if device == "auto" else nullcontext():
            outcome = run_sweep(config, tmp_path / device, address="serial", reporter=Silent())
        assert outcome.failed == 0
    expected, found = (pd.read_parquet(tmp_path / device / "trials") for device in ("cpu", "auto"))
    assert set(found["device"]) == {"mps"}
    keys = ["cell", "phase", "suggestion", "image_id"]
    expected, found = (rows.sort_values(keys).reset_index(drop=True) for rows in (expected, found))
    assert found[keys].equals(expected[keys])
    for column in ("psnr", "psnr_prior", "ssim", "match_loss", "weights_accuracy"):
        np.testing.assert_allclose(found[column], expected[column], rtol=1e-2, err_msg=column)


@pytest.mark.skipif(not torch.backends.mps.is_available(), reason="there is no Apple GPU here")
def test_a_real_apple_gpu_agrees(faces: ImageDataset) -> None:
    """Nothing is stood in for: every attack on every model, and every setting; all that differs is listed."""
    wrong = {}
    todo = [(brief(NAMED[name]), kind, 1) for name, kinds in CLAIMS.items() for kind in kinds]
    todo += [(Matching(iterations=2, restarts=2, **more), "resnet18", 2) for _, more in RUNS]
    for number, (attack, kind, batch) in enumerate(todo):
        observation, _ = observed(faces, ModelConfig(kind=kind, image_size=16), batch=batch)
        seen = dataclasses.replace(observation, public_mean=torch.full((3, 16, 16), 0.1))
        model = build_model(seen.model)
        expected = attack(seen, model, generator("attack"))
        try:
            found = attack(seen.to(torch.device("mps")), model, generator("attack"))
        except Exception as error:
            wrong[number, kind] = repr(error)
            continue
        # Rounding differs, and first-order steps depend on signs: the first loss is what must be the same.
        if float(found.history[0, 0]) != pytest.approx(float(expected.history[0, 0]), rel=1e-2, abs=1e-6):
            wrong[number, kind] = f"{attack}: {found.history[0]} instead of {expected.history[0]}"
    assert not wrong, wrong
