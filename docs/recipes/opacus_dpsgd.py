"""Opacus: one step of DP-SGD, saved before and after, with the noise that it adds and without it.

python opacus_dpsgd.py PICTURES OUT
"""

import warnings
from pathlib import Path

import torch
from network import LR, arguments, make, pictures
from opacus import PrivacyEngine
from torch.utils.data import DataLoader, TensorDataset
from update_file import save_update


def train(data: Path, out: Path, noise_multiplier: float) -> None:
    """Clip each picture's gradient to norm 1, add noise, take one step, save the update."""
    torch.manual_seed(1)
    model = make()
    images, labels = pictures(data)
    engine = PrivacyEngine()
    private, optimizer, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=LR),
        data_loader=DataLoader(TensorDataset(images, labels), batch_size=len(labels)),
        noise_multiplier=noise_multiplier,
        max_grad_norm=1.0,
        poisson_sampling=False,
    )
    before = {name: value.clone() for name, value in private.state_dict().items()}
    for batch, classes in loader:
        torch.nn.functional.cross_entropy(private(batch), classes).backward()
        optimizer.step()
    path = out / f"opacus-{noise_multiplier:g}.safetensors"
    save_update(path, before, private.state_dict(), lr=LR, steps=1, examples=len(labels))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    data, out = arguments()
    for noise in (0.0, 0.001, 1.0):
        train(data, out, noise)
