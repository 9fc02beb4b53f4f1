"""Metrics against closed forms and against another library's definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from attack_core.metrics.metrics import assign, load_lpips, mse, psnr, psnr_range4, ssim


def test_psnr_by_hand() -> None:
    black, other = torch.full((1, 3, 8, 8), -1.0), torch.full((1, 3, 8, 8), -0.8)
    assert float(mse(black, other)) == pytest.approx(0.01, rel=1e-5)
    assert float(psnr(black, other)) == pytest.approx(20.0, abs=1e-4)
    assert float(psnr_range4(black, other)) == pytest.approx(20.0 + 6.0206, abs=1e-3)
    assert float(psnr(black, black)) == math.inf
    assert float(psnr(torch.full_like(black, -7.0), black)) == math.inf, "pixels are clamped"


def test_ssim_is_the_windowed_one() -> None:
    """Wang et al. 2004 from Gaussian filters, borders left out, as published."""
    random = torch.Generator().manual_seed(0)
    a = torch.rand((1, 3, 64, 64), generator=random)
    b = (a + 0.2 * torch.rand((1, 3, 64, 64), generator=random)).clamp(0, 1)
    expected = []
    for x, y in zip(a[0].double().numpy(), b[0].double().numpy(), strict=True):

        def blur(image: np.ndarray) -> np.ndarray:
            return gaussian_filter(image, 1.5, truncate=5 / 1.5)[5:-5, 5:-5]

        mx, my = blur(x), blur(y)
        vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
        c1, c2 = 0.01**2, 0.03**2
        expected.append(
            (((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()
        )
    assert float(ssim(a * 2 - 1, b * 2 - 1)) == pytest.approx(np.mean(expected), abs=1e-4)
    assert float(ssim(a * 2 - 1, a * 2 - 1)) == pytest.approx(1.0)


@given(order=st.permutations(range(5)), kept=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_assignment_undoes_any_order_and_leaves_out_what_is_missing(order: list[int], kept: int) -> None:
    truth = torch.linspace(-1, 1, 5)[:, None, None, None].expand(5, 3, 4, 4)
    found = assign(truth[order[:kept]], truth)
    for i, j in enumerate(found):
        assert j is None if i not in order[:kept] else order[j or 0] == i


def test_lpips_is_never_faked(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    absent = load_lpips()
    assert absent.distance is None
    assert f"there is no {tmp_path / 'checkpoints' / 'alexnet-owt-7be5be79.pth'}" in absent.reason
    assert "TORCH_HOME" in absent.reason
    folder = tmp_path / "checkpoints"  # type: ignore[operator]
    folder.mkdir()
    (folder / "alexnet-owt-7be5be79.pth").write_bytes(b"something else")
    forged = load_lpips()
    assert forged.distance is None
    assert "hash" in forged.reason
