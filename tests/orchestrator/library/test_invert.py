"""Inversion of a caller's own signal: exact answers, what is assumed is said, nothing of the caller's changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from attack_core.matching.matching import Matching
from defenses.compression.compression import Prune
from fl_core.base.errors import InputError
from fl_core.federation.client import LocalTraining
from orchestrator.library.images import ImageSpec
from orchestrator.library.invert import invert
from orchestrator.library.known import Known
from orchestrator.library.simulate import observe
from orchestrator.library.updates import Update
from tests.support.signals import CLASSES, SPEC, gradient, labels, network, pictures, psnr


def test_one_image_comes_back_with_its_label() -> None:
    model, images = network(), pictures(1)
    found = invert(model, gradient(model, images, torch.tensor([2])), image=SPEC, classes=CLASSES)
    assert found.outcome == "analytic"
    assert found.labels.tolist() == [2]
    assert found.images.shape == (1, 3, 8, 8)
    assert psnr(found.images, images) > 60
    assert any("1 image assumed: the gradient of" in note for note in found.notes)


def test_a_batch_comes_back_and_its_size_is_read_off_the_rank() -> None:
    model, images = network(), pictures(3)
    found = invert(model, gradient(model, images, labels(3)), image=SPEC, classes=CLASSES)
    assert len(found.images) == 3
    order = [int((found.images - image).square().flatten(1).sum(1).argmin()) for image in images]
    assert sorted(order) == [0, 1, 2]
    assert psnr(found.images[order], images) > 50
    assert found.labels[order].tolist() == labels(3).tolist()


@pytest.mark.parametrize("form", ["names", "list", "numpy", "double", "half", "sparse", "graph", "device"])
def test_every_form_of_a_gradient_is_taken(form: str) -> None:
    model, images = network(), pictures(1)
    named = gradient(model, images, torch.tensor([1]))
    match form:
        case "list":
            sent: object = list(named.values())
        case "numpy":
            sent = [value.numpy() for value in named.values()]
        case "double":
            sent = {name: value.double() for name, value in named.items()}
        case "half":
            sent = {name: value.bfloat16() for name, value in named.items()}
        case "sparse":
            sent = {name: value.to_sparse() for name, value in named.items()}
        case "graph":
            loss = nn.functional.cross_entropy(model(images), torch.tensor([1]))
            sent = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        case _:
            sent = named
    found = invert(model, sent, image=SPEC, classes=CLASSES, known=Known(examples=1))  # type: ignore[arg-type]
    assert psnr(found.images, images) > (15 if form == "half" else 60)


@pytest.mark.parametrize("mean", [(0.5, 0.5, 0.5), (0.4, 0.3, 0.6)])
def test_the_normalisation_is_the_callers(mean: tuple[float, ...]) -> None:
    model, images, std = network(), pictures(1), (0.25, 0.5, 0.3)
    spec = ImageSpec(height=8, width=8, mean=mean, std=std)
    normalised = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    found = invert(model, gradient(model, normalised, torch.tensor([0])), image=spec, classes=CLASSES)
    assert psnr(found.images, images) > 90
    # The layer sees the pixels themselves, whatever they were normalised by: nothing is searched.
    assert found.method == "analytic: layer input"
    (certificate,) = found.certificates
    assert certificate is not None
    assert certificate.reach == "everywhere"
    assert certificate.psnr <= psnr(found.images, images)


def test_nothing_of_the_callers_changes() -> None:
    model, images = network().train(), pictures(1)
    model[2] = nn.Dropout(0.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sent = gradient(model, images, torch.tensor([1]))
    copies = {name: value.clone() for name, value in sent.items()}
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    with torch.no_grad():
        one = invert(model, sent, image=SPEC, classes=CLASSES, seed=5)
    with torch.inference_mode():
        same = invert(model, sent, image=SPEC, classes=CLASSES, seed=5)
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.training
    assert all(module.training for module in model.modules())
    assert not model._forward_pre_hooks
    assert all(value.grad is None for value in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, copies[name]) for name, value in sent.items())
    assert torch.equal(one.images, same.images)


def test_an_update_of_one_step_is_inverted_at_its_own_weights() -> None:
    model, images = network(), pictures(1)
    local = LocalTraining(lr=0.1, momentum=0.0)
    update = observe(model, images, [3], image=SPEC, classes=CLASSES, local=local)
    found = invert(network(seed=9), update, image=SPEC, classes=CLASSES)
    assert psnr(found.images, images) > 50
    assert found.labels.tolist() == [3]


def test_what_was_not_sent_is_none_and_is_said() -> None:
    model, images = network(), pictures(1)
    sent = {**gradient(model, images, torch.tensor([1])), "5.bias": None, "5.weight": None}
    found = invert(model, sent, image=SPEC, classes=CLASSES, known=Known(examples=1, labels=[1]))
    assert any("not sent: 5.weight, 5.bias" in note for note in found.notes)
    assert psnr(found.images, images) > 40


def test_dropout_and_batch_norm_in_train_mode_are_said() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, CLASSES)
    )
    images = pictures(2)
    sent = gradient(model, images, labels(2))
    found = invert(
        model, sent, image=SPEC, classes=CLASSES, attack=Matching(iterations=10), known=Known(examples=2)
    )
    assert any("normalise by the batch" in note for note in found.notes)
    assert any("dropout draws; it is taken as off" in note for note in found.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sent": []}, "has 0 tensors: the model has 6 parameters"),
        ({"sent": 3}, "is int: must be a mapping by parameter name"),
        ({"sent": torch.zeros(3)}, "is Tensor: must be a mapping"),
        ({"missing": "5.bias"}, "lacks '5.bias', which the model has"),
        ({"extra": "5.biases"}, "holds '5.biases', which the model lacks. Did you mean '5.bias'"),
        ({"shape": True}, r"'1.weight' has shape \(3,\); the model's is \(96, 192\)"),
        ({"value": float("nan")}, "'1.weight' holds NaN or infinity"),
        ({"value": 0.0, "all": True}, "holds zeros alone"),
        ({"none": True}, "None for every parameter"),
        ({"text": True}, "'1.weight' is str; must be a tensor or an array"),
        ({"object": True}, "is an array of object"),
        ({"classes": 7}, r"two pictures into \(2, 4\): must be logits of shape \(2, 7\)"),
        ({"classes": 1}, "classes = 1: must be at least 2"),
        ({"image": ImageSpec(height=9, width=8)}, "model .Sequential. fails on pictures of 3x9x8"),
        ({"classes": "4"}, "classes = '4': must be at least 2"),
        ({"image": (3, 8, 8)}, "image is tuple: must be gradsweep.ImageSpec"),
        ({"attack": 3}, "attack is int: must be a name"),
        ({"known": {"defenses": ["prune"]}}, "Known.defenses holds str: must be defenses of"),
        ({"attack": Matching}, r"attack is the class Matching; an object of it is Matching\(...\)"),
        ({"known": {"defenses": [Prune]}}, r"Known.defenses holds the class Prune; an object of it is Prune"),
        ({"attack": "auot"}, "Unknown attack 'auot'. Did you mean 'auto'"),
        ({"model": nn.Flatten()}, "has no parameters"),
        ({"model": 3}, "model is int: must be a torch.nn.Module"),
        ({"known": {"lr": 0.1}}, "are for weight updates, and this is a gradient"),
    ],
)
def test_wrong_input_is_a_sentence(change: dict[str, object], message: str) -> None:
    model: object = change.get("model", network())
    sent: object = gradient(network(), pictures(1), torch.tensor([1]))
    assert isinstance(sent, dict)
    if "missing" in change:
        del sent[change["missing"]]
    if "extra" in change:
        sent[change["extra"]] = torch.zeros(4)
    if "shape" in change:
        sent["1.weight"] = torch.zeros(3)
    if "value" in change:
        for name in sent if "all" in change else ["1.weight"]:
            sent[name] = torch.full_like(sent[name], change["value"])  # type: ignore[arg-type]
    if "none" in change:
        sent = dict.fromkeys(sent)
    if "text" in change:
        sent["1.weight"] = "numbers"
    if "object" in change:
        sent["1.weight"] = np.array([None])
    with pytest.raises(InputError, match=message):
        invert(
            model,  # type: ignore[arg-type]
            change.get("sent", sent),  # type: ignore[arg-type]
            image=change.get("image", SPEC),  # type: ignore[arg-type]
            classes=change.get("classes", CLASSES),  # type: ignore[arg-type]
            attack=change.get("attack", "auto"),  # type: ignore[arg-type]
            known=Known(**change["known"]) if "known" in change else None,  # type: ignore[arg-type]
        )


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 2])
def test_rounding_to_few_bits_is_no_image(kind: torch.dtype, count: int) -> None:
    model, images = network(), pictures(count)
    sent = {name: value.to(kind) for name, value in gradient(model, images, labels(count)).items()}
    found = invert(model, sent, image=SPEC, classes=CLASSES, attack=Matching(iterations=1))
    assert len(found.images) == count
    assert any(f"sent as {kind}".replace("torch.", "") in note for note in found.notes)


def test_a_size_of_no_number_is_a_sentence() -> None:
    with pytest.raises(InputError, match="height = '8': must be a whole number"):
        ImageSpec(height="8", width=8)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="2 channels"):
        ImageSpec(channels=2, height=8, width=8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"examples": 0}, "examples = 0"),
        ({"lr": -1.0}, "lr = -1.0"),
        ({"momentum": 1.0}, "momentum = 1.0"),
        ({"labels": [1, 2], "examples": 3}, "2 classes for 3 examples"),
    ],
)
def test_wrong_knowledge_is_a_sentence(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Known(**settings)  # type: ignore[arg-type]


def test_an_update_without_a_rate_says_what_that_means() -> None:
    model, images = network(), pictures(1)
    update = observe(
        model, images, [3], image=SPEC, classes=CLASSES, local=LocalTraining(lr=0.1, momentum=0.0)
    )
    assert isinstance(update, Update)
    bare = Update(tensors=update.tensors)
    found = invert(model, bare, image=SPEC, classes=CLASSES)
    assert any("no learning rate is known: 1 is assumed" in note for note in found.notes)
    assert psnr(found.images, images) > 50, "one image does not depend on the scale"


def test_a_mean_that_is_no_number_is_refused() -> None:
    with pytest.raises(InputError, match=r"ImageSpec.mean = \(nan,\): must be finite"):
        ImageSpec(channels=1, height=8, width=8, mean=(float("nan"),), std=(1.0,))


def test_parameters_that_do_not_require_a_gradient_are_frozen() -> None:
    model, images = network(), pictures(1)
    first = next(iter(dict(model.named_parameters())))
    model.get_parameter(first).requires_grad_(False)
    sent = observe(model, images, torch.tensor([1]), image=SPEC, classes=CLASSES)
    assert isinstance(sent, dict)
    assert first not in sent
    assert sent.keys() | {first} == dict(model.named_parameters()).keys()
    attack = Matching(iterations=3)
    found = invert(model, sent, image=SPEC, classes=CLASSES, attack=attack, known=Known(examples=1))
    assert found.images.shape == images.shape
    assert any("do not require a gradient, and are taken as frozen" in note for note in found.notes)
    assert model.get_parameter(first).requires_grad is False
    with pytest.raises(InputError, match=first):
        invert(
            model, gradient(network(), images, torch.tensor([1])), image=SPEC, classes=CLASSES, attack=attack
        )
