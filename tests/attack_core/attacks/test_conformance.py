"""Every named attack on every kind of network: a finite answer after few iterations, or a refusal that says why.

docs/networks.md has the table, which is compared with what is found here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
import torch

from attack_core.attacks.registry import NAMED
from fl_core.base.errors import InputError
from orchestrator.library.images import ImageSpec
from orchestrator.library.invert import case_at
from orchestrator.library.known import Known
from orchestrator.library.network import Subject, subject
from orchestrator.library.simulate import client_signal
from tests.support.networks import CLASSES, LARGE, NETWORKS, built
from tests.support.paths import ROOT

SHARE = 0.002
"""Of an attack's iterations."""
ON_LARGE = ("matching", "features", "gradinversion", "tokens", "convolutions")
"""On torchvision's networks the others take up to 20 CPU seconds each; the table has them from one run by hand."""
WHY = {
    "has no BatchNorm": "a model with BatchNorm layers",
    "last layer is not an nn.Linear": "last layer is not fully connected",
    "features carry no weight": "the weight gradient is zero",
}
"""Why an attack is refused, as the table says it, and as the message does."""


@cache
def prepared(name: str) -> tuple[Subject, dict[str, torch.Tensor]]:
    """The network, and one image's gradient."""
    model, side = built(name, dtype=torch.float32)
    network = subject(model.eval(), ImageSpec(height=side, width=side), CLASSES)
    draws = torch.Generator().manual_seed(3)
    image = torch.rand(1, 3, side, side, generator=draws) * 2 - 1
    sent = client_signal(network, image, torch.tensor([1]), local=None, defenses=(), seed=0)
    assert isinstance(sent, dict)
    return network, sent


def outcome(network: str, attack: str) -> str:
    """What the table says of a pair: what the answer was looked for by, or why there is none."""
    own, sent = prepared(network)
    case = case_at(own, sent, attack=NAMED[attack].shortened(SHARE), known=Known(examples=1))
    try:
        found = case.run(0)
    except InputError as refusal:
        (why,) = (words for words, message in WHY.items() if message in str(refusal))
        return why
    assert found.images.shape == (1, 3, own.image.height, own.image.width)
    assert bool(found.images.isfinite().all())
    assert found.labels.shape == (1,)
    return "matching" if found.outcome == "matching" else "equations"


def published() -> dict[str, Sequence[str]]:
    """The table of the page: a network's cells by its name."""
    lines = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8").splitlines()
    start = lines.index(f"| network | {' | '.join(NAMED)} |") + 2
    rows = [line.strip("| ").split(" | ") for line in lines[start : start + len(NETWORKS) + len(LARGE)]]
    return {name: cells for name, *cells in rows}


def test_the_page_has_every_network_and_attack() -> None:
    assert list(published()) == [*NETWORKS, *LARGE]
    assert all(len(cells) == len(NAMED) for cells in published().values())


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_each_attack_answers_or_refuses(network: str) -> None:
    cells = dict(zip(NAMED, published()[network], strict=True))
    assert {attack: outcome(network, attack) for attack in NAMED} == cells


@pytest.mark.slow
@pytest.mark.parametrize("network", LARGE)
def test_each_attack_answers_or_refuses_on_torchvisions(network: str) -> None:
    cells = dict(zip(NAMED, published()[network], strict=True))
    assert {attack: outcome(network, attack) for attack in ON_LARGE} == {
        attack: cells[attack] for attack in ON_LARGE
    }
