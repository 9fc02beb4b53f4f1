"""The file that `gradsweep audit --update` reads, written with safetensors alone: copy this beside your own code.

Needs: pip install safetensors torch
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file


def save_update(
    path: str | Path, before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor], **facts: float
) -> None:
    """Write two state dicts and what is known of the training: lr, momentum, steps, batch_size, examples."""
    sides = {"before": before, "after": after}
    tensors = {
        f"{side}.{name}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for side, weights in sides.items()
        for name, value in weights.items()
    }
    save_file(tensors, path, metadata={"gradsweep_facts": json.dumps(facts)})
