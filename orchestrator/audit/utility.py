"""What a defense costs in accuracy: the network after the defended update, on public pictures with labels."""

from __future__ import annotations

import torch

from fl_core.base.types import ModelState, Tensors
from fl_core.models.forward import predict
from orchestrator.calibration.pictures import PictureSet
from orchestrator.library.network import Subject
from orchestrator.library.updates import Update

_TOGETHER = 64
"""Pictures in one forward pass."""


@torch.no_grad()
def accuracy_after(network: Subject, sent: Update | Tensors, public: PictureSet) -> float | None:
    """The share of public pictures that the network classifies right after this update alone.

    None for a gradient, which moves no weights, and where the public folders are not the network's classes.
    """
    if not isinstance(sent, Update) or public.labels is None or len(public.classes) != network.classes:
        return None
    moved = {name: value + sent.tensors[name].to(value) for name, value in network.state.parameters.items()}
    state = ModelState(parameters=moved, buffers=network.state.buffers)
    pictures, labels = network.image.check(public.images, "public images"), public.labels
    right = 0
    for batch, wanted in zip(pictures.split(_TOGETHER), labels.split(_TOGETHER), strict=True):
        logits = predict(network.model, state.with_own_buffers(), batch.to(network.device))
        right += int((logits.argmax(1).cpu() == wanted).sum())
    return right / len(labels)
