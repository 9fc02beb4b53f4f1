"""Networks of the user's own: built with their own values, checked before anything else is done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from fl_core.base.errors import InputError
from fl_core.base.own_code import OwnCode
from fl_core.base.rng import generator
from fl_core.federation.client import LocalTraining, weight_update
from fl_core.models.build import build_model, check_batch, initial_state
from fl_core.models.config import ModelConfig
from fl_core.models.forward import predict
from fl_core.models.weights import WeightsFile

_SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.scale = torch.tensor(2.0)  # neither parameter nor buffer
        self.shift = nn.Parameter(torch.rand(3, 1, 1))
        self.conv = nn.Conv2d(3, 4, 3, padding="same")
        self.norm = nn.GroupNorm(2, 4)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4, classes)
        self.register_buffer("steps", torch.tensor([5.0]))

    def forward(self, x):
        x = self.norm(self.conv(self.scale * x + self.shift)).relu().mean((2, 3))
        return self.fc(self.drop(x))

def make(classes=3):
    return Net(classes)

def tied(classes=3):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12), nn.Linear(12, classes))
    net[3].weight = net[1].weight
    return net

class HeadFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.body = nn.Linear(12, 4)
        self.register_buffer("places", torch.arange(4.0), persistent=False)

    def forward(self, x):
        return self.head(self.body(x.flatten(1)).relu() + self.places)

def one_relu():
    relu = nn.ReLU()
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), relu, nn.Linear(6, 4), relu, nn.Linear(4, 3))

def stochastic():
    rates = [rate.item() for rate in torch.linspace(0, 0.1, 2)]  # fails on the meta device
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Dropout(rates[1]))

class Reads(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.fc = nn.Linear(12, 3)
        self.register_buffer("gain", torch.tensor(2.0))
        self.register_buffer("shown", torch.tensor([True] * 6 + [False] * 6))

    def forward(self, x):
        return self.fc(torch.where(self.shown, float(self.gain) * self.norm(x).flatten(1), 0.0))

def number(): return 3
def empty(): return nn.Flatten()
def double(): return Net().double()
def frozen(): return Net().requires_grad_(False)
def pictures(): return nn.Conv2d(3, 3, 3, padding=1)
def wrong(): return nn.Linear(5, 3)
def needs(width): return Net()
"""


def _config(tmp_path: Path, name: str = "make", **settings: object) -> ModelConfig:
    (tmp_path / "net.py").write_text(_SOURCE)
    code = OwnCode.read(f"net.py:{name}", tmp_path, where="model.factory")
    return ModelConfig(**{"factory": code, "classes": 3, "image_size": 2} | settings)


