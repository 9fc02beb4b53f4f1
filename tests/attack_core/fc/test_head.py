"""A network's fully connected end is found as it is, and everything before it runs alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from attack_core.fc.head import Head, PixelMap, Prefix, find_head
from attack_core.inversion.continuation import Continuation
from attack_core.inversion.refinement import Features, feature_mismatch
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.shape import ImageShape
from fl_core.base.types import ModelState
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.models.forward import predict
from tests.support.local_training import CNN, LENET, RESNET, some_images
from tests.support.networks import built, some, state_of

MLP = ModelConfig(kind="mlp", image_size=16)
MODELS = [CNN, LENET, MLP, RESNET]
LAYERS = {"cnn64": ("fc1", "fc2"), "lenet": ("fc",), "mlp": ("fc1", "fc2", "fc3"), "resnet18": ("fc",)}


def own(**layers: nn.Module) -> tuple[nn.Module, ModelState]:
    """A network of one's own for 8-pixel images."""
    model = nn.Sequential(OrderedDict(layers)).requires_grad_(False)
    return model, ModelState(parameters=dict(model.named_parameters()), buffers=dict(model.named_buffers()))


@pytest.mark.parametrize("config", MODELS, ids=lambda c: c.kind)
def test_the_tail_of_every_model(config: ModelConfig) -> None:
    model, state = build_model(config), initial_state(config, generator("model", 0))
    head = find_head(model, state, config.shape)
    assert head.layers == LAYERS[config.kind]
    assert head.first == head.layers[0]
    assert head.pixels is (config.kind == "mlp")
    for name in head.layers:
        assert isinstance(model.get_submodule(name), nn.Linear)


def test_only_relus_join_linear_layers() -> None:
    size = 3 * 8 * 8
    cases: dict[str, tuple[dict[str, nn.Module], tuple[str, ...]]] = {
        "nothing between": ({"a": nn.Linear(size, 9), "b": nn.Linear(9, 2)}, ("b",)),
        "sigmoid": ({"a": nn.Linear(size, 9), "s": nn.Sigmoid(), "b": nn.Linear(9, 2)}, ("b",)),
        "relu": ({"a": nn.Linear(size, 9), "r": nn.ReLU(), "b": nn.Linear(9, 2)}, ("a", "b")),
        "in place": ({"a": nn.Linear(size, 9), "r": nn.ReLU(inplace=True), "b": nn.Linear(9, 2)}, ("a", "b")),
        "sigmoid earlier": (
            {
                "a": nn.Linear(size, 9),
                "s": nn.Sigmoid(),
                "b": nn.Linear(9, 9),
                "r": nn.ReLU(),
                "c": nn.Linear(9, 2),
            },
            ("b", "c"),
        ),
        "norm between": (
            {"a": nn.Linear(size, 9), "n": nn.LayerNorm(9), "r": nn.ReLU(), "b": nn.Linear(9, 2)},
            ("b",),
        ),
    }
    for name, (layers, expected) in cases.items():
        model, state = own(flatten=nn.Flatten(), **layers)
        head = find_head(model, state, ImageShape.square(8))
        assert head.layers == expected, name
        assert head.pixels is (head.first == "a"), name


def test_pixels_means_the_image_itself() -> None:
    """As many features as pixels are not enough."""
    model, state = own(conv=nn.Conv2d(3, 3, 1), flatten=nn.Flatten(), fc=nn.Linear(192, 2))
    assert find_head(model, state, ImageShape.square(8)).pixels is False
    model, state = own(flatten=nn.Flatten(), fc=nn.Linear(192, 2))
    assert find_head(model, state, ImageShape.square(8)).pixels is True


def test_a_model_that_does_not_end_in_a_linear_layer_is_refused() -> None:
    model, state = own(conv=nn.Conv2d(3, 2, 8), flatten=nn.Flatten())
    with pytest.raises(InputError, match="last layer is not fully connected"):
        find_head(model, state, ImageShape.square(8))
    model, state = own(flatten=nn.Flatten(), fc=nn.Linear(192, 2), last=nn.Sigmoid())
    with pytest.raises(InputError, match="last layer is not fully connected"):
        find_head(model, state, ImageShape.square(8))


