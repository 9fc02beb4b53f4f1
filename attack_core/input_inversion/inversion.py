"""From what a client trained on back to what it holds, where a known defense changed images before training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from attack_core.base.types import Reconstruction
from attack_core.input_inversion.augmented import invert_augmentation
from attack_core.input_inversion.mixtures import expected_images, invert_mixup
from fl_core.data.augmentation.transforms import is_lossy
from fl_core.threat.facts import Augmented, HiddenMixture, Mixture
from fl_core.threat.observation import Observation


def invert_inputs(found: Reconstruction, observation: Observation) -> Reconstruction:
    """`found` with its images changed back as far as one observation allows, and a note of how.

    The selected images and every candidate are changed by the same rule, none of them by the truth. Of several clients'
    batches, or several steps', nothing tells which images were changed together, so they stay as they were found.
    """
    mean = None if observation.public_mean is None else observation.public_mean.detach().cpu()
    back: Callable[[Tensor], Tensor]
    for fact in observation.facts:
        match fact:
            case Mixture() if _one_batch(found, observation):
                images, share = invert_mixup(found.images)
                note = (
                    "no mixing was seen" if share == 1 else f"taken out of mixtures at a share of {share:.2f}"
                )
                found = _changed(found, images, lambda batch: invert_mixup(batch)[0], note)
            case HiddenMixture() if mean is not None:
                if _sees_pixels(observation):
                    back, note = (
                        partial(expected_images, mean=mean),
                        "signs as the mean public image makes them likely",
                    )
                else:
                    back = mean.expand_as
                    note = (
                        "behind convolutions neither encoded images nor drawn signs are found: the mean image"
                    )
                found = _changed(found, back(found.images), back, note)
            case Augmented(policy=policy) if mean is not None:
                back = partial(invert_augmentation, policy=policy, mean=mean)
                note = "taken back by the draw of the policy that looks most like the mean public image"
                if is_lossy(policy):
                    note = "taken back by the policy's likeliest draw; the mean public image where it cut"
                found = _changed(found, back(found.images), back, note)
            case _:
                pass
    return found


def _sees_pixels(observation: Observation) -> bool:
    """Whether the network's first layer is fully connected, so that its input is found as it is, whatever it is."""
    return next(iter(observation.state.parameters.values())).dim() == 2


def _one_batch(found: Reconstruction, observation: Observation) -> bool:
    return observation.clients == observation.steps == 1 and len(found.images) == observation.examples


def _changed(
    found: Reconstruction, images: Tensor, change: Callable[[Tensor], Tensor], note: str
) -> Reconstruction:
    candidates = torch.stack([change(each) for each in found.candidates])
    return replace(
        found,
        images=images.clamp(-1.0, 1.0),
        candidates=candidates.clamp(-1.0, 1.0),
        notes=(*found.notes, note),
        certificates=(),  # They are of what was trained on.
    )