def test_a_network_has_the_values_of_its_own_code(tmp_path: Path) -> None:
    config = _config(tmp_path)
    assert (config.kind, config.label) == ("own", "net.py:make")
    before = torch.random.get_rng_state()
    one, same, other = (initial_state(config, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state()), "global random state was touched"
    assert all(torch.equal(one.parameters[name], same.parameters[name]) for name in one.parameters)
    assert not torch.equal(one.parameters["shift"], other.parameters["shift"])
    assert 0 <= float(one.parameters["shift"].min()) <= float(one.parameters["shift"].max()) <= 1
    assert one.buffers["steps"].tolist() == [5.0]
    model = build_model(config)
    assert list(one.parameters) == [name for name, _ in model.named_parameters()]
    images = torch.randn(2, 3, 2, 2, generator=generator(0))
    logits = predict(model, one, images)
    torch.testing.assert_close(logits, predict(model, one, images), msg="dropout never drops")
    assert logits.shape == (2, 3)


def test_tied_layers_stay_tied(tmp_path: Path) -> None:
    config = _config(tmp_path, "tied")
    model, state = build_model(config), initial_state(config, generator(0))
    assert "3.weight" not in state.parameters
    images = torch.randn(1, 3, 2, 2, generator=generator(0))
    x, weight = images.flatten(1), state.parameters["1.weight"]
    hidden = (x @ weight.mT + state.parameters["1.bias"]).relu() @ weight.mT + state.parameters["3.bias"]
    wanted = hidden @ state.parameters["4.weight"].mT + state.parameters["4.bias"]
    torch.testing.assert_close(predict(model, state, images), wanted)


def test_code_that_computes_while_it_builds_works(tmp_path: Path) -> None:
    config = _config(tmp_path, "stochastic")
    assert predict(
        build_model(config), initial_state(config, generator(0)), torch.zeros(1, 3, 2, 2)
    ).shape == (1, 3)


def test_a_bottleneck_goes_in_front_of_the_last_layer(tmp_path: Path) -> None:
    plain, narrow = _config(tmp_path), _config(tmp_path, bottleneck=2)
    one, other = (initial_state(config, generator(1)) for config in (plain, narrow))
    assert torch.equal(one.parameters["conv.weight"], other.parameters["conv.weight"])
    assert torch.equal(one.parameters["fc.weight"], other.parameters["fc.last.weight"])
    assert other.parameters["fc.bottleneck.decoder.weight"].shape == (4, 2)
    for prefix in ("", "module."):
        held = {f"{prefix}{name}": value for name, value in {**one.parameters, **one.buffers}.items()}
        save_file(held, tmp_path / "w.safetensors")
        weights = WeightsFile.read("w.safetensors", tmp_path, where="model.weights")
        filled = initial_state(_config(tmp_path, bottleneck=2, weights=weights), generator(2))
        assert torch.equal(filled.parameters["fc.last.weight"], one.parameters["fc.weight"])


def test_a_bottleneck_precedes_the_layer_that_is_called_last_not_the_one_that_was_made_last(
    tmp_path: Path,
) -> None:
    names = initial_state(_config(tmp_path, "HeadFirst", bottleneck=2), generator(1)).parameters
    assert "head.bottleneck.decoder.weight" in names
    assert "body.weight" in names


def test_a_module_that_stands_twice_in_a_sequence_stays_there_twice_beside_a_bottleneck(
    tmp_path: Path,
) -> None:
    model = build_model(_config(tmp_path, "one_relu", bottleneck=2))
    assert isinstance(model, nn.Sequential)
    kinds = [type(module).__name__ for module in model]
    assert kinds == ["Flatten", "Linear", "ReLU", "Linear", "ReLU", "Bottleneck", "Linear"]


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_of_tied_layers_are_read_under_both_names_and_under_one(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "net.py").write_text(_SOURCE)
    net = OwnCode.read("net.py:tied", tmp_path, where="model.factory").load()()
    path = tmp_path / f"tied.{suffix}"
    if suffix == "pt":
        torch.save(net.state_dict(), path)
    else:
        save_model(net, str(path))
    weights = WeightsFile.read(path.name, tmp_path, where="model.weights")
    found = initial_state(_config(tmp_path, "tied", weights=weights), generator(1))
    assert torch.equal(found.parameters["1.weight"], net[1].weight.detach())
    held = net.state_dict() | {"3.weight": torch.zeros(12, 12)}
    torch.save(held, tmp_path / "torn.pt")
    weights = WeightsFile.read("torn.pt", tmp_path, where="model.weights")
    with pytest.raises(
        InputError, match=r"'3.weight' and '1.weight' are one tensor in the network, and differ"
    ):
        initial_state(_config(tmp_path, "tied", weights=weights), generator(1))


def test_weights_need_no_buffer_that_a_state_dict_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(_SOURCE)
    net = OwnCode.read("net.py:HeadFirst", tmp_path, where="model.factory").load()()
    torch.save(net.state_dict(), tmp_path / "w.pt")
    weights = WeightsFile.read("w.pt", tmp_path, where="model.weights")
    found = initial_state(_config(tmp_path, "HeadFirst", weights=weights), generator(1))
    assert torch.equal(found.parameters["head.weight"], net.head.weight.detach())
    assert found.buffers["places"].tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("number", {}, "net.py:number returned int: must be a torch.nn.Module"),
        ("empty", {}, "net.py:empty returned a network without parameters"),
        ("double", {}, "net.py:double: .* is torch.float64; must be torch.float32"),
        ("frozen", {}, "No parameter of the network requires a gradient"),
        ("pictures", {}, r"turns one picture into a tensor of shape \(1, 3, 2, 2\)"),
        ("wrong", {}, "net.py:wrong failed on a picture of 3x2x2: RuntimeError"),
        ("make", {"classes": 4}, "has 3 outputs for 4 classes; make it return 4, by model.args"),
        ("make", {"args": {"clases": 4}}, "model.args of net.py:make: 'clases'. Did you mean 'classes'"),
        ("needs", {}, "net.py:needs: missing a required argument: 'width'; give it in model.args"),
        ("make", {"args": {"classes": -1}}, "net.py:make failed when it was called with"),
        ("empty", {"bottleneck": 3}, "without parameters"),
    ],
)
def test_what_is_no_network_for_these_pictures_is_refused(
    tmp_path: Path, name: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build_model(_config(tmp_path, name, **settings))


def test_a_network_of_torchvision_is_taken_by_its_name() -> None:
    code = OwnCode.read("torchvision.models:squeezenet1_1", Path(), where="model.factory")
    config = ModelConfig(factory=code, args={"num_classes": 4}, classes=4, image_size=64)
    state = initial_state(config, generator(0))
    assert predict(build_model(config), state, torch.zeros(1, 3, 64, 64)).shape == (1, 4)


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "parallel.pt", "compiled.pt", "nested.pt"])
def test_weights_come_from_a_file(tmp_path: Path, suffix: str) -> None:
    config = _config(tmp_path)
    wanted = initial_state(config, generator(5))
    tensors = {**wanted.parameters, **wanted.buffers}
    path = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        save_file(dict(tensors), path)
    elif suffix == "nested.pt":
        torch.save({"state_dict": tensors, "epoch": 3}, path)
    else:
        prefix = {"parallel.pt": "module.", "compiled.pt": "_orig_mod."}.get(suffix, "")
        torch.save({f"{prefix}{name}": value for name, value in tensors.items()}, path)
    weights = WeightsFile.read(path.name, tmp_path, where="model.weights")
    found = initial_state(_config(tmp_path, weights=weights), generator(1))
    assert all(torch.equal(found.parameters[name], value) for name, value in wanted.parameters.items())
    assert torch.equal(found.buffers["steps"], wanted.buffers["steps"])


