"""The peer library `breaching` (Geiping et al.) on this project's observations, by its public interface.

It gets what our attacks get: the model and its weights, the gradient, the number of images, and the labels only
where the observation holds them. Its case and user simulation is left out.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from attack_core.gradients.batchnorm import SeenStatistics
from fl_core.base.types import ModelState
from fl_core.models.build import build_model
from fl_core.models.config import ModelConfig
from fl_core.threat.observation import Observation

LBFGS_EVALUATIONS = 20
"""Model evaluations that one of breaching's L-BFGS iterations takes (torch's default `max_iter`)."""


class PeerMissing(Exception):
    """The peer library cannot be imported; the message says why."""


@dataclass(frozen=True)
class PeerAnswer:
    """Images (B, 3, S, S) in units of [-1, 1], where unboxed beyond it, labels, and forward passes taken."""

    images: Tensor
    labels: Tensor
    evaluations: int


def load() -> ModuleType:
    """The library, or `PeerMissing`."""
    try:
        with _quiet():
            import breaching
    except Exception as error:  # A broken install fails in any way, and is a missing peer as well.
        raise PeerMissing(
            f"breaching cannot be imported ({type(error).__name__}: {error}); pip install breaching==0.1.2"
        ) from error
    return breaching


def attack_config(library: ModuleType, name: str, overrides: Sequence[str], iterations: int) -> Any:
    """Breaching's attack `name` with hydra `overrides`, cut to `iterations` model evaluations.

    The learning-rate schedule follows; a given `optim.max_iterations` stands. An L-BFGS iteration counts for the
    evaluations it takes, a stage of a multi-stage attack for its share.
    """
    with _quiet():
        config = library.get_attack_config(name, overrides=list(overrides))
    if "optim" in config and not any(item.startswith("optim.max_iterations=") for item in overrides):
        each = LBFGS_EVALUATIONS if config.optim.optimizer.lower() == "l-bfgs" else 1
        stages = config.get("num_stages", 1)
        config.optim.max_iterations = max(1, round(iterations / each / stages))
    return config


def solid_model(model: ModelConfig, state: ModelState) -> nn.Module:
    """The network with `state` inside, as breaching wants it; our own holds no values.

    In train mode, where the client's was, its running statistics stand still.
    """
    network = build_model(model).to_empty(device="cpu")
    network.load_state_dict({**state.parameters, **state.buffers})
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    return network


def seen_state(observation: Observation) -> ModelState:
    """The network's state, with the batch's statistics as the running ones where they are seen."""
    state = observation.state
    seen = SeenStatistics.of(observation, build_model(observation.model))
    if seen is None:
        return state
    means = {f"{name}.running_mean": value for name, value in seen.mean.items()}
    variances = {f"{name}.running_var": value for name, value in seen.variance.items()}
    return ModelState(parameters=state.parameters, buffers={**state.buffers, **means, **variances})


def reconstruct(library: ModuleType, observation: Observation, config: Any, *, seed: int) -> PeerAnswer:
    """Run one attack; the global generator is seeded inside and left as it was.

    Raises whatever the library raises.
    """
    network = solid_model(observation.model, seen_state(observation))
    evaluations, count = pass_counter()
    network.register_forward_hook(count)
    payload, shared = _exchange(observation, network)
    with _quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        attacker = library.attacks.prepare_attack(network, nn.CrossEntropyLoss(), config)
        # The fourth argument must be a dict: the library looks for a key in it.
        found, _ = attacker.reconstruct([payload], [shared], {}, dryrun=False)
    return PeerAnswer(
        images=found["data"].detach(), labels=found["labels"].detach(), evaluations=evaluations[0]
    )


def euclidean_step(
    library: ModuleType,
    model: ModelConfig,
    state: ModelState,
    target: Sequence[Tensor],
    labels: Tensor,
    start: Tensor,
) -> Callable[[], Tensor]:
    """One evaluation of breaching's Euclidean objective with its gradient to the image; twice its value.

    Doubled since breaching halves the squared distance. Data and gradient are those of our own loops.
    """
    objective = library.attacks.optimization_based_attack.objective_lookup["euclidean"](scale=1.0)
    objective.initialize(nn.CrossEntropyLoss(), attack_config(library, "deepleakage", (), 1).impl, None)
    network = solid_model(model, state)
    candidate, gradients = start.detach().clone().requires_grad_(True), list(target)

    def step() -> Tensor:
        loss, _ = objective(network, gradients, candidate, labels)
        loss.backward(inputs=candidate)
        return 2.0 * loss.detach()

    return step


def _exchange(observation: Observation, network: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """What breaching's server and user would have sent: payload and shared data."""
    from omegaconf import OmegaConf

    # Mean and deviation 0.5 make its box [-1, 1], where our pixels lie.
    facts = {
        "modality": "vision",
        "task": "classification",
        "shape": list(observation.model.shape.size),
        "classes": observation.model.classes,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    payload = {
        "parameters": [value.detach() for value in network.parameters()],
        # Buffers, even none, keep its copy of the model in eval mode; without them it is in train mode.
        "buffers": list(network.buffers()) if observation.model.batch_norm == "eval" else None,
        "metadata": OmegaConf.create(facts),
    }
    shared = {
        # Copies: some of its settings rescale what they are given in place.
        "gradients": [observation.tensors[name].clone() for name in observation.state.parameters],
        "buffers": None,
        "metadata": {
            "num_data_points": observation.examples,
            "labels": observation.labels,
            "local_hyperparams": None,
        },
    }
    return payload, shared


def pass_counter() -> tuple[list[int], Callable[..., None]]:
    """A count and a forward hook that raises it; both outlive deep copies of the hooked module."""
    evaluations = [0]

    def count(*_: object) -> None:
        evaluations[0] += 1

    return evaluations, count


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep the library's prints and warnings off our output."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
