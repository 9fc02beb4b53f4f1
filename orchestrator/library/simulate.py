"""What an honest client sends, and what a defense makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from defenses.chain import AnyDefense, Chain
from fl_core.base.errors import InputError
from fl_core.base.rng import stream
from fl_core.base.types import ClientUpdate, Tensors
from fl_core.federation.client import LocalTraining, batch_gradient, gradient_update, weight_update
from fl_core.federation.rounds import FederationConfig
from orchestrator.library.images import ImageSpec
from orchestrator.library.network import Subject, subject
from orchestrator.library.updates import Update

_ON_UPDATES = ("clip", "noise", "compress")
"""The stages of defenses that work on an update that is already there."""


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
    classes_of = torch.as_tensor(labels, dtype=torch.int64)
    if classes_of.shape != (len(pictures),) or not bool(((classes_of >= 0) & (classes_of < classes)).all()):
        raise InputError(
            f"labels must be {len(pictures)} classes from 0 to {classes - 1}, one for each image."
        )
    return client_signal(network, pictures, classes_of, local=local, defenses=defenses, seed=seed)


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
    chain, draws = _chain(defenses, ("batch", "gradient", *_ON_UPDATES)), stream("library", seed)
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
    return with_tensors(sent, released(sent, defenses, seed=seed).tensors)


def released(
    sent: Mapping[str, Tensor] | Update, defenses: Sequence[AnyDefense], *, seed: int
) -> ClientUpdate:
    """`defend`'s answer with what the defenses note of it, such as the bytes that are sent."""
    chain, plan = _chain(defenses, _ON_UPDATES), _plan(None, 1)
    tensors = sent.tensors if isinstance(sent, Update) else sent
    update = ClientUpdate(
        client=0, tensors=dict(tensors), examples=1, steps=1, lr=plan.local.lr, momentum=plan.local.momentum
    )
    found, _ = chain.clients(seed=seed, plan=plan).on_update(update, {}, stream("library", seed))
    return found


def with_tensors(sent: dict[str, Tensor] | Update, tensors: Tensors) -> dict[str, Tensor] | Update:
    """`tensors` as a gradient, or as an update with all else that `sent` has."""
    return replace(sent, tensors=dict(tensors)) if isinstance(sent, Update) else dict(tensors)


def _chain(defenses: Sequence[AnyDefense], stages: tuple[str, ...]) -> Chain:
    for defense in defenses:
        if defense.stage not in stages:
            raise InputError(
                f"{defense.label} works on the {defense.stage}, which is not there to work on; allowed here: "
                f"{', '.join(stages)}."
            )
    return Chain(defenses=tuple(defenses))


def _plan(local: LocalTraining | None, images: int) -> FederationConfig:
    own = local or LocalTraining(batch_size=images, momentum=0.0)
    return FederationConfig(clients=1, rounds=1, fraction=1.0, local=own)
