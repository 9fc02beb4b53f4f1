"""What a sweep file spells in short: own code, weights, the input, classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fl_core.base.errors import InputError
from fl_core.base.shape import ImageShape
from orchestrator.config.parse import cell_settings, load_sweep
from orchestrator.config.plain import build, to_plain
from orchestrator.config.sweep import SweepConfig
from orchestrator.io.identity import content_hash
from orchestrator.results.folder import check_folder, claim_folder

_NET = "from torch import nn\ndef make(classes=2):\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, classes))\n"
_OWN = "name: t\nmodel: {factory: nets/net.py:make, args: {classes: 2}, classes: 2, input: {height: 2, width: 2}}\n"


def _load(folder: Path, text: str = _OWN, *overrides: str) -> SweepConfig:
    (folder / "nets").mkdir(exist_ok=True)
    (folder / "nets" / "net.py").write_text(_NET)
    path = folder / "sweep.yaml"
    path.write_text(text)
    return load_sweep(path, overrides)


def test_own_code_is_found_beside_the_file_and_its_text_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    model = _load(tmp_path).model
    assert model.factory is not None
    assert (model.factory.place, model.factory.source) == ("net.py:make", _NET)
    assert model.args == {"classes": 2}
    assert model.shape == ImageShape(channels=3, height=2, width=2)


def test_a_config_with_own_code_goes_through_its_plain_form(tmp_path: Path) -> None:
    sweep = _load(tmp_path)
    assert build(SweepConfig, to_plain(sweep), where="x") == sweep


def test_files_of_overrides_are_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "other.py").write_text(_NET.replace("make", "build"))
    monkeypatch.chdir(here)
    # What an override takes the place of is not read.
    for text in (_OWN, _OWN.replace("nets/net.py", "nets/absent.py")):
        factory = _load(tmp_path, text, "model.factory=other.py:build").model.factory
        assert factory is not None
        assert factory.place == "other.py:build"


def test_cells_have_their_own_networks(tmp_path: Path) -> None:
    text = "name: t\ncells: [{name: a}, {name: b, differs: {model.factory: 'nets/net.py:make', model.classes: 2}}]\n"
    sweep = _load(tmp_path, text)
    alone = [cell_settings(sweep, cell).model for cell in sweep.cells]
    assert [model.label for model in alone] == ["cnn64", "net.py:make"]


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        ("{height: 8, width: 12}", ImageShape(channels=3, height=8, width=12)),
        ("{height: 8, width: 12, channels: 1}", ImageShape(channels=1, height=8, width=12)),
    ],
)
def test_an_input_is_the_size_and_the_channels(tmp_path: Path, given: str, shape: ImageShape) -> None:
    assert _load(tmp_path, f"name: t\nmodel: {{input: {given}}}\n").model.shape == shape


def test_an_input_holds_the_normalisation(tmp_path: Path) -> None:
    given = "{height: 8, width: 8, mean: [0.1, 0.2, 0.3], std: [1.0, 2.0, 3.0]}"
    model = _load(tmp_path, f"name: t\nmodel: {{input: {given}}}\n").model
    assert (model.mean, model.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("{input: {height: 8}}", "model.input: must have height and width"),
        ("{input: 8}", "model.input: must be a mapping"),
        ("{input: {height: 8, widht: 8}}", "unknown key 'widht'. Did you mean 'width'"),
        ("{input: {height: 8, width: 8}, image_size: 8}", "must not stand beside image_size"),
        ("{input: {height: 8, width: 8, mean: [0.5]}}", "must be a list of 3 numbers"),
        ("{factory: nets/nat.py:make}", "nat.py does not exist. Did you mean 'net.py'"),
        ("{factory: nets/net.py}", "model.factory = 'nets/net.py': must be FILE.py:NAME"),
        ("{factory: 3}", "model.factory = 3: must be"),
        ("{weights: nets/w.safetensors}", "model.weights: .*w.safetensors does not exist"),
        ("{kind: lenet, factory: nets/net.py:make}", "factory .*: must be left out for kind: lenet"),
        ("{kind: own}", "factory = None: must be FILE.py:FUNCTION"),
        ("{args: {classes: 3}}", "left out for kind: cnn64; it is for own"),
        ("{kind: vit, vit: {widht: 8}}", "unknown key 'model.vit.widht'. Did you mean 'width'"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, model: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _load(tmp_path, f"name: t\nmodel: {model}\n")


def test_classes_that_are_not_given_are_left_to_the_data(tmp_path: Path) -> None:
    assert _load(tmp_path, "name: t\n").model.classes is None
    assert _load(tmp_path, "name: t\nmodel: {classes: 7}\n").model.classes == 7
    assert _load(tmp_path, "name: t\n", "model.classes=5").model.classes == 5


def test_the_text_of_the_code_is_part_of_the_identity_and_its_folder_is_not(tmp_path: Path) -> None:
    sweep = _load(tmp_path)
    moved = tmp_path / "moved"
    moved.mkdir()
    assert content_hash(_load(moved).model) == content_hash(sweep.model)
    (tmp_path / "nets" / "net.py").write_text(f"{_NET}# changed\n")
    assert content_hash(load_sweep(tmp_path / "sweep.yaml").model) != content_hash(sweep.model)


def test_a_folder_refuses_changed_code_and_takes_moved_weights(tmp_path: Path) -> None:
    tensors = {"1.weight": torch.zeros(2, 12), "1.bias": torch.zeros(2)}
    text = _OWN.replace("classes: 2,", "classes: 2, weights: W,")
    for name in ("one", "two"):
        save_file(tensors, tmp_path / f"{name}.safetensors")
    sweep, moved = (_load(tmp_path, text.replace("W", f"{name}.safetensors")) for name in ("one", "two"))
    out = tmp_path / "out"
    out.mkdir()
    claim_folder(out, sweep)
    assert check_folder(out, moved, finished=True)
    save_file({**tensors, "1.bias": torch.ones(2)}, tmp_path / "two.safetensors")
    with pytest.raises(InputError, match=r"model.weights.digest was"):
        check_folder(out, load_sweep(tmp_path / "sweep.yaml"), finished=True)
    (tmp_path / "nets" / "net.py").write_text(_NET + "#" * 3000)
    save_file(tensors, tmp_path / "two.safetensors")
    with pytest.raises(
        InputError, match=r"model.factory.source was .* and is now .*\.\.\. \(hash \w+\); use another --out"
    ):
        check_folder(out, load_sweep(tmp_path / "sweep.yaml"), finished=True)
