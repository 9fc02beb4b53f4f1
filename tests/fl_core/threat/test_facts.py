"""A fact says by itself what it means for a signal's numbers, and attacks ask it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from attack_core.signal.signal_model import (
    deviations,
    knows_errors,
    largest_withheld,
    sends_signs,
    sent_numbers,
    withholds,
)
from fl_core.base.rng import generator
from fl_core.models.build import initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.facts import (
    Clip,
    Fact,
    InTheClear,
    Likelihood,
    MeanNoise,
    Noise,
    PrunedRepresentation,
    Quantiser,
    Seen,
    Sparsity,
    Withheld,
)
from fl_core.threat.observation import Observation

CONFIG = ModelConfig(kind="lenet", image_size=16)


def observation(*facts: Fact) -> Observation:
    state = initial_state(CONFIG, generator("model"))
    return Observation(
        signal="gradients",
        model=CONFIG,
        state=state,
        tensors={name: torch.ones_like(value) for name, value in state.parameters.items()},
        examples=1,
        clients=1,
        batch_size=1,
        steps=1,
        lr=0.1,
        momentum=0.0,
        facts=facts,
    )


@dataclass(frozen=True, kw_only=True)
class Dropped(Fact):
    """A fact that no module of an attack has heard of: at most `bound` was dropped here and there, then blurred."""

    withheld: ClassVar[Withheld] = "part"
    bound: float
    sigma: float
    kept: Tensor

    @property
    def likelihood(self) -> Likelihood:
        return "gaussian"

    def known(self, seen: Seen) -> Mapping[str, Tensor]:
        return dict.fromkeys(list(seen.tensors)[:1], self.kept)

    def ceiling(self, seen: Seen, name: str) -> float:
        return self.bound

    def variance(self, seen: Seen, values: Tensor, unit: float) -> float:
        return (self.sigma * unit) ** 2


def test_an_attack_understands_a_fact_that_it_has_never_heard_of() -> None:
    first = next(iter(observation().tensors))
    kept = torch.zeros_like(observation().tensors[first], dtype=torch.bool)
    seen = observation(Dropped(bound=0.5, sigma=0.25, kept=kept))
    assert knows_errors(seen)
    assert not sends_signs(seen)
    assert withholds(seen, first)
    assert largest_withheld(seen, first) == 0.5
    assert list(sent_numbers(seen)) == [first]
    assert set(deviations(seen, seen.tensors).values()) == {0.25}


def test_facts_move_with_their_tensors() -> None:
    mask = torch.ones(3, dtype=torch.bool)
    for fact in (
        InTheClear(masks={"weight": mask}),
        Dropped(bound=1.0, sigma=0.0, kept=mask),
        Clip(max_norm=2.0),
    ):
        moved = fact.to(torch.device("meta"))
        assert type(moved) is type(fact)
        for field in dataclasses.fields(moved):
            value = getattr(moved, field.name)
            for each in value.values() if isinstance(value, dict) else [value]:
                assert not isinstance(each, Tensor) or each.device.type == "meta"


def test_masks_of_several_facts_are_those_that_all_leave() -> None:
    plain = observation()
    names = list(plain.tensors)
    sparse = {name: value.clone() for name, value in plain.tensors.items()}
    for value in sparse.values():
        value.view(-1)[0] = 0.0
    clear = InTheClear(masks={name: torch.zeros_like(sparse[name], dtype=torch.bool) for name in names[:1]})
    seen = dataclasses.replace(plain, tensors=sparse, facts=(Sparsity(scope="all"), clear))
    masks = sent_numbers(seen)
    assert not masks[names[0]].any()
    assert int((~masks[names[1]]).sum()) == 1


def test_a_cut_layer_is_known_only_where_its_zeros_show() -> None:
    cut = PrunedRepresentation(layer="last")
    plain = observation(cut)
    last = [name for name, value in plain.tensors.items() if value.dim() == 2][-1]
    assert sent_numbers(plain)[last].all()
    for covered in (
        dataclasses.replace(plain, clients=2),
        dataclasses.replace(plain, steps=2),
        dataclasses.replace(plain, facts=(cut, Noise(distribution="gaussian", sigma=1.0))),
    ):
        assert not sent_numbers(covered)[last].any()


def test_noise_of_the_server_is_in_what_is_public_alone_and_larger_in_a_part_of_it() -> None:
    noise = MeanNoise(sigma=1.0)
    assert noise.seen_as("aggregate", 1.0) is None
    assert noise.seen_as("public", 0.5) == MeanNoise(sigma=2.0)
    assert Clip(max_norm=1.0).seen_as("aggregate", 0.5) == Clip(max_norm=1.0)


@pytest.mark.parametrize(
    ("fact", "likelihood", "unbiased"),
    [
        (Quantiser(scheme="sign", bits=1), "signs", False),
        (Quantiser(scheme="stochastic", bits=1), "signs", True),
        (Quantiser(scheme="stochastic", bits=4), "gaussian", True),
        (Noise(distribution="laplace", sigma=1.0), "gaussian", True),
        (Clip(max_norm=1.0), "exact", True),
    ],
)
def test_every_fact_names_its_likelihood(fact: Fact, likelihood: str, unbiased: bool) -> None:
    assert (fact.likelihood, fact.unbiased) == (likelihood, unbiased)
