"""Selective encryption in captures, training and sweeps: what is agreed, sent, opened, seen, and what it leaks."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from rich.console import Console

from attack_core.attacks.auto import Auto
from attack_core.fc.head import Head, find_head
from attack_core.fc.rank_one import scaled_input
from attack_core.matching.matching import Matching
from attack_core.metrics.metrics import psnr
from defenses.chain import Chain
from defenses.he.encryption import CKKS
from defenses.secure.selective import Selective
from defenses.secure.sensitivity import most_sensitive, sensitivity
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.shape import ImageShape
from fl_core.base.types import Truth
from fl_core.data.dataset import ImageDataset
from fl_core.federation.client import LocalTraining, loss_gradient
from fl_core.federation.federation import Federation
from fl_core.federation.rounds import FederationConfig
from fl_core.federation.simulator import ClientWork, InProcess
from fl_core.federation.training import train
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.captures import Victim, capture
from fl_core.threat.facts import InTheClear
from fl_core.threat.model import ThreatModel
from fl_core.threat.observation import NotObservable, observe, truth_behind
from fl_core.threat.record import RoundRecord
from orchestrator.analysis.summary import summary_lines
from orchestrator.report.report import write_report
from orchestrator.report.terminal import sum_costs, sum_costs_table, summed_cells
from tests.support.small import run, sweep

CONFIG = FederationConfig(clients=3, fraction=1.0, rounds=2, local=LocalTraining(lr=0.05))
MODEL = ModelConfig(kind="mlp", image_size=16)


def federation_of(faces: ImageDataset) -> Federation:
    """Three clients of two images each."""
    return Federation(
        config=CONFIG,
        model=MODEL,
        dataset=faces,
        train=faces.split("train", 6),
        seed=3,
        device=torch.device("cpu"),
    )


def captured(faces: ImageDataset, fraction: float) -> tuple[RoundRecord, Truth]:
    """One victim's gradient in the sum of three, of which so much is encrypted."""
    chain = Chain(defenses=(CKKS(selective=Selective(fraction=fraction, images=4)),))
    federation = federation_of(faces)
    return capture(
        federation,
        initial_state(MODEL, generator("state")),
        signal="gradients",
        round_number=0,
        victim=Victim(client=0, companions=((1, 0), (2, 0))),
        facts=chain.facts(CONFIG),
        secure=chain.secure_sum(seed=4, plan=CONFIG),
    )


