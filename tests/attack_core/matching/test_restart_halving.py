"""Restarts that end early by their own loss: who goes on, what it saves, what it leaves alone."""

from __future__ import annotations

import json

import pytest
import torch

from attack_core.matching.candidates import RestartHalving
from attack_core.matching.matching import Matching
from attack_core.priors.priors import GroupConsistency
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.data.dataset import ImageDataset
from fl_core.models.build import build_model
from orchestrator.io.identity import canonical
from tests.support.matched import observed

HALVED = RestartHalving(after=0.25, keep=0.25)


def run(attack: Matching, faces: ImageDataset):  # type: ignore[no-untyped-def]
    observation, _ = observed(faces)
    return attack(observation, build_model(observation.model), generator("restarts", 0))


@pytest.mark.parametrize("schedule", ["cosine", "none"])
def test_the_best_ones_by_loss_go_on_as_they_would_have(faces: ImageDataset, schedule: str) -> None:
    attack = Matching(iterations=20, restarts=8, lr=0.3, schedule=schedule, tv_weight=0.0)  # type: ignore[arg-type]
    plain = run(attack, faces)
    halved = run(Matching(**{**vars(attack), "halving": HALVED}), faces)
    early = plain.history[:5]
    loss = early[-1] if schedule == "cosine" else early.min(dim=0).values
    best = loss.argsort()[:2].tolist()
    ended = [i for i in range(8) if i not in best]
    assert torch.equal(halved.history[:5], plain.history[:5])
    assert bool(halved.history[5:, ended].isnan().all())
    # Fewer restarts are evaluated together, so sums round differently.
    torch.testing.assert_close(halved.history[:, best], plain.history[:, best], rtol=1e-3, atol=1e-6)
    assert len(halved.candidates) == 8, "the oracle sees all of them"
    assert halved.work == 5 * 8 + 15 * 2 + 2
    chosen = [i for i in best if torch.equal(halved.candidates[i], halved.images)]
    assert chosen, "the answer is one of those that went on"
    # What is planned leaves out the last look.
    assert Matching(**{**vars(attack), "halving": HALVED}).cost(1) == 5 * 8 + 15 * 2


def test_packing_keeps_the_same_restarts(faces: ImageDataset) -> None:
    attack = Matching(iterations=12, restarts=4, lr=0.3, halving=HALVED)
    whole, packed = run(attack, faces), run(attack.packed(1), faces)
    assert torch.equal(whole.history.isnan(), packed.history.isnan())


def test_an_older_attack_has_the_same_identity() -> None:
    assert "halving" not in json.loads(canonical(Matching()))
    assert "halving" in json.loads(canonical(Matching(restarts=4, halving=HALVED)))


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"after = 1.0: must be more than 0 and less than 1"):
        RestartHalving(after=1.0)
    with pytest.raises(InputError, match=r"halving .*must be null, or beside so many restarts"):
        Matching(restarts=1, halving=HALVED)
    with pytest.raises(InputError, match=r"halving .*must be null with the prior 'group'"):
        Matching(restarts=4, halving=HALVED, priors=(GroupConsistency(weight=1.0),))
