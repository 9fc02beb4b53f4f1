"""What a kernel meets at each place, as a view of the padded images."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

Pair = tuple[int, int]
"""(rows, columns)."""


def neighbourhoods(
    images: Tensor, places: Pair, *, kernel: Pair, stride: Pair, dilation: Pair, before: Pair, after: Pair
) -> Tensor:
    """Of images (N, I, H, W) a view (N, *places, *kernel, I).

    So many zeros as `before` says come in front of the images' rows and columns, as `after` says behind them.
    """
    padded = functional.pad(images.permute(0, 2, 3, 1), (0, 0, before[1], after[1], before[0], after[0]))
    image, row, column, channel = padded.stride()
    strides = (row * stride[0], column * stride[1], row * dilation[0], column * dilation[1])
    return padded.as_strided((len(images), *places, *kernel, images.shape[1]), (image, *strides, channel))
