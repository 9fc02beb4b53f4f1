"""What one client computes: a gradient, or local SGD."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, runtime_checkable

from fl_core.base.errors import InputError
from fl_core.base.types import ClientUpdate, Config, InUnits, ModelState, Tensors, require
from fl_core.models.finetuning.trainable import without_frozen
from fl_core.models.forward import changes_statistics, laid_out, predict

if TYPE_CHECKING:
    from torch import Tensor, nn

Batch = tuple["Tensor", "Tensor"]
"""Images (B, 3, S, S) in [-1, 1] and labels: (B,) int64, or probabilities (B, classes)."""


@runtime_checkable
class Recording(Protocol):
    """A gradient rule that notes what it does to the gradients of a client's round."""

    def __call__(self, model: nn.Module, state: ModelState, batch: Batch, /) -> dict[str, Tensor]:
        """See `GradientRule`."""

    def noted(self, update: ClientUpdate, *, unit: float) -> ClientUpdate:
        """The update that came of its gradients, with the notes; a gradient's 1 is `unit` in the update."""


GradientRule = Callable[["nn.Module", ModelState, Batch], dict[str, "Tensor"]] | Recording
"""A batch's gradient by parameter name, from a state whose parameters require one."""


@dataclass(frozen=True, kw_only=True)
class LocalTraining(Config):
    """A client's local SGD: learning rate, momentum, epochs, batch size.

    `momentum_state` says whether a client starts every round with momentum buffers of zero (`fresh`) or with
    those that its last round left (`persistent`). `max_steps` ends local training after so many steps.
    """

    lr: float = 0.01
    """Learning rate."""
    momentum: float = 0.9
    """Momentum of SGD."""
    epochs: Annotated[int, InUnits("epochs")] = 1
    """Passes over a client's images in a round."""
    batch_size: Annotated[int, InUnits("images")] = 1
    """Images of a batch."""
    momentum_state: Literal["fresh", "persistent"] = "fresh"
    """Whether momentum starts every round at zero or carries over."""
    max_steps: Annotated[int | None, InUnits("steps")] = None
    """Steps after which local training ends; null: none."""

    def __post_init__(self) -> None:
        require(self.lr > 0, self, "lr", "more than 0")
        require(0 <= self.momentum < 1, self, "momentum", "in [0, 1)")
        require(self.epochs >= 1, self, "epochs", "at least 1")
        require(self.batch_size >= 1, self, "batch_size", "at least 1")
        require(
            self.max_steps is None or self.max_steps >= 1, self, "max_steps", "at least 1, or null for all"
        )

    @property
    def is_stateful(self) -> bool:
        """Whether a client's momentum carries from one round into the next."""
        return self.momentum_state == "persistent" and self.momentum > 0


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What local training left: the state, how many steps it took, and the momentum buffers by parameter name.

    `velocity` is empty where there is no momentum.
    """

    state: ModelState
    steps: int
    velocity: Tensors


def loss_gradient(model: nn.Module, state: ModelState, batch: Batch) -> dict[str, Tensor]:
    """The gradient of the mean cross-entropy over one batch, by parameter name; `state` stays as it is."""
    return batch_gradient(model, trainable(state), batch)


def batch_gradient(model: nn.Module, state: ModelState, batch: Batch) -> dict[str, Tensor]:
    """The same, from a `trainable` state, whose buffers BatchNorm changes in train mode; a `GradientRule`."""
    from torch.nn import functional

    return gradient_of(functional.cross_entropy(predict(model, state, batch[0]), batch[1]), state.parameters)


def gradient_of(loss: Tensor, parameters: Tensors) -> dict[str, Tensor]:
    """The gradient of `loss` () by each of the `parameters`, by name; 0 for those that it does not depend on."""
    import torch

    found = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
    return dict(zip(parameters, found, strict=True))


def train_locally(
    model: nn.Module,
    state: ModelState,
    batches: Iterable[Batch],
    local: LocalTraining,
    *,
    velocity: Tensors | None = None,
    rule: GradientRule = batch_gradient,
) -> Trained:
    """One SGD step on each of `batches`, in order, along what `rule` says is its gradient.

    Momentum buffers start at `velocity` (None: zero).
    """
    import torch

    steps = 0
    working = trainable(state)
    optimizer = torch.optim.SGD(list(working.parameters.values()), lr=local.lr, momentum=local.momentum)
    for name, value in (velocity or {}).items():
        optimizer.state[working.parameters[name]]["momentum_buffer"] = value.clone()
    for images, labels in batches:
        for name, gradient in rule(model, working, (laid_out(model, images), labels)).items():
            working.parameters[name].grad = gradient
        optimizer.step()
        steps += 1
    left = {
        name: optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in working.parameters.items()
        if local.momentum > 0 and steps > 0
    }
    return Trained(state=working.detached(), steps=steps, velocity=left)


def gradient_update(
    model: nn.Module,
    state: ModelState,
    batch: Batch,
    local: LocalTraining,
    *,
    client: int,
    rule: GradientRule = batch_gradient,
) -> ClientUpdate:
    """The signal `gradients`: one batch's gradient at `state`, by `rule`.

    With it goes the change of the buffers where BatchNorm in train mode changes its running statistics.
    """
    working = trainable(state)
    update = ClientUpdate(
        client=client,
        tensors=rule(model, working, batch),
        buffers=_changed(model, working, state) if changes_statistics(model) else {},
        examples=len(batch[1]),
        steps=1,
        lr=local.lr,
        momentum=local.momentum,
    )
    return rule.noted(update, unit=1.0) if isinstance(rule, Recording) else update


def weight_update(
    model: nn.Module,
    state: ModelState,
    batches: Iterable[Batch],
    local: LocalTraining,
    *,
    client: int,
    examples: int,
    velocity: Tensors | None = None,
    rule: GradientRule = batch_gradient,
) -> tuple[ClientUpdate, Tensors]:
    """The signals `one_step_update` and `local_update`: new weights minus old after SGD over `batches`.

    With them the momentum buffers that are left; `velocity` holds those that training starts with.
    """
    trained = train_locally(model, state, batches, local, velocity=velocity, rule=rule)
    if trained.steps == 0:
        raise InputError(
            f"Client {client} holds no image, so it has no update; use fewer clients or more data."
        )
    update = ClientUpdate(
        client=client,
        tensors=difference(trained.state.parameters, state.parameters),
        buffers=_changed(model, trained.state, state),
        examples=examples,
        steps=trained.steps,
        lr=local.lr,
        momentum=local.momentum,
    )
    if isinstance(rule, Recording):
        update = rule.noted(update, unit=-local.lr)
    return update, trained.velocity


def difference(after: Tensors, before: Tensors) -> dict[str, Tensor]:
    """`after` minus `before`, tensor by tensor."""
    return {name: after[name] - before[name] for name in after}


def _changed(model: nn.Module, after: ModelState, before: ModelState) -> dict[str, Tensor]:
    """By how much the buffers changed that are numbers, and no frozen parameters."""
    import torch

    numbers = {name: value for name, value in after.buffers.items() if value.dtype is not torch.bool}
    return difference(without_frozen(model, numbers), without_frozen(model, before.buffers))


def trainable(state: ModelState) -> ModelState:
    """A copy of `state` whose parameters require a gradient."""
    copy = state.detached()
    for parameter in copy.parameters.values():
        parameter.requires_grad_(True)
    return copy
