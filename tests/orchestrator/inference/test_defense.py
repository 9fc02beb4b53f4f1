"""Defenses that a signal's own numbers show, each made by the project's own; nothing on what plain clients send."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from defenses.chain import AnyDefense
from defenses.compression.compression import Prune, Quantise, SignOnly
from defenses.compression.soteria import Soteria
from defenses.mechanism.noise import ClipOnly, NoiseOnly
from fl_core.base.types import Tensors
from fl_core.federation.client import LocalTraining
from fl_core.federation.rounds import FederationConfig
from orchestrator.inference.defense import SeenDefense, Signal, seen_defense
from orchestrator.inference.pruning import seen_pruning
from orchestrator.library.network import Subject, subject
from orchestrator.library.simulate import client_signal
from orchestrator.library.updates import Update
from tests.support.networks import built
from tests.support.signals import CLASSES, SPEC, network, pictures

LR = 0.05


def convolutional(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), activation(), nn.Conv2d(8, 8, 3, padding=1), activation()),
        *(nn.Flatten(), nn.Linear(512, 32), activation(), nn.Linear(32, CLASSES)),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "fully connected": network,
    "convolutional": convolutional,
    "sigmoids": lambda: convolutional(nn.Sigmoid),
}


@cache
def prepared(name: str) -> Subject:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return subject(NETWORKS[name]().eval(), SPEC, CLASSES)


def images(count: int, seed: int) -> Tensor:
    return pictures(count, seed=seed) * 2 - 1


def sent(
    name: str, defenses: Sequence[AnyDefense], *, count: int = 1, steps: int | None = None, seed: int = 0
) -> Update | dict[str, Tensor]:
    """A gradient, or an update of local steps, between weights that float32 stores."""
    local = None if steps is None else LocalTraining(lr=LR, momentum=0.0, batch_size=-(-count // steps))
    truth, labels = images(count, seed), torch.arange(count) % CLASSES
    seen = client_signal(prepared(name), truth, labels, local=local, defenses=defenses, seed=seed)
    if not isinstance(seen, Update):
        return seen
    before = {key: seen.before[key] for key in seen.tensors}
    return Update.between(before, {key: value + seen.tensors[key] for key, value in before.items()})


def shown(name: str, found: Update | Tensors, *, lr: float | None = None) -> SeenDefense | None:
    moved = isinstance(found, Update)
    tensors = found.tensors if isinstance(found, Update) else found
    return seen_defense(
        Signal(network=prepared(name), tensors=tensors, moved=moved, pictures=images(32, 99), lr=lr)
    )


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("count", "steps"), [(1, None), (6, None), (1, 1), (6, 3)], ids=["one", "batch", "step", "steps"]
)
def test_nothing_is_seen_on_what_plain_clients_send(name: str, count: int, steps: int | None) -> None:
    """Their zeros are of units that are off and of classes that nobody has, their rounding is float32's."""
    for seed in range(4):
        assert shown(name, sent(name, (), count=count, steps=steps, seed=seed), lr=LR) is None


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("steps", [None, 1])
@pytest.mark.parametrize(
    ("defense", "words"),
    [
        (Prune(ratio=0.9), "pruned: 90% of the numbers are exactly 0"),
        (Prune(ratio=0.98, scope="tensor"), "pruned: 98% of the numbers are exactly 0"),
        (Quantise(bits=4), "rounded to 4 bits"),
        (SignOnly(), "signs only"),
        (ClipOnly(max_norm=0.002), "clipped to an L2 norm of 0.002"),
    ],
    ids=lambda each: each.kind if not isinstance(each, str) else "",
)
def test_a_defense_is_seen_and_taken_as_it_is(
    name: str, steps: int | None, defense: AnyDefense, words: str
) -> None:
    found = shown(name, sent(name, (defense,), steps=steps))
    assert found is not None
    assert found.words == words
    assert type(found.defense) is type(defense)
    if isinstance(defense, Prune):
        assert isinstance(found.defense, Prune)
        assert found.defense.ratio == pytest.approx(defense.ratio, abs=0.005)
        assert found.defense.scope == defense.scope
    elif isinstance(defense, ClipOnly):
        assert isinstance(found.defense, ClipOnly)
        assert found.defense.max_norm == pytest.approx(defense.max_norm, rel=1e-5)
    else:
        assert found.defense == defense


