"""A user's own defense: its hooks are its class's, and what they return is checked."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest
import torch

from defenses.chain import Chain
from defenses.compression.compression import Prune
from defenses.dp.sgd import DPSGD
from defenses.mechanism.own import OwnDefense
from fl_core.base.errors import InputError
from fl_core.base.own_code import OwnCode, OwnCodeFailed
from fl_core.base.rng import generator, stream
from fl_core.base.types import ClientUpdate
from fl_core.federation.client import Recording, batch_gradient, gradient_update
from fl_core.federation.rounds import FederationConfig
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.facts import Noise
from tests.support.own import DEFENSE

_PLAN = FederationConfig()

_HEAD = """
from dataclasses import dataclass, replace
from typing import ClassVar
import torch
from defenses.mechanism.base import Mechanism, Stage
from fl_core.threat.facts import Noise

class OwnFact(Noise):
    pass

@dataclass(frozen=True, kw_only=True)
class D(Mechanism):
    stage: ClassVar[Stage] = "{stage}"
    size: float = 1.0

"""


def _own(tmp_path: Path, body: str, *, stage: str = "compress") -> OwnDefense:
    text = _HEAD.format(stage=stage) + "\n".join(f"    {line}" for line in body.splitlines()) + "\n"
    (tmp_path / "d.py").write_text(text)
    return OwnDefense(code=OwnCode.read("d.py:D", tmp_path, where="x"))


def _update() -> ClientUpdate:
    tensors = {"a": torch.arange(4.0), "b": torch.ones(2, 2)}
    return ClientUpdate(client=0, tensors=tensors, examples=1, steps=1, lr=0.1, momentum=0.0)


def test_what_the_class_does_is_what_the_defense_does(tmp_path: Path) -> None:
    own = _own(
        tmp_path,
        "has_error_feedback: ClassVar[bool] = True\n"
        "def on_update(self, update, random, plan):\n"
        "    return replace(update, tensors={k: self.size * v for k, v in update.tensors.items()})",
    )
    doubled = dataclasses.replace(own, settings={"size": 2.0})
    released = doubled.on_update(_update(), stream("x", 0, 0, 0), _PLAN)
    assert torch.equal(released.tensors["a"], 2.0 * torch.arange(4.0))
    assert (own.stage, own.protects, own.has_error_feedback, own.label) == ("compress", None, True, "d.py:D")
    assert own.itself is own.itself, "made once"
    assert pickle.loads(pickle.dumps(doubled)).itself.size == 2.0


def test_a_chain_of_it_keeps_a_residual_and_tells_its_facts(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(DEFENSE)
    own = OwnDefense(
        code=OwnCode.read("my.py:Blur", tmp_path, where="x"), settings={"sigma": 0.25, "offsets": [0.0]}
    )
    chain = Chain(defenses=(own, Prune(ratio=0.5, error_feedback=True)))
    first, *_ = chain.facts(_PLAN)
    assert first == Noise(distribution="gaussian", sigma=0.25)
    clients = chain.clients(seed=1, plan=_PLAN)
    released = [clients.on_update(_update(), {}, clients.draws(0, 0))[0].tensors["b"] for _ in range(2)]
    assert torch.equal(*released), "the stream of random numbers alone decides"
    other = clients.on_update(_update(), {}, clients.draws(1, 0))[0].tensors["b"]
    assert not torch.equal(released[0], other)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("None", "returned NoneType from on_update: must be ClientUpdate"),
        (
            "replace(update, tensors={})",
            "returned other tensors from on_update than it was given: must be a, b",
        ),
        (
            "replace(update, tensors={**update.tensors, 'a': torch.ones(3)})",
            r"made a \(3,\) in torch.float32",
        ),
        (
            "replace(update, tensors={**update.tensors, 'a': update.tensors['a'].double()})",
            "in torch.float64",
        ),
        ("replace(update, tensors={**update.tensors, 'a': 1})", "made a int in on_update"),
        ("replace(update, tensors=[])", "returned list from on_update: must be tensors by name"),
        (
            "[each.add_(1) for each in update.tensors.values()] and update",
            "changed a in place in on_update: must make new tensors",
        ),
        ("1 / 0", r"d\.py:D failed in on_update: ZeroDivisionError: division by zero \(d\.py, line 17\)"),
    ],
)
def test_an_update_that_is_none_is_refused(returned: str, message: str, tmp_path: Path) -> None:
    own = _own(tmp_path, f"def on_update(self, update, random, plan):\n    return {returned}")
    with pytest.raises(OwnCodeFailed, match=message):
        own.on_update(_update(), stream("x", 0, 0, 0), _PLAN)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("batch[0]", "must return a pair of tensors"),
        ("(batch[0][..., :4], batch[1])", "returned images of shape"),
        ("(batch[0].double(), batch[1])", "torch.float64 from on_batch"),
        ("(batch[0], batch[1][:1])", r"returned labels of shape \(1,\)"),
        ("(batch[0], torch.ones(2, 5))", r"returned labels of shape \(2, 5\)"),
    ],
)
def test_a_batch_that_is_none_is_refused(returned: str, message: str, tmp_path: Path) -> None:
    own = _own(
        tmp_path, f"def on_batch(self, batch, random, plan, classes):\n    return {returned}", stage="batch"
    )
    batch = (torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]))
    with pytest.raises(OwnCodeFailed, match=message):
        own.on_batch(batch, stream("x", 0, 0, 0), _PLAN, 2)


def test_batches_may_be_mixed_and_grow(tmp_path: Path) -> None:
    body = (
        "def on_batch(self, batch, random, plan, classes):\n"
        "    soft = torch.full((2 * len(batch[1]), classes), 1 / classes)\n"
        "    return batch[0].repeat(2, 1, 1, 1), soft"
    )
    images, labels = _own(tmp_path, body, stage="batch").on_batch(
        (torch.zeros(2, 3, 8, 8), torch.tensor([0, 1])), stream("x", 0, 0, 0), _PLAN, 2
    )
    assert (len(images), tuple(labels.shape)) == (4, (4, 2))


_RULE = """
def on_gradient(self, rule, random, plan):
    def own(model, state, batch):
        {first}
        return {{k: self.size * v for k, v in rule(model, state, batch).items()}}
    return own
