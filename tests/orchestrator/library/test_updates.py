"""Updates: between weights, in files of every kind, defended, and read without running anything."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from defenses.compression.compression import Prune
from defenses.compression.soteria import Soteria
from defenses.mechanism.noise import NoiseOnly
from fl_core.base.errors import InputError
from fl_core.federation.client import LocalTraining
from orchestrator.library.files import load_gradient, load_update, save_update
from orchestrator.library.simulate import defend, observe
from orchestrator.library.updates import Update
from tests.support.signals import CLASSES, SPEC, gradient, labels, network, pictures


def _moved() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    before = dict(network(0).state_dict())
    return before, {name: value + 0.01 for name, value in before.items()}


@pytest.mark.parametrize("kind", ["safetensors", "pt", "npz", "lists"])
def test_updates_come_from_files_of_every_kind(tmp_path: Path, kind: str) -> None:
    paths = {}
    for side, weights in zip(("before", "after"), _moved(), strict=True):
        path = paths[side] = tmp_path / f"{side}.{'npz' if kind == 'lists' else kind}"
        arrays = {name: value.numpy() for name, value in weights.items()}
        match kind:
            case "safetensors":
                save_file(weights, path)
            case "pt":
                torch.save(weights, path)
            case "npz":
                np.savez(path, **arrays)
            case "lists":
                np.savez(path, *arrays.values())
    update = load_update(before=paths["before"], after=paths["after"], model=network())
    assert update.tensors.keys() == network().state_dict().keys()
    for value in update.tensors.values():
        torch.testing.assert_close(value, torch.full_like(value, 0.01), atol=1e-6, rtol=0)


def test_an_update_and_its_facts_go_through_a_file(tmp_path: Path) -> None:
    before, after = _moved()
    save_update(tmp_path / "u.safetensors", before, after, lr=0.1, steps=2, examples=8)
    update = load_update(tmp_path / "u.safetensors")
    assert update.facts == {"lr": 0.1, "steps": 2.0, "examples": 8.0}
    assert all(torch.equal(value, after[name] - before[name]) for name, value in update.tensors.items())
    assert all(torch.equal(value, before[name]) for name, value in update.before.items())


def test_tied_weights_can_be_saved(tmp_path: Path) -> None:
    value = torch.ones(3)
    save_update(tmp_path / "u.safetensors", {"a": value, "b": value}, {"a": value + 1, "b": value + 1})
    assert set(load_update(tmp_path / "u.safetensors").tensors) == {"a", "b"}


def test_a_gradient_comes_from_a_list_of_arrays(tmp_path: Path) -> None:
    model = network()
    sent = gradient(model, pictures(1), labels(1))
    np.savez(tmp_path / "g.npz", *(value.numpy() for value in sent.values()))
    found = load_gradient(tmp_path / "g.npz", model=model)
    assert all(torch.equal(found[name], value) for name, value in sent.items())


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ({"a": torch.zeros(2)}, "lack 'b', which those before have"),
        (
            {"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(1)},
            "hold 'c', which those before lack",
        ),
        (
            {"a": torch.zeros(2), "b": torch.zeros(4)},
            r"'b' has shape \(4,\) after training and \(3,\) before",
        ),
    ],
)
def test_weights_of_two_networks_are_refused(after: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Update.between({"a": torch.zeros(2), "b": torch.zeros(3)}, after)


def test_unknown_facts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown fact 'learning_rate'. Did you mean 'lr'"):
        save_update(tmp_path / "u", {}, {}, learning_rate=1.0)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ('{"lr": -1}', "lr = -1: must be a finite number above 0"),
        ('{"lr": NaN}', "lr = nan: must be a finite number above 0"),
        ('{"steps": Infinity}', "steps = inf: must be a whole number"),
        ('{"steps": 2.5}', "steps = 2.5: must be a whole number"),
        ('{"examples": "8"}', "examples = '8': must be a number"),
        ('{"momentum": 1}', r"momentum = 1: must be in \[0, 1\)"),
        ("[1]", "they are no mapping"),
        ("{", "cannot be read"),
    ],
)
def test_facts_that_cannot_be_are_refused_with_the_file(tmp_path: Path, facts: str, message: str) -> None:
    before, after = _moved()
    tensors = {f"before.{name}": value for name, value in before.items()}
    tensors |= {f"after.{name}": value for name, value in after.items()}
    save_file(tensors, tmp_path / "u.safetensors", metadata={"gradsweep_facts": facts})
    with pytest.raises(InputError, match=message) as caught:
        load_update(tmp_path / "u.safetensors")
    assert "u.safetensors" in str(caught.value)


@pytest.mark.parametrize("damage", ["empty", "short", "header", "state dict"])
def test_what_is_no_file_of_save_update_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "u.safetensors"
    before, after = _moved()
    save_update(path, before, after)
    whole = path.read_bytes()
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "short":
            path.write_bytes(whole[:2000])
        case "header":
            path.write_bytes((2**62).to_bytes(8, "little") + whole[8:])
        case "state dict":
            torch.save({"before.a": torch.zeros(1), "after.a": torch.ones(1)}, path)
    with pytest.raises(InputError, match="is no file of gradsweep"):
        load_update(path)


def test_a_file_without_a_suffix_is_read_as_it_was_written(tmp_path: Path) -> None:
    before, after = _moved()
    save_update(tmp_path / "u", before, after, lr=0.1)
    assert load_update(tmp_path / "u").facts == {"lr": 0.1}


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_the_type_of_stored_weights_is_kept(kind: torch.dtype) -> None:
    before, after = ({name: value.to(kind) for name, value in side.items()} for side in _moved())
    update = Update.between(before, after)
    assert update.stored == (torch.float32 if kind == torch.float64 else kind)
    assert all(value.dtype == torch.float32 for value in update.tensors.values())


@pytest.mark.parametrize("kind", [torch.complex64, torch.int64])
def test_weights_that_are_no_real_numbers_any_more_are_refused(kind: torch.dtype) -> None:
    with pytest.raises(InputError, match="'a' is"):
        Update.between({"a": torch.zeros(2)}, {"a": torch.zeros(2, dtype=kind)})


def _npy(array: np.ndarray, *, shape: tuple[int, ...] | None = None) -> bytes:
    """An array as `.npy`, with another shape in its header where one is given."""
    target = io.BytesIO()
    header = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(target, header if shape is None else {**header, "shape": shape})
    return target.getvalue() + array.tobytes()


class _Runs:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("code from a file ran",))


@pytest.mark.parametrize(
    "kind", ["huge", "objects", "bomb", "short", "pickle", "packed", "text", "folder", "no"]
)
def test_hostile_files_are_one_line(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / ("w.pt" if kind in ("pickle", "packed") else "w.npz")
    match kind:
        case "huge":
            with zipfile.ZipFile(path, "w") as content:
                content.writestr("a.npy", _npy(np.zeros(3, dtype=np.float32), shape=(10**12,)))
        case "short":
            with zipfile.ZipFile(path, "w") as content:
                content.writestr("a.npy", _npy(np.zeros(3, dtype=np.float32))[:-4])
        case "bomb":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as content:
                content.writestr("a.npy", _npy(np.zeros(30_000_000, dtype=np.float32)))
        case "objects":
            np.savez(path, a=np.array([_Runs()], dtype=object))
        case "pickle":
            torch.save({"a": _Runs()}, path)
        case "packed":
            torch.save({"a": torch.zeros(1000)}, tmp_path / "plain.pt")
            with (
                zipfile.ZipFile(tmp_path / "plain.pt") as plain,
                zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as to,
            ):
                for entry in plain.namelist():
                    to.writestr(entry, plain.read(entry))
        case "text":
            path.write_text("no arrays")
        case "folder":
            path.mkdir()
    with pytest.raises(InputError, match=r"before: .*w\.(npz|pt)"):
        load_update(before=path, after=path)
    assert "ran" not in capsys.readouterr().out


def test_a_defended_update_is_what_a_client_under_the_defense_would_send() -> None:
    model, images = network(), pictures(2)
    local = LocalTraining(lr=0.1, momentum=0.0, batch_size=2)
    update = observe(model, images, labels(2), image=SPEC, classes=CLASSES, local=local)
    assert isinstance(update, Update)
    weaker = defend(update, [Prune(ratio=0.9)])
    assert isinstance(weaker, Update)
    numbers = torch.cat([value.flatten() for value in weaker.tensors.values()])
    assert float((numbers == 0).float().mean()) == pytest.approx(0.9, abs=0.01)
    kept = {name: value != 0 for name, value in weaker.tensors.items()}
    assert all(
        torch.equal(weaker.tensors[name][mask], update.tensors[name][mask]) for name, mask in kept.items()
    )
    noisy, again = (defend(dict(update.tensors), [NoiseOnly(sigma=0.1)], seed=3) for _ in range(2))
    assert isinstance(noisy, dict)
    assert isinstance(again, dict)
    assert all(torch.equal(noisy[name], again[name]) for name in noisy)
    difference = torch.cat([(noisy[name] - update.tensors[name]).flatten() for name in noisy])
    assert float(difference.std()) == pytest.approx(0.1, rel=0.05)


def test_a_defense_that_needs_the_client_is_refused() -> None:
    with pytest.raises(InputError, match="soteria works on the gradient, which is not there"):
        defend({"a": torch.zeros(2)}, [Soteria()])


def test_observe_is_the_gradient_that_autograd_gives() -> None:
    model, images = network(), pictures(3)
    seen = observe(model, images, labels(3), image=SPEC, classes=CLASSES)
    assert isinstance(seen, dict)
    for name, value in gradient(model, images, labels(3)).items():
        torch.testing.assert_close(seen[name], value)


@pytest.mark.parametrize(
    ("images", "classes", "message"),
    [
        (pictures(2) * 255, [0, 1], "must hold pixels from 0 to 1"),
        ((pictures(2) * 255).byte(), [0, 1], "divide by 255"),
        (pictures(2)[:, :1], [0, 1], r"is \(2, 1, 8, 8\): must be a tensor of shape \(N, 3, 8, 8\)"),
        (pictures(2), [0, 4], "labels must be 2 classes from 0 to 3"),
        (pictures(2), [0], "labels must be 2 classes"),
    ],
)
def test_wrong_images_and_labels_are_refused(images: torch.Tensor, classes: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        observe(network(), images, classes, image=SPEC, classes=CLASSES)


@pytest.mark.parametrize(
    ("sent", "defenses", "message"),
    [
        ([torch.zeros(2)], [Prune(ratio=0.9)], "the gradient is list: must be a mapping"),
        ({"a": "numbers"}, [Prune(ratio=0.9)], "'a' is str; must be a tensor"),
        ({"a": torch.ones(2)}, Prune(ratio=0.9), "defenses is Prune: must be a list"),
        ({"a": torch.ones(2)}, ["prune"], "defenses holds str: must be defenses of"),
        ({"a": torch.ones(2)}, [Prune], "defenses holds "),
    ],
)
def test_what_cannot_be_defended_is_a_sentence(sent: object, defenses: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        defend(sent, defenses)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "message"),
    [([0.5], "must be whole numbers"), (["cat"], "must be whole numbers"), ([4], "from 0 to 3")],
)
def test_labels_are_whole_numbers(given: list[object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        observe(network(), pictures(1), given, image=SPEC, classes=CLASSES)  # type: ignore[arg-type]