def test_what_is_hidden_follows_from_public_images_and_the_rest_is_seen_of_each_client(
    faces: ImageDataset,
) -> None:
    record, truth = captured(faces, 0.3)
    opened = record.aggregate
    assert opened is not None
    images, labels = faces.batch(faces.split("test", 4))
    wanted = most_sensitive(sensitivity(build_model(MODEL), record.state, images, labels), 0.3)
    assert all(torch.equal(mask, opened.hidden[name]) for name, mask in wanted.items())
    parameters = sum(mask.numel() for mask in wanted.values())
    assert sum(int(mask.sum()) for mask in wanted.values()) == -(-3 * parameters // 10)
    ciphertexts = -(-(3 * parameters // 10) // 4096)
    assert opened.bytes_up == pytest.approx(131_240 * ciphertexts + 4 * 0.7 * parameters, rel=0.01)
    gradient = loss_gradient(build_model(MODEL), record.state, (truth.images[:1], truth.labels[:1]))
    for view in ("individual", "ciphertext"):
        seen = observe(record, ThreatModel(view=view))  # type: ignore[arg-type]
        (fact,) = seen.facts
        assert isinstance(fact, InTheClear)
        assert (seen.clients, seen.examples) == (1, 1)
        for name, mask in wanted.items():
            assert torch.equal(fact.masks[name], ~mask)
            assert not seen.tensors[name][mask].any()
            torch.testing.assert_close(seen.tensors[name][~mask], gradient[name][~mask])
    assert observe(record, ThreatModel(view="individual", knows_defense=False)).facts == ()
    assert len(truth_behind(record, ThreatModel(view="individual"), truth).ids) == 1
    # The sum is that of whole updates, hidden or not.
    whole = observe(record, ThreatModel())
    for name, value in whole.tensors.items():
        mean = sum(update.tensors[name] for update in record.updates) / 3
        torch.testing.assert_close(value, mean, rtol=0, atol=2 / CKKS().precision)


def test_all_encrypted_leaves_nothing_to_see_of_one_client(faces: ImageDataset) -> None:
    with pytest.raises(NotObservable):
        observe(captured(faces, 1.0)[0], ThreatModel(view="individual"))


@pytest.mark.slow
def test_training_gives_the_bits_of_whole_encryption(faces: ImageDataset) -> None:
    found = []
    for scheme in (CKKS(), CKKS(selective=Selective(fraction=0.2, images=4))):
        work = ClientWork(
            federation=federation_of(faces),
            reduction=Chain(defenses=(scheme,)).reduction(seed=1, plan=CONFIG),
        )
        *_, last = train(InProcess(work), initial_state(MODEL, generator("state")), rounds=2)
        found.append(last.state.parameters)
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


@pytest.mark.slow
def test_the_leak_falls_with_the_fraction(faces: ImageDataset) -> None:
    """A row of the first layer in the clear is the image; hidden rows leave less and less of it."""
    attack = Auto(fallback=Matching(iterations=30, restarts=1))
    found: dict[tuple[float, bool], float] = {}
    for fraction in (0.05, 0.999):
        record, truth = captured(faces, fraction)
        for knows in (True, False):
            threat = ThreatModel(view="individual", knows_defense=knows)
            answer = attack(observe(record, threat), build_model(MODEL), generator("attack"))
            image = truth_behind(record, threat, truth).images
            found[fraction, knows] = float(psnr(answer.images, image))
    assert found[0.05, True] > 40
    assert found[0.999, True] < 25
    # Where whole rows are in the clear it is the image to both.
    assert found[0.05, False] > 40


def test_the_network_says_how_long_an_input_is() -> None:
    """Without any bias gradient, from part of the weight gradient."""
    config = ModelConfig(kind="mlp", image_size=16)
    model, state = build_model(config), initial_state(config, generator("length"))
    tail: Head = find_head(model, state, ImageShape.square(16))
    image = torch.rand((1, 3, 16, 16), generator=generator("image"))
    for label in (0, 1):
        gradient = loss_gradient(model, state, (image, torch.tensor([label])))[f"{tail.first}.weight"]
        sent = torch.rand(gradient.shape, generator=generator("sent")) < 0.4
        found = scaled_input(gradient * sent, sent, tail, state.parameters)
        torch.testing.assert_close(
            found.inputs[found.known], image.flatten()[found.known], rtol=0.02, atol=0.02
        )
        assert int(found.logit_errors.argmin()) == label


CELLS: list[dict[str, Any]] = [
    {"name": "whole", "defense": [{"kind": "ckks"}], "differs": {"threat.view": "individual"}},
    {
        "name": "tenth",
        "defense": [{"kind": "ckks", "selective": {"fraction": 0.1, "images": 4}}],
        "differs": {"threat.view": "individual"},
    },
    {"name": "sum", "defense": [{"kind": "ckks", "selective": {"fraction": 0.1, "images": 4}}]},
]


@pytest.mark.slow
def test_a_sweep_attacks_what_is_in_the_clear(faces_root: Path, tmp_path: Path) -> None:
    attack = {"kind": "auto", "fallback": {"kind": "matching", "iterations": 5}}
    config = sweep(
        faces_root,
        cells=CELLS,
        victims={"tuning": 0, "test": 2},
        attackers__0__search={},
        attackers__0__attack=attack,
    )
    outcome = run(config, tmp_path)
    assert outcome.failed == 0
    rows = dict(iter(pd.read_parquet(tmp_path / "trials").groupby("cell")))
    assert set(rows["whole"]["status"]) == {"not_observable"}
    assert float(rows["tenth"]["psnr"].mean()) > 30
    assert set(rows["tenth"]["view"]) == {"individual"}
    assert len(rows["sum"]) == 2 * len(rows["tenth"])
    lines = summary_lines(tmp_path)
    assert [line.cell for line in summed_cells(lines)] == ["whole", "tenth", "sum"]
    text = write_report(tmp_path, lines, []).read_text(encoding="utf-8")
    assert "Cost of secure sums" in text
    assert sum_costs(summed_cells(lines)[1])[0] in text
    console = Console(width=80, file=io.StringIO())
    console.print(sum_costs_table(summed_cells(lines)))
    assert "tenth" in console.file.getvalue()  # type: ignore[attr-defined]
    assert int(rows["tenth"]["bytes_up"].iloc[0]) < 0.5 * int(rows["whole"]["bytes_up"].iloc[0])


@pytest.mark.parametrize(
    "changes", [{"fraction": 0.0}, {"fraction": 1.1}, {"fraction": float("nan")}, {"images": 0}]
)
def test_settings_that_make_no_sense_are_refused_by_name(changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(InputError, match=rf"Selective\.{name} = .*: must be"):
        dataclasses.replace(Selective(fraction=0.5), **changes)
