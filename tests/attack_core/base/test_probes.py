"""Noise that is sent backwards: its covariance, its draws, and what it need not load."""

from __future__ import annotations

import subprocess
import sys

import torch

from attack_core.base.probes import sent_back
from fl_core.base.rng import generator


def test_the_covariance_is_that_of_the_jacobian_and_the_same_draws_give_the_same() -> None:
    matrix = torch.randn((5, 12), generator=generator("matrix"))
    images = torch.rand((1, 3, 2, 2), generator=generator("images"))

    def backs() -> torch.Tensor:
        sent = sent_back(lambda x: x.flatten(1) @ matrix.mT, images, 4000, generator("probes"))
        return torch.cat([each.flatten(1) for each in sent])

    found = backs()
    right = matrix.mT @ matrix
    assert float((found.mT @ found / len(found) - right).norm()) < 0.1 * float(right.norm())
    assert torch.equal(found, backs())


def test_no_package_for_symbols_is_loaded() -> None:
    """It takes more than half a CPU-second of a process."""
    code = (
        "import sys, torch\n"
        "from attack_core.base.probes import sent_back\n"
        "list(sent_back(lambda x: 2 * x, torch.ones(1, 1, 2, 2), 2, torch.Generator()))\n"
        "sys.exit('sympy' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