class Nested(nn.Module):
    """Linear layers whose ReLUs are functions and methods, in modules inside modules."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Sequential(nn.Dropout(), nn.ReLU()))
        self.inner = nn.Sequential(nn.Identity(), nn.Sequential(nn.Linear(2 * 8 * 8, 9), nn.Dropout()))
        self.last = nn.Linear(9, 3)
        self.between = between

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.between(self.inner(self.body(images).flatten(1))))  # type: ignore[no-any-return]


RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "functional": functional.relu,
    "method": lambda x: x.relu(),
    "in place": lambda x: functional.relu(x, inplace=True),
    "torch": torch.relu,
    "clamp": lambda x: x.clamp(min=0),
    "clamp_min": lambda x: x.clamp_min(0.0),
    "threshold": lambda x: functional.threshold(x, 0.0, 0.0),
    "twice": lambda x: x.relu().relu(),
    "reshaped": lambda x: x.relu()[:, :, None].contiguous().flatten(1),
}
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu6": functional.relu6,
    "gelu": functional.gelu,
    "leaky": functional.leaky_relu,
    "clamped above": lambda x: x.clamp(0.0, 1e6),
    "clamp elsewhere": lambda x: x.clamp(min=-1.0),
    "threshold elsewhere": lambda x: functional.threshold(x, 0.0, -1.0),
    "flipped": lambda x: x.relu().flip(1),
    "transposed": lambda x: x.relu().view(-1, 3, 3).mT.reshape(-1, 9),
    "skip": lambda x: x.relu() + x,
    "none": lambda x: x,
}


@pytest.mark.parametrize("kind", RELUS)
def test_a_relu_is_seen_however_it_is_written(kind: str) -> None:
    model = Nested(RELUS[kind]).eval()
    head = find_head(model, state_of(model), ImageShape.square(8))
    assert head == Head(("inner.1.0", "last"), pixels=False)


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_relu_ends_the_head(kind: str) -> None:
    model = Nested(OTHERS[kind]).eval()
    assert find_head(model, state_of(model), ImageShape.square(8)).layers == ("last",)


HEADS: dict[str, tuple[str, ...]] = {
    "vit": ("heads.head",),
    "convnext": ("classifier.2",),
    "attention": ("head",),
    "encoder": ("2.1",),
    "reused": ("head",),
    "skips": ("head",),
    "paddings": ("5",),
    "bottleneck": ("4",),
    "constant_input": ("head",),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_head_of_every_kind_of_network(name: str) -> None:
    """A layer that is called twice is none; of a transformer it is the layer that sees a token, or their mean."""
    model, side = built(name, dtype=torch.float32)
    state, shape = state_of(model), ImageShape.square(side)
    head = find_head(model, state, shape)
    assert head.layers == HEADS[name]
    assert not head.pixels
    if name == "bottleneck":
        assert find_head(model, state, shape, through=True) == Head(
            ("1", "3.encoder", "3.decoder", "4"), pixels=True, random=True
        )


ENTRIES: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "as they are": (lambda x: x, True),
    "normalised": (lambda x: (x / 2 + 0.5 - 0.49) / 0.25, True),
    "each channel by itself": (lambda x: x * torch.tensor([2.0, -0.5, 4.0]).view(3, 1, 1) + 3.0, True),
    "a channel left out": (lambda x: x * torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1), False),
    "bent": (torch.sigmoid, False),
    "bent a little": (lambda x: x + 1e-3 * x.square(), False),
    "turned": (lambda x: x.flip(-1), False),
    "its mean taken": (lambda x: x - x.mean(dim=(1, 2, 3), keepdim=True), False),
    "smaller": (lambda x: x[..., ::2], False),
}


@pytest.mark.parametrize("kind", ENTRIES)
def test_pixels_are_known_where_they_enter_one_by_one(kind: str) -> None:
    class Enters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.LazyLinear(3)

        def forward(self, images: Tensor) -> Tensor:
            return self.fc(ENTRIES[kind][0](images).flatten(1))  # type: ignore[no-any-return]

    model = Enters()
    model(torch.zeros(1, 3, 8, 8))
    found = PixelMap.of(model, state_of(model), "fc", ImageShape.square(8))
    assert (found is not None) == ENTRIES[kind][1]
    if found is not None:
        images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
        back = found.images(ENTRIES[kind][0](images).flatten(1))
        torch.testing.assert_close(back, images.flatten(1), rtol=1e-5, atol=1e-5)
        assert kind != "as they are" or torch.equal(back, images.flatten(1))


def test_layers_whose_gradients_do_not_tell_their_input_are_refused() -> None:
    model, _ = built("tied", dtype=torch.float32)
    with pytest.raises(InputError, match="last layer is not fully connected"):
        find_head(model, state_of(model), ImageShape.square(8))
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3, bias=False))
    with pytest.raises(
        InputError, match="Layer '1', the model's last, has no bias: the analytic attack reads"
    ):
        find_head(model, state_of(model), ImageShape.square(8))
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 9, bias=False), nn.ReLU(), nn.Linear(9, 3))
    assert find_head(model, state_of(model), ImageShape.square(8)).layers == ("3",)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(192, 192)

        def forward(self, images: Tensor) -> Tensor:
            return self.fc(self.fc(images.flatten(1)).relu())  # type: ignore[no-any-return]

    with pytest.raises(
        InputError, match="Parameters of layer 'fc', the model's last, are used elsewhere too"
    ):
        find_head(Twice(), state_of(Twice()), ImageShape.square(8))


@pytest.mark.parametrize("name", ["vit", "attention", "encoder"])
def test_features_of_a_transformer_are_inverted(name: str) -> None:
    """Its head sees a token: the search for the image with this token goes through attention."""
    model, side = built(name, dtype=torch.float32)
    state = state_of(model)
    prefix = Prefix(model, state, find_head(model, state, ImageShape.square(side)).first)
    truth = some((1, 3, side, side), "truth", torch.float32).clamp(-1.0, 1.0) * 0.3
    start = torch.zeros_like(truth) + 0.01 * some(tuple(truth.shape), "start", torch.float32)
    mismatch = feature_mismatch(prefix, Features(prefix(truth).detach()))
    found = Continuation(evaluations=60).minimise(mismatch, start)
    assert float(mismatch(found)) < 0.05 * float(mismatch(start))


def test_looking_leaves_hooks_and_buffers_alone() -> None:
    config = ModelConfig(kind="resnet18", image_size=64, batch_norm="train")
    model, state = build_model(config), initial_state(config, generator("model", 0))
    before = state.detached()
    assert find_head(model, state, ImageShape.square(64)).layers == ("fc",)
    torch.testing.assert_close(state.buffers, before.buffers, rtol=0, atol=0)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def features_by_hook(model: nn.Module, state: ModelState, layer: str, images: Tensor) -> Tensor:
    seen: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    predict(model, state, images)
    hook.remove()
    (found,) = seen
    return found


@pytest.mark.parametrize("config", MODELS, ids=lambda c: c.kind)
def test_a_prefix_gives_a_layers_input_and_its_gradient(config: ModelConfig) -> None:
    model, state = build_model(config), initial_state(config, generator("model", 0))
    images, _ = some_images(config, 2)
    for layer in LAYERS[config.kind]:
        prefix = Prefix(model, state, layer)
        mine, plain = (images.clone().requires_grad_(True) for _ in range(2))
        found, expected = prefix(mine), features_by_hook(model, state, layer, plain)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        direction = torch.randn(found.shape, generator=generator("direction"))
        (slope,) = torch.autograd.grad((found * direction).sum(), mine)
        (wanted,) = torch.autograd.grad((expected * direction).sum(), plain)
        torch.testing.assert_close(slope, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_prefix_stops_before_its_layer_and_follows_its_own_weights() -> None:
    config = MLP
    model, state = build_model(config), initial_state(config, generator("model", 0))
    images, _ = some_images(config, 1)
    broken = dict(state.parameters)
    broken["fc2.weight"] = torch.full_like(broken["fc2.weight"], float("nan"))
    found = Prefix(model, ModelState(parameters=broken), "fc2")(images)
    weights = state.parameters
    expected = functional.linear(images.flatten(1), weights["fc1.weight"], weights["fc1.bias"]).relu()
    torch.testing.assert_close(found, expected)
    weight = weights["fc1.weight"].clone().requires_grad_(True)
    moving = ModelState(parameters={**weights, "fc1.weight": weight})
    (slope,) = torch.autograd.grad(Prefix(model, moving, "fc2")(images).sum(), weight)
    torch.testing.assert_close(slope, torch.outer((expected[0] > 0).float(), images.flatten()))
