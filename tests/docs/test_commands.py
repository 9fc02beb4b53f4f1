"""The commands of the documentation run as written, on a small quickstart, pictures and an update that lie ready."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fl_core.data.synthetic.faces import write_faces
from orchestrator.library.files import save_update
from tests.support.command import gradsweep
from tests.support.pages import OWN_TEST, Block, blocks
from tests.support.paths import ROOT
from tests.support.pictures import write_pictures
from tests.support.shell import OURS, commands

SETTINGS = (
    "victims.test=4",
    "victims.tuning=1",
    "model.kind=lenet",
    "model.image_size=16",
    "study.suggestions=1",
    "study.startup=1",
    "study.lag=1",
    "utility=null",
    "execution.controls=false",
    "data.train=16",
    "data.valid=20",
    "data.public=20",
    "attackers.0.attack.iterations=3",
    "attackers.1.attack.analytic.inversion.evaluations=30",
)
SHORT = ["--address", "serial", *(word for setting in SETTINGS for word in ("--set", setting))]
"""What the test adds to a run of the quickstart, so that it takes seconds and not minutes."""
SHORTENED = {
    "sweeps/quickstart.yaml": SHORT,
    "FILE.yaml": SHORT,
    "sweeps/own-pictures.yaml": ["--set", "victims.test=1"],
}
"""Sweep files and what is added to a run of theirs."""
DRY = ["--dry-run", "--no-calibrate"]
"""What is added to a run of any other: tests of the suites run those."""
PLACES = {"DIR1": "results/quickstart", "DIR2": "results/quickstart", "DIR": "results/quickstart"}
"""What stands in the place of a reader's own results folder."""
BLOCKS = [
    block for block in blocks() if block.language == "sh" and not block.not_run and block.page not in OWN_TEST
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with all that commands name: sweeps, results of a small quickstart, pictures, a network, an update."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "sweeps", folder / "sweeps")
    shutil.copy(ROOT / "sweeps" / "quickstart.yaml", folder / "FILE.yaml")
    shutil.copy(ROOT / "docs" / "recipes" / "network.py", folder / "my_net.py")
    write_faces(folder / "faces", num=200)
    write_update(write_pictures(folder / "pictures", 320), folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        done = gradsweep("sweep", "sweeps/quickstart.yaml", "--out", "results/quickstart", *SHORT)
        assert done.returncode == 0, done.stderr
        yield folder


def write_update(pictures: Path, folder: Path) -> None:
    """A network's weights before and after a step on one picture, and both in one file: what commands call FILE."""
    parts = runpy.run_path(str(folder / "my_net.py"))
    images, labels = parts["pictures"](pictures)
    network: nn.Module = parts["make"]()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    nn.functional.cross_entropy(network(images[:1]), labels[:1]).backward()
    optimizer.step()
    after: dict[str, Tensor] = network.state_dict()
    save_file(before, folder / "global.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in after.items()}, folder / "client.safetensors")
    save_update(folder / "FILE", before, after, lr=0.01)


# A block may run several sweeps; it took two minutes alone, and five beside two other test runs.
@pytest.mark.timeout(1200)
@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_commands_run(place: Path, block: Block) -> None:
    for program, *words in commands(block.text):
        if program == "mkdir":
            Path(words[-1]).mkdir()
            continue
        assert program in OURS
        given = _given(words)
        done = gradsweep(*given)
        assert done.returncode == 0, (given, done.stdout[-2000:], done.stderr[-2000:])


def _given(words: list[str]) -> list[str]:
    """A command's words, with what lies ready in the place of the reader's own, and made short."""
    if words[0] == "sweep":
        return [*words, *SHORTENED.get(words[1], DRY)]
    if words[0] == "run":
        return [
            *("faces" if word == "DIR" else word for word in words),
            "--victims",
            "1",
            "--data-subset",
            "80",
        ]
    if words[0] == "audit":
        return [
            *("audits" if word == "DIR" else word for word in words),
            "--clients",
            "2",
            "--effort",
            "0.05",
        ]
    return [PLACES.get(word, word) for word in words]
