"""Which labels an attack matches with: given, inferred or optimised."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from attack_core.targets import gradient_estimate
from fl_core.errors import InputError
from fl_core.threat import Observation

LabelStrategy = Literal["auto", "idlg", "optimize", "known"]


def resolve_labels(strategy: LabelStrategy, observation: Observation, images: int) -> Tensor | None:
    """Fixed labels (B,) for `images` reconstructions, or None where they are to be optimised as soft labels.

    `auto` takes known labels where the threat model gives them, iDLG for one image unless the signal is
    `agg_update`, and optimises otherwise. Raises `InputError` where a strategy asks for what is not there.
    """
    if strategy == "auto":
        if observation.labels is not None and len(observation.labels) == images:
            return observation.labels
        strategy = "idlg" if images == 1 and observation.signal != "agg_update" else "optimize"
    if strategy == "known":
        if observation.labels is None:
            raise InputError("label_strategy 'known' needs a threat model with labels: known.")
        if len(observation.labels) != images:
            raise InputError(
                f"label_strategy 'known' reconstructs as many images as there are labels "
                f"({len(observation.labels)}), not {images}."
            )
        return observation.labels
    if strategy == "idlg":
        if images != 1:
            raise InputError(
                f"label_strategy 'idlg' infers one label, but {images} images are reconstructed."
            )
        return idlg(observation)
    return None


def idlg(observation: Observation) -> Tensor:
    """The label of a single image, (1,): the class whose row of the last weight gradient has the smallest sum.

    Zhao et al. 2020, arXiv:2001.02610: behind non-negative activations only the true class's row is negative.
    """
    last = [tensor for tensor in gradient_estimate(observation).values() if tensor.dim() == 2][-1]
    return last.sum(1).argmin().reshape(1)