def test_a_zoo_network_takes_weights_too_and_a_bottleneck_is_drawn(tmp_path: Path) -> None:
    plain = ModelConfig(kind="lenet", image_size=16)
    state = initial_state(plain, generator(5))
    save_file(dict(state.parameters), tmp_path / "w.safetensors")
    weights = WeightsFile.read("w.safetensors", tmp_path, where="model.weights")
    found = initial_state(ModelConfig(kind="lenet", image_size=16, weights=weights), generator(1))
    assert torch.equal(found.parameters["fc.weight"], state.parameters["fc.weight"])
    wrapped = {f"module.{name}": value for name, value in state.parameters.items()}
    save_file(wrapped, tmp_path / "module.safetensors")
    for name in ("w", "module"):
        weights = WeightsFile.read(f"{name}.safetensors", tmp_path, where="model.weights")
        narrow = initial_state(replace(plain, weights=weights, bottleneck=3), generator(1)).parameters
        assert narrow["bottleneck.encoder.weight"].any()
        assert torch.equal(narrow["fc.weight"], state.parameters["fc.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "w.safetensors lacks 'fc.bias'"),
        ("extra", "holds 'fc.biases', which the network lacks. Did you mean 'fc.bias'"),
        ("shape", r"'fc.bias' has shape \(5,\); the network's is \(2,\)"),
        ("changed", "has changed since the sweep began"),
        ("gone", "does not exist"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: str, message: str) -> None:
    plain = ModelConfig(kind="lenet", image_size=16)
    tensors = dict(initial_state(plain, generator(5)).parameters)
    if change == "missing":
        del tensors["fc.bias"]
    elif change == "extra":
        tensors["fc.biases"] = torch.zeros(2)
    elif change == "shape":
        tensors["fc.bias"] = torch.zeros(5)
    path = tmp_path / "w.safetensors"
    save_file(tensors, path)
    weights = WeightsFile.read("w.safetensors", tmp_path, where="model.weights")
    if change == "changed":
        save_file({**tensors, "fc.bias": torch.ones(2)}, path)
    elif change == "gone":
        path.unlink()
    with pytest.raises(InputError, match=message):
        initial_state(ModelConfig(kind="lenet", image_size=16, weights=weights), generator(1))


class _Runs:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("code from a file of weights ran",))


@pytest.mark.parametrize(
    "name", ["code.pt", "text.pt", "text.safetensors", "list.pt", "nothing.pt", "number.pt"]
)
def test_hostile_files_of_weights_are_one_line(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    match name:
        case "code.pt":
            torch.save({"fc.bias": _Runs()}, path)
        case "list.pt":
            torch.save([torch.zeros(2)], path)
        case "nothing.pt":
            torch.save({}, path)
        case "number.pt":
            torch.save({"fc.bias": 3}, path)
        case _:
            path.write_text("no weights")
    weights = WeightsFile.read(name, tmp_path, where="model.weights")
    with pytest.raises(InputError, match=r"model.weights"):
        weights.tensors()
    assert "ran" not in capsys.readouterr().out


def test_a_network_that_reads_values_trains_with_its_statistics_moving(tmp_path: Path) -> None:
    """Buffers of truth values have no difference: they stay, and running statistics move."""
    config = _config(tmp_path, "Reads", batch_norm="train")
    check_batch(config, 2)
    state, model = initial_state(config, generator("state")), build_model(config)
    batch = torch.rand((2, 3, 2, 2), generator=generator("images")), torch.tensor([0, 1])
    local = LocalTraining(batch_size=2, lr=0.1)
    update, _ = weight_update(model, state, [batch], local, client=0, examples=2)
    assert update.buffers.keys() == {
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
        "gain",
    }
    assert float(update.buffers["norm.num_batches_tracked"]) == 1
    assert float(update.buffers["gain"]) == 0


def test_a_network_that_reads_values_is_told_of_batches_that_batchnorm_cannot_normalise(
    tmp_path: Path,
) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def flat(): return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 3))\n"
    )
    code = OwnCode.read("net.py:flat", tmp_path, where="model.factory")
    config = ModelConfig(factory=code, classes=3, image_size=2, batch_norm="train")
    check_batch(config, 2)
    with pytest.raises(InputError, match="one value a channel"):
        check_batch(config, 1)