def test_a_bound_on_the_gradient_is_seen_in_an_update() -> None:
    update = sent("convolutional", (ClipOnly(max_norm=0.037 * 0.11),), steps=1)
    assert shown("convolutional", update) is None
    found = shown("convolutional", update, lr=0.037)
    assert found is not None
    assert found.words == "clipped to an L2 norm of 0.11 times the learning rate"


def test_pruning_behind_noise_is_seen() -> None:
    found = shown("convolutional", sent("convolutional", (NoiseOnly(sigma=1e-3), Prune(ratio=0.9))))
    assert found is not None
    assert found.words.startswith("pruned: 90%")


@pytest.mark.parametrize("name", ["fully connected", "sigmoids"])
def test_columns_that_pictures_do_not_leave_empty_were_cut(name: str) -> None:
    found = shown(name, sent(name, (Soteria(ratio=0.75, probes=4),)))
    assert found is not None
    assert isinstance(found.defense, Soteria)
    assert found.defense.layer == "first"
    assert found.defense.ratio == pytest.approx(0.75, abs=0.02)


def test_a_layer_that_was_not_sent_is_told_from_one_that_is_not_used() -> None:
    gradient = sent("convolutional", ())
    assert not isinstance(gradient, Update)
    names = ("2.weight", "2.bias")
    found = shown("convolutional", gradient | {key: torch.zeros_like(gradient[key]) for key in names})
    assert found is not None
    assert found.words == "zeros alone in 2.weight, 2.bias"
    seen = sent("convolutional", (found.defense,))
    assert not isinstance(seen, Update)
    assert [key for key, value in seen.items() if not bool(value.any())] == list(names)
    (fact,) = found.defense.facts(FederationConfig(clients=1, rounds=1, fraction=1.0))
    masks = {key: bool(mask.any()) for key, mask in fact.known(None).items()}  # type: ignore[arg-type]
    assert masks == {key: key not in names for key in gradient}


def test_a_layer_that_no_picture_reaches_is_no_defense() -> None:
    model, side = built("reused", dtype=torch.float32)
    own = subject(model.eval(), SPEC, 3)
    assert (SPEC.height, SPEC.width) == (side, side)
    plain = client_signal(own, images(1, 0), torch.tensor([1]), local=None, defenses=(), seed=0)
    assert not isinstance(plain, Update)
    assert not bool(plain["unused.weight"].any())
    signal = Signal(network=own, tensors=plain, moved=False, pictures=images(8, 9), lr=None)
    assert seen_defense(signal) is None


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_steps_of_adam_are_no_defense(steps: int) -> None:
    for name in NETWORKS:
        own = prepared(name)
        model = NETWORKS[name]()
        model.load_state_dict(dict(own.state.parameters))
        before = {key: value.detach().clone() for key, value in model.state_dict().items()}
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images(2, 3)), torch.tensor([0, 1])).backward()
            optimizer.step()
        assert shown(name, Update.between(before, dict(model.state_dict()))) is None


@pytest.mark.slow
def test_a_norm_is_seldom_round_by_chance() -> None:
    draws = torch.Generator().manual_seed(0)
    clipped = sum(_of_norm(float(size)) is not None for size in torch.rand(2000, generator=draws))
    assert clipped <= 4
    assert _of_norm(0.25) is not None
    assert _of_norm(0.251) is None


def _of_norm(norm: float) -> SeenDefense | None:
    held = {
        key: torch.ones_like(value) for key, value in prepared("fully connected").state.parameters.items()
    }
    values = torch.linspace(0.1, 1, 7)
    tensors = {key: torch.zeros_like(value) for key, value in held.items()}
    first = next(iter(tensors))
    tensors = {key: torch.full_like(value, 1e-9) for key, value in tensors.items()}
    tensors[first].view(-1)[:7] = values * norm / float(values.norm())
    return shown("fully connected", tensors)


def test_one_bright_image_whose_sizes_begin_somewhere_is_no_defense() -> None:
    torch.manual_seed(0)
    active, pixels = torch.rand(22) + 0.1, torch.randint(60, 256, (300,)) / 255
    rows = torch.zeros(48, 300)
    rows[:22] = active[:, None] * pixels
    plain = {"1.weight": rows, "1.bias": rows[:, 0]}
    assert seen_pruning(plain) is None
    least = rows.flatten().sort(descending=True).values[3000]
    cut = {name: torch.where(value >= least, value, 0.0) for name, value in plain.items()}
    assert seen_pruning(cut) is not None
