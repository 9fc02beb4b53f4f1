"""The noise control: a signal of the same norm that holds no information."""

from __future__ import annotations

import dataclasses

import torch
from torch.linalg import vector_norm

from fl_core.base.decibels import TINY
from fl_core.threat.observation import Observation


def norm_matched_noise(observation: Observation, generator: torch.Generator) -> Observation:
    """The observation with every tensor replaced by Gaussian noise of the same L2 norm.

    An attack on it can only paint its own prior; what it gains over that on the real signal is the leak. Earlier
    updates hold the same client's images, so they go too, and so does the change of BatchNorm's statistics; every round
    that was watched has noise of its own.
    """
    noise = {}
    for name, tensor in observation.tensors.items():
        draw = torch.randn(tensor.shape, generator=generator).to(tensor.device)
        noise[name] = draw * (vector_norm(tensor) / vector_norm(draw).clamp_min(TINY))
    later = tuple(norm_matched_noise(each, generator) for each in observation.later)
    return dataclasses.replace(observation, tensors=noise, earlier=(), later=later, statistics={})
