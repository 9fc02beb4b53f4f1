"""PyTorch alone: the lines that a training loop needs around it, with SGD and with Adam.

python pytorch_loop.py PICTURES OUT
"""

from pathlib import Path

import torch
from network import LR, arguments, make, pictures
from update_file import save_update


def train(
    optimizer: torch.optim.Optimizer, model: torch.nn.Module, data: Path, path: Path, lr: float
) -> None:
    """One step on all pictures, saved before and after."""
    images, labels = pictures(data)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
    save_update(
        path, before, model.state_dict(), lr=lr, steps=1, batch_size=len(labels), examples=len(labels)
    )


if __name__ == "__main__":
    data, out = arguments()
    model = make()
    train(torch.optim.SGD(model.parameters(), lr=LR), model, data, out / "sgd.safetensors", LR)
    model = make()
    train(torch.optim.Adam(model.parameters(), lr=1e-3), model, data, out / "adam.safetensors", 1e-3)
