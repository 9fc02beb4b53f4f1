"""The networks of the zoo: sizes as published, values fixed by the generator, any shape of pictures."""

from __future__ import annotations

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.models.build import build_model, check_batch, initial_state
from fl_core.models.config import ModelConfig, TransformerConfig
from fl_core.models.forward import predict

_KINDS = (
    "cnn64",
    "lenet",
    "mlp",
    "resnet18",
    "resnet20",
    "resnet50",
    "gn_resnet18",
    "convnet",
    "vgg11",
    "vit",
)


def _parameters(config: ModelConfig) -> int:
    return sum(parameter.numel() for parameter in build_model(config).parameters())


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
@pytest.mark.parametrize("kind", _KINDS)
def test_values_are_fixed_by_the_generator_and_modes_by_the_setting(kind: str, batch_norm: str) -> None:
    config = ModelConfig(kind=kind, image_size=32, classes=5, batch_norm=batch_norm)
    before = torch.random.get_rng_state()
    one, same, other = (initial_state(config, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state()), "global random state was touched"
    model = build_model(config)
    for module in model.modules():
        assert module.training == (batch_norm == "train" and isinstance(module, _BatchNorm))
    names = [name for name, _ in model.named_parameters()]
    assert list(one.parameters) == names
    for name in names:
        assert torch.equal(one.parameters[name], same.parameters[name])
    first = next(name for name in names if name.endswith("weight") and one.parameters[name].dim() > 1)
    assert not torch.equal(one.parameters[first], other.parameters[first])
    logits = predict(model, one.with_own_buffers(), torch.randn(2, 3, 32, 32, generator=generator(3)))
    assert logits.shape == (2, 5)
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("kind", _KINDS)
def test_grey_pictures_that_are_no_squares_go_through_every_network(kind: str) -> None:
    config = ModelConfig(kind=kind, image_size=(48, 32), channels=1, classes=3, bottleneck=4)
    state = initial_state(config, generator(0))
    images = torch.randn(2, 1, 48, 32, generator=generator(1))
    assert predict(build_model(config), state, images).shape == (2, 3)
    assert any("bottleneck" in name for name in state.parameters)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        # He et al. 2016, table 6: 0.27 million; Geiping et al.'s ConvNet with 64 channels: 2,904,970.
        (ModelConfig(kind="resnet20", image_size=32, classes=10), 269_722),
        (ModelConfig(kind="convnet", image_size=32, classes=10), 2_904_970),
        (ModelConfig(kind="resnet50", image_size=32, classes=1000), 25_557_032),
        (ModelConfig(kind="gn_resnet18", image_size=32, classes=1000), 11_689_512),
        (ModelConfig(kind="mlp", image_size=32, classes=10, widths=(1024, 512)), 3_676_682),
        (ModelConfig(kind="cnn64"), 8_760_962),
    ],
    ids=lambda value: value.kind if isinstance(value, ModelConfig) else "",
)
def test_networks_have_their_published_numbers_of_parameters(config: ModelConfig, count: int) -> None:
    assert _parameters(config) == count


def test_a_transformer_is_what_its_sizes_say() -> None:
    sizes = TransformerConfig(patch=8, width=32, depth=2, heads=4)
    config = ModelConfig(kind="vit", vit=sizes, image_size=(16, 32), classes=7)
    block = 4 * 32 + (32 * 96 + 96) + (32 * 32 + 32) + (32 * 128 + 128) + (128 * 32 + 32)
    tokens = 1 + 2 * 4
    expected = (8 * 8 * 3 * 32 + 32) + 32 + tokens * 32 + 2 * block + 2 * 32 + (32 * 7 + 7)
    assert _parameters(config) == expected


def test_a_transformer_sees_each_patch_by_itself() -> None:
    """With positions and attention out of the way, exchanging two patches exchanges their tokens."""
    model = build_model(ModelConfig(kind="vit", image_size=16, vit=TransformerConfig(patch=8, width=8)))
    images = torch.arange(2 * 3 * 16 * 16.0).view(2, 3, 16, 16)
    patches = model.patches(images)
    assert patches.shape == (2, 4, 3 * 64)
    assert torch.equal(patches[0, 1].view(3, 8, 8), images[0, :, :8, 8:])
    assert torch.equal(patches[1, 2].view(3, 8, 8), images[1, :, 8:, :8])


def test_the_normalisation_is_that_of_pixels_from_zero_to_one() -> None:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    plain = ModelConfig(kind="lenet", image_size=16)
    config = ModelConfig(kind="lenet", image_size=16, mean=mean, std=std)
    state = initial_state(plain, generator(0))
    pixels = torch.rand(2, 3, 16, 16, generator=generator(1))
    wanted = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    found = predict(build_model(config), state, 2 * pixels - 1)
    torch.testing.assert_close(found, predict(build_model(plain), state, wanted))


def test_a_shortcut_of_resnet20_leaves_out_pixels_and_adds_zeros() -> None:
    model = build_model(ModelConfig(kind="resnet20", image_size=8))
    block = model.block2_1.to_empty(device="cpu").eval()
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)
    for name, buffer in block.named_buffers():
        buffer.fill_(1.0 if name.endswith("var") else 0.0)
    images = torch.rand(1, 16, 4, 4)
    found = block(images)
    assert found.shape == (1, 32, 2, 2)
    assert torch.equal(found[:, 8:24], images[:, :, ::2, ::2])
    assert not found[:, :8].any()
    assert not found[:, 24:].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "vgg11", "image_size": 16}, "pools 16 pixels away; use at least 32"),
        ({"kind": "convnet", "image_size": 8}, "pools 8 pixels away; use at least 9"),
    ],
)
def test_pictures_that_are_too_small_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_model(ModelConfig(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "vit", "image_size": 30}, "image_size = 30: must be a multiple of vit.patch, 4"),
        ({"kind": "cnn64", "widths": (3,)}, "widths .* left out for kind: cnn64; it is for mlp"),
        ({"kind": "lenet", "vit": TransformerConfig()}, "it is for vit"),
        ({"kind": "own"}, "factory = None: must be FILE.py:FUNCTION"),
        ({"mean": (0.5,)}, "a list of 3 numbers"),
        ({"mean": (0.5, 0.5, 0.5)}, "beside mean and std"),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.0, 0.5)}, "std .* of numbers above 0"),
        ({"kind": "mlp", "widths": (0,)}, "widths = .0,.: must be a list of numbers from 1"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ModelConfig(**settings)


def test_heads_must_share_a_token_evenly() -> None:
    with pytest.raises(InputError, match="width = 30: must be a multiple of heads, 4"):
        TransformerConfig(width=30)


def test_batches_that_batch_norm_cannot_normalise_are_refused() -> None:
    config = ModelConfig(kind="resnet18", image_size=8, batch_norm="train")
    with pytest.raises(
        InputError, match="a batch of 1 image of 8 pixels leaves a BatchNorm layer of resnet18"
    ):
        check_batch(config, 1)
    check_batch(config, 2)
