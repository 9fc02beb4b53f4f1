"""What the server sees under a secure sum: captures, views, colluders, truth, and a whole sweep."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from attack_core.gradients.targets import check_observation, gradient_estimate
from defenses.chain import AnyDefense, Chain
from defenses.he.encrypted_noise import EncryptedNoise
from defenses.he.encryption import CKKS
from defenses.masking.masking import Masking
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.types import Signal, Truth
from fl_core.data.dataset import ImageDataset
from fl_core.federation.client import LocalTraining, loss_gradient
from fl_core.federation.federation import Federation
from fl_core.federation.rounds import FederationConfig
from fl_core.models.build import build_model, initial_state
from fl_core.threat.captures import Victim, accompanied, capture, victims
from fl_core.threat.model import ThreatModel
from fl_core.threat.observation import NotObservable, observe, truth_behind
from fl_core.threat.record import RoundRecord
from orchestrator.analysis.summary import summarize
from orchestrator.capture.store import CaptureStore
from tests.support.federations import make_federation
from tests.support.small import comparable, run, sweep

SIGNALS: tuple[Signal, ...] = ("gradients", "one_step_update", "local_update", "agg_update")


def federation_of(faces: ImageDataset, *, clients: int = 6) -> Federation:
    """Half of the clients a round, four images each."""
    config = FederationConfig(
        clients=clients, fraction=0.5, rounds=2, local=LocalTraining(lr=0.1, momentum=0.0, batch_size=2)
    )
    return make_federation(faces, train=4 * clients, config=config)


def captured(
    faces: ImageDataset, signal: Signal, *defenses: AnyDefense, place: int = 0
) -> tuple[RoundRecord, Truth]:
    """The capture of a victim of client 1, alone or in a secure sum."""
    federation, chain = federation_of(faces), Chain(defenses=defenses)
    found = victims(federation, signal, first_client=1, round_number=0, count=2)
    if chain.summing:
        found = accompanied(federation, signal, found, round_number=0)
    return capture(
        federation,
        initial_state(federation.model, generator("model", 0)),
        signal=signal,
        round_number=0,
        victim=found[place],
        defense=chain.clients(seed=4, plan=federation.config),
        facts=chain.facts(federation.config),
        secure=chain.secure_sum(seed=4, plan=federation.config),
    )


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("defense", [CKKS(), Masking()], ids=["ckks", "masking"])
def test_the_server_sees_the_mean_of_a_group_that_the_victim_leads(
    faces: ImageDataset, signal: Signal, defense: CKKS | Masking
) -> None:
    plain, alone = captured(faces, signal)
    record, truth = captured(faces, signal, defense)
    assert len(record.updates) == 3
    assert truth.ids[: len(alone.ids)] == alone.ids, "the preselected images are those of the undefended cell"
    seen = observe(record, ThreatModel())
    check_observation(seen)
    assert (seen.signal, seen.clients) == (signal, 3)
    assert seen.examples == sum(update.examples for update in record.updates) == len(set(truth.ids))
    for name, value in seen.tensors.items():
        mean = sum(update.tensors[name] for update in record.updates) / 3
        torch.testing.assert_close(value, mean, rtol=0, atol=2 / defense.precision)
    whole = list(plain.updates[0].tensors.values())
    for sent, exact in zip(record.updates[0].tensors.values(), whole, strict=True):
        torch.testing.assert_close(sent, exact, rtol=0, atol=1 / defense.precision)
    for view in ("individual", "ciphertext"):
        with pytest.raises(NotObservable):
            observe(record, ThreatModel(view=view))  # type: ignore[arg-type]


def test_the_mean_of_gradients_is_the_gradient_of_all_images_together(faces: ImageDataset) -> None:
    record, truth = captured(faces, "one_step_update", CKKS())
    model, state = build_model(record.model), record.state
    together = loss_gradient(model, state, (truth.images, truth.labels))
    estimate = gradient_estimate(observe(record, ThreatModel()))
    for name, value in together.items():
        torch.testing.assert_close(estimate[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("signal", SIGNALS)
def test_the_key_holder_sees_one_rounded_update_and_its_images_alone(
    faces: ImageDataset, signal: Signal
) -> None:
    record, truth = captured(faces, signal, CKKS(precision=1000))
    threat = ThreatModel(view="key_holder", labels="known")
    behind = truth_behind(record, threat, truth)
    assert set(behind.clients) == {record.updates[0].client}
    seen = observe(record, threat, labels=behind.example_labels())
    check_observation(seen)
    assert (seen.clients, seen.examples) == (1, record.updates[0].examples)
    assert seen.signal == ("local_update" if signal == "agg_update" else signal)
    steps = torch.cat([value.flatten().double() * 1000 for value in seen.tensors.values()])
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
    with pytest.raises(InputError, match=r"threat\.view = 'key_holder' needs a defense with a key"):
        observe(captured(faces, signal, Masking())[0], threat)


@pytest.mark.parametrize("defense", [CKKS(), Masking(), None], ids=["ckks", "masking", "none"])
def test_colluders_take_their_updates_out(faces: ImageDataset, defense: CKKS | Masking | None) -> None:
    record, truth = captured(faces, "agg_update", *([defense] if defense else []))
    one = ThreatModel(colluders=1)
    seen = observe(record, one)
    assert (seen.clients, seen.signal) == (2, "agg_update")
    for name, value in seen.tensors.items():
        mean = sum(update.tensors[name] for update in record.updates[:2]) / 2
        torch.testing.assert_close(value, mean, rtol=1e-4, atol=1e-6)
    assert set(truth_behind(record, one, truth).clients) == {u.client for u in record.updates[:2]}
    alone = observe(record, ThreatModel(colluders=2))
    assert (alone.clients, alone.signal) == (1, "local_update")
    for name, value in alone.tensors.items():
        torch.testing.assert_close(value, record.updates[0].tensors[name], rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match=r"ThreatModel\.colluders = 3: must be less than the 3 clients"):
        observe(record, ThreatModel(colluders=3))


@pytest.mark.parametrize("signal", ["gradients", "local_update"])
def test_no_image_is_in_two_groups_and_data_that_run_out_are_told(
    faces: ImageDataset, signal: Signal
) -> None:
    federation = federation_of(faces)
    found = victims(federation, signal, first_client=0, round_number=0, count=2)
    groups = accompanied(federation, signal, found, round_number=0)
    assert [dataclasses.replace(group, companions=()) for group in groups] == found
    units = [unit for group in groups for unit in ((group.client, group.batch), *group.companions)]
    assert len(units) == len(set(units)) == 6
    for group in groups:
        members = [group.client, *(client for client, _ in group.companions)]
        assert len(set(members)) == 3
    many = victims(federation, signal, first_client=0, round_number=0, count=5)
    with pytest.raises(InputError, match=r"A secure sum of 3 clients for each of 5 victims needs more data"):
        accompanied(federation, signal, many, round_number=0)
    assert accompanied(federation, "agg_update", [Victim(client=0)], round_number=0) == [Victim(client=0)]


@pytest.mark.slow
def test_noise_before_encryption_is_in_what_the_key_holder_opens(faces: ImageDataset) -> None:
    plain, _ = captured(faces, "gradients", CKKS())
    noisy, _ = captured(faces, "gradients", CKKS(noise=EncryptedNoise(scale=0.02)))
    threat = ThreatModel(view="key_holder")
    difference = torch.cat(
        [
            (observe(noisy, threat).tensors[name] - value).flatten()
            for name, value in observe(plain, threat).tensors.items()
        ]
    )
    assert float(difference.abs().mean()) == pytest.approx(0.02, rel=0.1)
    assert len(observe(noisy, threat).facts) == 1


def test_dropped_clients_are_neither_in_the_sum_nor_in_the_truth(faces: ImageDataset) -> None:
    record, truth = captured(faces, "gradients", Masking(threshold=0.6, dropout=0.4))
    assert len(record.updates) == 2
    assert set(truth.clients) == {update.client for update in record.updates}
    seen = observe(record, ThreatModel())
    for name, value in seen.tensors.items():
        mean = sum(update.tensors[name] for update in record.updates) / 2
        torch.testing.assert_close(value, mean, rtol=0, atol=1e-6)


def test_a_capture_is_read_back_as_it_was_stored(
    faces_root: Path, faces: ImageDataset, tmp_path: Path
) -> None:
    config = sweep(faces_root, victims={"tuning": 1, "test": 1}, capture__signal="one_step_update")
    store = CaptureStore(tmp_path, device=torch.device("cpu"), progress=lambda _: None)
    source = store.source(config, Chain(defenses=(CKKS(),)), faces)
    victim, _ = source.victims()
    first = source.get(victim)
    folder = tmp_path / first.key
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = source.get(victim)
    assert written == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    one, two = first.record.aggregate, again.record.aggregate
    assert one is not None
    assert two is not None
    fields = ("protection", "shares", "bytes_up", "rounding_error", "protect_seconds", "reveal_seconds")
    assert [getattr(one, name) for name in fields] == [getattr(two, name) for name in fields]
    for name, value in one.tensors.items():
        assert torch.equal(value, two.tensors[name])


CELLS: list[dict[str, Any]] = [
    {"name": "none"},
    {"name": "ckks", "defense": [{"kind": "ckks"}]},
    {"name": "holder", "defense": [{"kind": "ckks"}], "differs": {"threat.view": "key_holder"}},
    {"name": "single", "defense": [{"kind": "masking"}], "differs": {"threat.view": "individual"}},
    {"name": "hidden", "defense": [{"kind": "masking"}], "differs": {"threat.view": "ciphertext"}},
    {"name": "masking", "defense": [{"kind": "masking"}]},
    {"name": "colluding", "defense": [{"kind": "masking"}], "differs": {"threat.colluders": 1}},
    {
        "name": "chain",
        "defense": [
            {"kind": "clip", "max_norm": 1.0},
            {"kind": "noise"},
            {"kind": "prune"},
            {"kind": "masking"},
        ],
    },
]


SMALL: dict[str, Any] = {
    "cells": CELLS,
    "victims": {"tuning": 0, "test": 2},
    "attackers__0__search": {},
    "attackers__0__attack": {"kind": "auto", "fallback": {"kind": "matching", "iterations": 5}},
}


@pytest.mark.slow
def test_a_sweep_compares_the_views(faces_root: Path, tmp_path: Path) -> None:
    outcome = run(sweep(faces_root, **SMALL), tmp_path)
    assert (outcome.trials, outcome.failed) == (16, 0)
    rows = pd.read_parquet(tmp_path / "trials")
    by_cell = dict(iter(rows.groupby("cell")))
    for name in ("single", "hidden"):
        assert set(by_cell[name]["status"]) == {"not_observable"}
    images = {name: len(each) for name, each in by_cell.items()}
    # Two victims of one image; two clients in a sum.
    assert images == {
        "none": 2, "holder": 2, "single": 2, "hidden": 2, "colluding": 2, "ckks": 4, "masking": 4, "chain": 4
    }  # fmt: skip
    first = {
        name: each[each["preselected"].astype(bool)].set_index("victim")["image_id"].to_dict()
        for name, each in by_cell.items()
        if name not in ("single", "hidden")
    }
    assert all(each == first["none"] for each in first.values())
    assert dict(rows.groupby("cell")["view"].first()) == {
        "none": "individual", "ckks": "aggregate", "masking": "aggregate", "chain": "aggregate",
        "holder": "key_holder", "single": "individual", "hidden": "ciphertext", "colluding": "aggregate",
    }  # fmt: skip
    # One client's update is as open to the key holder, and to all others together, as without any encryption.
    mean = {name: float(each["psnr"].mean()) for name, each in by_cell.items()}
    assert mean["none"] > 40
    assert mean["holder"] > 30
    assert mean["colluding"] > 30
    costs = ["rounding_error", "setup_seconds", "protect_seconds", "add_seconds", "reveal_seconds"]
    assert by_cell["none"][costs].isna().all().all()
    assert (by_cell["ckks"][costs] > 0).all().all()
    plain = int(by_cell["none"]["bytes_up"].iloc[0])
    assert plain < int(by_cell["masking"]["bytes_up"].iloc[0]) < int(by_cell["ckks"]["bytes_up"].iloc[0])
    table = summarize(tmp_path).set_index("cell")
    assert table.loc["ckks", "images"] == 4
    assert table.loc["ckks", "undefended"] == "none"
    chosen = by_cell["ckks"][by_cell["ckks"]["preselected"].astype(bool)]["psnr"].mean()
    assert table.loc["ckks", "drop"] == pytest.approx(mean["none"] - chosen, abs=1e-6)
    assert table.loc["ckks", "psnr_preselected"] == pytest.approx(chosen)
    assert table.loc["ckks", "rounding_error"] < 1e-6


@pytest.mark.slow
def test_serial_and_workers_agree_and_a_resumed_sweep_goes_on(faces_root: Path, tmp_path: Path) -> None:
    config = sweep(faces_root, **SMALL | {"cells": [CELLS[0], CELLS[1], CELLS[6]], "execution__workers": 1})
    half = run(config, tmp_path / "serial", cells=["ckks"])
    assert (half.trials, half.fresh) == (2, 2)
    rest = run(config, tmp_path / "serial")
    assert (rest.trials, rest.fresh) == (6, 4)
    run(config, tmp_path / "ray", address="local")
    measured = ["setup_seconds", "protect_seconds", "add_seconds", "reveal_seconds", "bytes_up"]
    one, two = (comparable(tmp_path / name) for name in ("serial", "ray"))
    pd.testing.assert_frame_equal(one.drop(columns=measured), two.drop(columns=measured))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threat": {"view": "key_holder"}}, "threat.view = 'key_holder' needs a defense with a key"),
        ({"threat": {"colluders": 2}}, "ThreatModel.colluders = 2: must be less than the 2 clients"),
        ({"federation__fraction": 0.25}, "masks need 2 clients a round, and it has 1"),
        ({"cells": [{"name": "m", "defense": [{"kind": "masking", "dropout": 0.5}]}]}, "Masking.dropout = 0.5"),
        (
            {"cells": [{"name": "m", "defense": [{"kind": "masking", "threshold": 1.0, "dropout": 0.49}]}],
             "federation__fraction": 0.75},
            "Masking.dropout = 0.49: must be smaller: it leaves 2 of 3 clients, and the threshold needs 3",
        ),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_by_name(
    faces_root: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        run(sweep(faces_root, **SMALL | {"cells": [CELLS[5]]} | changes), tmp_path)
    assert message in str(caught.value)