"""


def test_a_rule_for_gradients_is_used_and_blamed(tmp_path: Path) -> None:
    config = ModelConfig(kind="mlp", image_size=8)
    model, state = build_model(config), initial_state(config, generator("model", 1))
    batch = (torch.randn(2, 3, 8, 8, generator=generator("x", 1)), torch.tensor([0, 1]))
    own = dataclasses.replace(
        _own(tmp_path, _RULE.format(first="pass"), stage="gradient"), settings={"size": 3.0}
    )
    rule = own.on_gradient(batch_gradient, stream("x", 0, 0, 0), _PLAN)
    assert not isinstance(rule, Recording)
    scaled = gradient_update(model, state, batch, _PLAN.local, client=0, rule=rule)
    plain = gradient_update(model, state, batch, _PLAN.local, client=0)
    for name, value in plain.tensors.items():
        torch.testing.assert_close(scaled.tensors[name], 3.0 * value)
    failing = _own(tmp_path, _RULE.format(first="1 / 0"), stage="gradient")
    rule = failing.on_gradient(batch_gradient, stream("x", 0, 0, 0), _PLAN)
    with pytest.raises(OwnCodeFailed, match=r"failed in the rule of on_gradient.*\(d\.py, line \d+\)"):
        gradient_update(model, state, batch, _PLAN.local, client=0, rule=rule)


def test_a_rule_of_ours_keeps_its_notes(tmp_path: Path) -> None:
    body = (
        "def on_gradient(self, rule, random, plan):\n"
        "    from defenses.dp.sgd import DPSGD\n"
        "    return DPSGD(epsilon=None, noise_multiplier=1.0).on_gradient(rule, random, plan)"
    )
    rule = _own(tmp_path, body, stage="gradient").on_gradient(batch_gradient, stream("x", 0, 0, 0), _PLAN)
    assert isinstance(rule, Recording)


def test_other_hooks_are_checked(tmp_path: Path) -> None:
    for body, call, message in (
        (
            "def on_model(self, model):\n    return 3",
            lambda own: own.on_model(ModelConfig()),
            "must be ModelConfig",
        ),
        ("def facts(self, plan):\n    return None", lambda own: own.facts(_PLAN), "must be tuple"),
        (
            "def facts(self, plan):\n    return (OwnFact(distribution='gaussian', sigma=1.0),)",
            lambda own: own.facts(_PLAN),
            "states a OwnFact, a fact of its own",
        ),
        (
            "def privacy(self, plan):\n    return 8.0",
            lambda own: own.privacy(_PLAN),
            "must return a Privacy or None",
        ),
        (
            "def on_gradient(self, rule, random, plan):\n    return 3",
            lambda own: own.on_gradient(batch_gradient, stream("x", 0, 0, 0), _PLAN),
            "must return a function",
        ),
    ):
        with pytest.raises(OwnCodeFailed, match=message):
            call(_own(tmp_path, body))


def test_chains_see_its_stage_and_ask_for_its_incompatibility(tmp_path: Path) -> None:
    own = _own(tmp_path, "pass", stage="noise")
    with pytest.raises(InputError, match=r"it adds noise, and so does d\.py:D"):
        Chain(defenses=(DPSGD(epsilon=None, noise_multiplier=1.0), own))
    with pytest.raises(InputError, match=r"d\.py:D before d\.py:D: one source of noise"):
        Chain(defenses=(own, own))
    picky = _own(tmp_path, "def incompatibility(self, chain):\n    return 'it works alone'")
    with pytest.raises(InputError, match=r"A defense chain has d\.py:D: it works alone\."):
        Chain(defenses=(picky,))
