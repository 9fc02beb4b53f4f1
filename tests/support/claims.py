"""Which attack works on which network."""

from __future__ import annotations

MODELS = ("lenet", "cnn64", "mlp", "resnet18")


CLAIMS: dict[str, tuple[str, ...]] = {
    "auto": (*MODELS, "vit"),
    "tokens": ("vit",),
    "convolutions": ("resnet18",),
    "matching": MODELS,
    "dlg": ("lenet",),
    "idlg": ("lenet",),
    "inverting_gradients": MODELS,
    "gradinversion": ("resnet18",),
    "analytic": ("lenet", "cnn64", "mlp"),
    "deep_prior": ("lenet", "cnn64", "mlp"),
    "features": ("resnet18", "cnn64"),
}
"""The models on which each attack beats a grey image from one image's gradient.

On resnet18, whose initial weights give little away within a test's iterations, it beats its own answer to noise.
"""
