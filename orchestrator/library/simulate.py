"""What an honest client sends, and what a defense makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from defenses.chain import AnyDefense
from fl_core.base.device import precision_of
from fl_core.base.errors import InputError, first_line
from fl_core.base.rng import stream
from fl_core.base.types import ClientUpdate, Tensors
from fl_core.federation.client import LocalTraining, batch_gradient, gradient_update, weight_update
from fl_core.federation.rounds import FederationConfig
from orchestrator.library.chains import ON_UPDATES, SIMULATED, chain_of
from orchestrator.library.images import ImageSpec
from orchestrator.library.network import Subject, subject
from orchestrator.library.updates import Update


def observe(
    model: torch.nn.Module,
    images: Tensor,
    labels: Tensor | Sequence[int],
    *,
    image: ImageSpec,
    classes: int,
    local: LocalTraining | None = None,
    defenses: Sequence[AnyDefense] = (),
    seed: int = 0,
) -> dict[str, Tensor] | Update:
    """What a server sees of a client that holds `images` (N, C, H, W) in [0, 1] with `labels` (N,).

    Without `local` it is the gradient of the mean cross-entropy over all images, by parameter name; with it the
    weight update after local SGD over them, in the order given. `defenses` are applied as the client would. `model`
    stays as it is. Raises `InputError` for wrong input and for defenses that need a network or clients of their own.
    """
    network = subject(model, image, classes)
    pictures = image.check(images, "images")
    classes_of = _labels(labels)
    if local is not None and not isinstance(local, LocalTraining):
        raise InputError(f"local is {type(local).__name__}: must be gradsweep.LocalTraining(...), or None.")
    if classes_of.shape != (len(pictures),) or not bool(((classes_of >= 0) & (classes_of < classes)).all()):
        raise InputError(
            f"labels must be {len(pictures)} classes from 0 to {classes - 1}, one for each image."
        )
    with precision_of("float32"):
        return client_signal(network, pictures, classes_of, local=local, defenses=defenses, seed=seed)


def _labels(labels: Tensor | Sequence[int]) -> Tensor:
    """Labels as int64; raises `InputError` for what holds no whole numbers."""
    try:
        found = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"labels must be whole numbers ({first_line(error)}).") from error
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise InputError(f"labels are {found.dtype}: must be whole numbers.")
    return found.long()


def client_signal(
    network: Subject,
    pictures: Tensor,
    labels: Tensor,
    *,
    local: LocalTraining | None,
    defenses: Sequence[AnyDefense],
    seed: int,
) -> dict[str, Tensor] | Update:
    """`observe` for a network that has been prepared and pictures (N, C, H, W) in [-1, 1] with labels (N,)."""
    pictures, labels = pictures.to(network.device), labels.to(network.device)
    chain, draws = chain_of(defenses, "defenses", stages=SIMULATED), stream("library", seed)
    plan = _plan(local, len(pictures))
    client = chain.clients(seed=seed, plan=plan)
    rule = client.on_gradient(batch_gradient, draws)
    if local is None:
        batch = client.on_batch((pictures, labels), draws, network.classes)
        update = gradient_update(network.model, network.state, batch, plan.local, client=0, rule=rule)
        return dict(client.on_update(update, {}, draws)[0].tensors)
    size, count = local.batch_size, len(pictures)
    epochs = [(pictures[i : i + size], labels[i : i + size]) for i in range(0, count, size)] * local.epochs
    batches = [client.on_batch(batch, draws, network.classes) for batch in epochs[: local.max_steps]]
    update, _ = weight_update(
        network.model, network.state, batches, local, client=0, examples=count, rule=rule
    )
    released, _ = client.on_update(update, {}, draws)
    return Update(
        tensors=dict(released.tensors),
        before={**network.state.parameters, **network.state.buffers},
        buffers=dict(released.buffers),
        facts={
            "lr": local.lr,
            "momentum": local.momentum,
            "steps": released.steps,
            "batch_size": min(size, count),
            "examples": count,
        },
    )


def defend(
    sent: dict[str, Tensor] | Update, defenses: Sequence[AnyDefense], *, seed: int = 0
) -> dict[str, Tensor] | Update:
    """What a client would have sent under `defenses`, which clip, add noise to or compress what is there.

    A gradient stays a gradient and an update an update. Raises `InputError` for a defense that works on the network,
    the images or the gradient rule, which are not there any more: simulate the client with `observe` for these.
    """
    if not isinstance(sent, Update):
        sent = _as_gradient(sent)
    return with_tensors(sent, released(sent, defenses, seed=seed).tensors)


def _as_gradient(sent: object) -> dict[str, Tensor]:
    """A gradient by parameter name, of tensors without a graph; raises `InputError` for anything else."""
    if not isinstance(sent, Mapping):
        raise InputError(
            f"the gradient is {type(sent).__name__}: must be a mapping by parameter name, or an Update; a list has no "
            "names: dict(zip(dict(model.named_parameters()), gradients))."
        )
    found = {}
    for name, value in sent.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"the gradient: {name!r} is {kind}; must be a tensor of real numbers.")
        found[name] = value.detach()
    return found


def released(
    sent: Mapping[str, Tensor] | Update, defenses: Sequence[AnyDefense], *, seed: int
) -> ClientUpdate:
    """`defend`'s answer with what the defenses note of it, such as the bytes that are sent."""
    chain, plan = chain_of(defenses, "defenses", stages=ON_UPDATES), _plan(None, 1)
    tensors = sent.tensors if isinstance(sent, Update) else sent
    update = ClientUpdate(
        client=0, tensors=dict(tensors), examples=1, steps=1, lr=plan.local.lr, momentum=plan.local.momentum
    )
    found, _ = chain.clients(seed=seed, plan=plan).on_update(update, {}, stream("library", seed))
    return found


def with_tensors(sent: dict[str, Tensor] | Update, tensors: Tensors) -> dict[str, Tensor] | Update:
    """`tensors` as a gradient, or as an update with all else that `sent` has."""
    return replace(sent, tensors=dict(tensors)) if isinstance(sent, Update) else dict(tensors)


def _plan(local: LocalTraining | None, images: int) -> FederationConfig:
    own = local or LocalTraining(batch_size=images, momentum=0.0)
    return FederationConfig(clients=1, rounds=1, fraction=1.0, local=own)
