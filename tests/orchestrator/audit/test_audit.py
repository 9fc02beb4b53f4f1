"""Audits of signals whose truth is known to the test alone: facts, contradictions, predictions, what would stop it."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from attack_core.attacks.analytic import Analytic
from attack_core.attacks.auto import Auto
from attack_core.matching.matching import Matching
from defenses.chain import AnyDefense
from defenses.compression.compression import Prune, Quantise, SignOnly
from defenses.mechanism.noise import NoiseOnly
from fl_core.base.errors import InputError
from fl_core.federation.client import LocalTraining
from orchestrator.audit.against import TRIED, families
from orchestrator.audit.audit import Answer, Question, run_audit
from orchestrator.audit.page import PAGE, figures, lines, verdict, write_page
from orchestrator.calibration.pictures import PictureSet, read_folder
from orchestrator.calibration.prediction import EXACT
from orchestrator.library.files import save_update
from orchestrator.library.known import Known
from orchestrator.library.simulate import defend, observe
from orchestrator.library.updates import Update
from tests.support.command import gradsweep
from tests.support.signals import CLASSES, SPEC, gradient, labels, network, pictures


def _public(count: int = 40) -> PictureSet:
    return PictureSet(images=pictures(count, seed=77), source="smooth images")


def _audit(
    sent: Any, *, known: Known | None = None, model: nn.Module | None = None, **settings: Any
) -> Answer:
    question = Question(
        model=model or network(),
        sent=sent,
        image=SPEC,
        known=known or Known(),
        public=_public(),
        **{"clients": 6, "fewer": 3, "classes": CLASSES} | settings,
    )
    return run_audit(question, lambda _: None)


def _quick() -> Auto:
    """What a batch that does not come apart falls back to is kept short."""
    return Auto(analytic=Analytic(rounds=20), fallback=Matching(iterations=20))


def _update(count: int = 1, *, model: nn.Module | None = None, **local: Any) -> Update:
    settings = {"lr": 0.1, "momentum": 0.0, "batch_size": count} | local
    seen = observe(
        model or network(),
        pictures(count),
        labels(count),
        image=SPEC,
        classes=CLASSES,
        local=LocalTraining(**settings),
    )
    assert isinstance(seen, Update)
    return Update(tensors=seen.tensors, before=seen.before, buffers=seen.buffers)


def _premise(answer: Answer, name: str) -> Any:
    return next(each for each in answer.premises if each.name == name)


def test_an_exact_answer_is_expected_to_be_exact() -> None:
    answer = _audit(_update(), known=Known(lr=0.1), truth=pictures(1))
    assert answer.psnr is not None
    assert answer.psnr[0] > 50
    assert answer.overall.psnr > 50
    assert answer.overall.low > answer.calibration.prior + 20
    assert "almost exactly" in verdict(answer)
    assert not answer.contradictions
    images = _premise(answer, "images")
    assert (images.value, images.source) == ("1", "inferred")


@pytest.mark.parametrize("as_list", [False, True])
def test_a_gradient_in_half_precision_is_of_as_many_images_as_it_was(as_list: bool) -> None:
    """Rounding alone gives it more singular values."""
    gradient = observe(network(), pictures(1), labels(1), image=SPEC, classes=CLASSES)
    assert not isinstance(gradient, Update)
    half = {name: value.half() for name, value in gradient.items()}
    answer = _audit(list(half.values()) if as_list else half, attack=_quick(), clients=2)
    assert (_premise(answer, "images").value, len(answer.found.images)) == ("1", 1)


def test_more_images_than_given_is_a_contradiction_and_the_signal_wins() -> None:
    answer = _audit(_update(3), known=Known(lr=0.1, examples=2), attack=_quick())
    assert any("the signal shows 3" in text for text in answer.contradictions)
    assert len(answer.found.images) == 3


def test_a_wrong_learning_rate_is_named_with_the_right_one() -> None:
    answer = _audit(_update(), known=Known(lr=0.01))
    assert any("the images explain the update at 0.1" in text for text in answer.contradictions)


def test_steps_that_batch_norm_counted_contradict_others() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, CLASSES)
    ).train()
    update = _update(4, model=model, batch_size=2)
    answer = _audit(
        update,
        known=Known(lr=0.1, steps=1, examples=4),
        model=model,
        attack=Matching(iterations=20),
        clients=2,
    )
    assert any("BatchNorm counted 2 batches" in text for text in answer.contradictions)
    assert _premise(answer, "BatchNorm statistics").value.startswith("moved")


def test_signs_alone_are_seen_as_what_adam_leaves() -> None:
    update = _update()
    signs = Update(tensors={name: 0.001 * value.sign() for name, value in update.tensors.items()})
    answer = _audit(signs, known=Known(lr=0.001, examples=1), attack=Matching(iterations=20), clients=2)
    assert _premise(answer, "optimizer").source == "inferred"


def test_fewer_images_than_given_is_a_contradiction_too() -> None:
    answer = _audit(_update(), known=Known(lr=0.1, examples=3, steps=1), truth=pictures(1))
    assert any("the signal shows 1, which are taken" in text for text in answer.contradictions)
    assert answer.psnr is not None
    assert answer.psnr[0] > 50


def test_units_that_were_off_hide_images_and_are_no_contradiction() -> None:
    """A layer of which one unit alone was on shows one image, however many there are."""
    model = network()
    with torch.no_grad():
        for layer in (model[1], model[3]):
            layer.bias.fill_(-100.0)
            layer.bias[0] = 10.0
    answer = _audit(
        _update(3, model=model),
        model=model,
        known=Known(lr=0.1, examples=3),
        attack=Matching(iterations=5),
        clients=2,
    )
    assert len(answer.found.images) == 3
    assert not _premise(answer, "images").contradiction


def test_facts_that_explain_the_update_are_taken() -> None:
    answer = _audit(_update(epochs=3), known=Known(lr=0.1, steps=1), truth=pictures(1))
    assert any(
        text.startswith("steps 1: the images explain the update at 3") for text in answer.contradictions
    )
    assert answer.psnr is not None
    assert answer.psnr[0] > 50


def test_nothing_is_predicted_from_clients_that_came_out_otherwise() -> None:
    """The client's pixels were normalised, and nobody said so: no picture explains the layer's input."""
    model, image = network(), pictures(1)
    sent = gradient(model, (image - 0.5) / 0.1, labels(1))
    answer = _audit(sent, model=model)
    assert answer.expected == ()
    assert "the facts do not describe this signal" in verdict(answer)
    stored = figures(answer)
    assert stored["expected_psnr"] == []
    assert stored["interval"] is None
    assert json.loads(json.dumps(stored, allow_nan=False)) == stored


def test_weights_before_and_after_that_are_swapped_are_named() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 96), nn.ReLU(), nn.Linear(96, 10))
    loss = nn.functional.cross_entropy(model(pictures(1)), torch.tensor([3]))
    names = dict(model.named_parameters())
    moved = dict(zip(names, torch.autograd.grad(loss, list(names.values())), strict=True))
    after = {name: value.detach() - 0.1 * moved[name] for name, value in names.items()}
    before = {name: value.detach() for name, value in names.items()}
    swapped = _audit(Update.between(after, before), model=model, classes=10, known=Known(lr=0.1))
    assert any("swapped" in text for text in swapped.contradictions)
    right = _audit(Update.between(before, after), model=model, classes=10, known=Known(lr=0.1))
    assert not right.contradictions


def test_weights_stored_in_few_bits_are_taken_for_noisy_ones() -> None:
    update = _update()
    sides = [
        dict(update.before),
        {name: value + update.tensors[name] for name, value in update.before.items()},
    ]
    coarse = Update.between(*({name: value.half() for name, value in side.items()} for side in sides))
    answer = _audit(coarse, known=Known(lr=0.1), truth=pictures(1))
    assert _premise(answer, "precision").value == "float16"
    assert _premise(answer, "images").value == "1"
    assert answer.psnr is not None
    assert answer.psnr[0] > 30


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (Known(lr=1e-300), "numbers that are not finite"),
        (Known(lr=0.1, steps=20_000), "at most 10,000"),
    ],
)
def test_facts_that_no_training_has_are_refused(known: Known, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _audit(_update(), known=known)


def test_noise_is_measured_and_simulated() -> None:
    size = float(torch.cat([value.flatten() for value in _update().tensors.values()]).std())
    noisy = defend(_update(), [NoiseOnly(sigma=0.05 * size)])
    answer = _audit(noisy, known=Known(lr=0.1))
    noise = _premise(answer, "noise")
    assert float(noise.value.split()[1]) == pytest.approx(0.05 * size, rel=0.1)
    assert answer.overall.psnr < 50


@pytest.mark.parametrize(
    ("defense", "words"),
    [(Prune(ratio=0.8), "pruned: 80%"), (Quantise(bits=4), "rounded to 4 bits"), (SignOnly(), "signs only")],
    ids=["prune", "quantise", "sign"],
)
def test_a_defense_in_force_is_named_and_simulated(defense: AnyDefense, words: str) -> None:
    """One that is told gives the same answer, as it is what the attack takes over."""
    sent = defend(gradient(network(), pictures(1), torch.tensor([1])), [defense])
    settings = {"attack": Matching(iterations=10), "clients": 2}
    answer = _audit(sent, known=Known(examples=1), **settings)
    found = _premise(answer, "defense")
    assert found.value.startswith(words)
    assert (found.source, found.contradiction) == ("inferred", "")
    assert "optimizer" not in {each.name for each in answer.premises}
    assert "noise" not in {each.name for each in answer.premises}
    told = _audit(sent, known=Known(examples=1, defenses=(defense,)), **settings)
    assert torch.allclose(answer.found.images, told.found.images, atol=1e-4)
    assert _premise(told, "defense").source == "given"
    assert not told.contradictions
    if not isinstance(defense, Prune):  # The share that is seen is one of all numbers, 0 before or not.
        assert told.calibration == answer.calibration


def test_pruned_numbers_do_not_count_images_by_their_rank() -> None:
    sent = defend(gradient(network(), pictures(1), torch.tensor([1])), [Prune(ratio=0.8)])
    images = _premise(_audit(sent, attack=Matching(iterations=5), clients=2), "images")
    assert (images.value, images.source) == ("1", "assumed")
    assert "rank of its own" in images.why


def test_a_defense_that_the_numbers_do_not_show_is_contradicted() -> None:
    plain = gradient(network(), pictures(1), torch.tensor([1]))
    rounded = defend(plain, [Quantise(bits=4)])
    short = {"attack": Matching(iterations=5), "clients": 2}
    noisy = defend(plain, [NoiseOnly(sigma=0.01)])
    (text,) = _audit(noisy, known=Known(examples=1, defenses=(Prune(),)), **short).contradictions
    assert text == "defense prune: none of the numbers is 0"
    (text,) = _audit(rounded, known=Known(examples=1, defenses=(SignOnly(),)), **short).contradictions
    assert text.startswith("defense sign: the numbers look otherwise: rounded to 4 bits")


def test_what_cannot_come_after_a_defense_is_refused_before_the_attack() -> None:
    sent = defend(gradient(network(), pictures(1), torch.tensor([1])), [Prune(ratio=0.8)])
    with pytest.raises(InputError, match="add it before compressing"):
        _audit(sent, against=("noise",))


@pytest.mark.slow
def test_a_defense_is_searched_until_it_holds() -> None:
    answer = _audit(gradient(network(), pictures(1), torch.tensor([1])), against=("noise",))
    (noise,) = answer.strengths
    strengths = [each.strength for each in noise.measured]
    assert strengths == sorted(strengths)
    assert noise.strength is not None
    assert noise.strength.gain <= 1.0
    assert noise.measured[0].gain > 10
    assert noise.measured[0].bytes_up == 4 * sum(value.numel() for value in network().parameters())


@pytest.mark.parametrize("count", [1, 2])
def test_each_image_is_predicted(count: int) -> None:
    answer = _audit(_update(count), known=Known(lr=0.1), truth=pictures(count), attack=_quick())
    assert answer.psnr is not None
    assert len(answer.expected) == len(answer.psnr) == count
    said = [text for text in lines(answer) if "expected PSNR" in text]
    assert len(said) == count


def test_what_is_exact_is_said_to_be_more() -> None:
    answer = _audit(_update(), known=Known(lr=0.1))
    assert answer.overall.psnr == EXACT
    assert ">= 60 dB expected" in verdict(answer)
    assert figures(answer)["expected_psnr"] == [{"psnr": EXACT, "low": EXACT, "high": EXACT}]
    (certificate,) = figures(answer)["certificates"]
    assert certificate["verdict"] == "exact"
    assert certificate["rank"] == certificate["unknowns"] == answer.found.images[0].numel()
    assert any(text.startswith("Certified exact: the image.") for text in lines(answer))


def test_effort_shortens_the_attack_here_and_on_simulated_clients() -> None:
    sent = gradient(network(), pictures(1), torch.tensor([1]))
    loop = Matching(iterations=40, early_stop=None)
    question = Question(
        model=network(),
        sent=sent,
        image=SPEC,
        classes=CLASSES,
        known=Known(),
        public=_public(),
        attack=loop,
        effort=0.5,
    )
    assert question.shortened == Matching(iterations=20)
    short = _audit(sent, attack=loop, effort=0.5, clients=2)
    same = _audit(sent, attack=Matching(iterations=20), clients=2)
    assert torch.equal(short.found.images, same.found.images)
    assert short.calibration == same.calibration
    assert figures(short)["effort"] == 0.5


def test_the_page_holds_what_was_found(tmp_path: Path) -> None:
    answer = _audit(_update(2), known=Known(lr=0.1), truth=pictures(2), attack=_quick())
    page = write_page(tmp_path, answer, title="a <b>", command="gradsweep audit --x 'y'")
    text = page.read_text(encoding="utf-8")
    assert verdict(answer) in html.unescape(text)
    assert "a &lt;b&gt;" in text
    assert text.count("data:image/png") == 2
    stored = json.loads((tmp_path / "audit.json").read_text())
    assert stored == json.loads(json.dumps(figures(answer)))
    with Image.open(tmp_path / "image-001.png") as picture:
        assert picture.size == (8, 8)


def _files(folder: Path) -> None:
    (folder / "net.py").write_text(
        "from torch import nn\n\n\ndef make(classes=4):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(192, 96), nn.ReLU(), nn.Linear(96, 48), nn.ReLU(),\n"
        "                         nn.Linear(48, classes))\n\n\n"
        "def leave():\n    raise SystemExit(0)\n"
    )
    (folder / "public").mkdir()
    for i, picture in enumerate(pictures(30, seed=5)):
        pixels = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(folder / "public" / f"{i}.png")
    update = _update()
    before = dict(update.before)
    after = {name: value + update.tensors[name] for name, value in before.items()}
    torch.save(before, folder / "before.pt")
    torch.save(after, folder / "after.pt")
    save_update(folder / "update.safetensors", before, after, lr=0.1, steps=1, examples=1)


_COMMON = ("--image", "3x8x8", "--classes", "4", "--public", "public", "--out", "out", "--clients", "3")


@pytest.mark.parametrize(
    "sent",
    [("--before", "before.pt", "--after", "after.pt", "--lr", "0.1"), ("--update", "update.safetensors")],
)
def test_the_command_writes_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: tuple[str, ...]
) -> None:
    _files(tmp_path)
    monkeypatch.chdir(tmp_path)
    done = gradsweep("audit", "--model", "net.py:make", *sent, *_COMMON)
    assert done.returncode == 0, done.stderr
    assert "almost exactly" in done.stdout
    assert (tmp_path / "out" / PAGE).is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--model", "nat.py:make"), "nat.py does not exist. Did you mean 'net.py'"),
        (("--model-args", "{"), "not valid JSON"),
        (
            ("--model-args", '{"clases": 4}'),
            "Unknown --model-args of net.py:make: 'clases'. Did you mean 'classes'",
        ),
        (("--image", "3by8"), "is no size"),
        (("--classes", "5"), "must be logits of shape (2, 5)"),
        (("--public", "nowhere"), "--public: nowhere is no folder"),
        (("--against", "prnue"), "Did you mean 'prune'"),
        (("--mean", "a,b"), "must be numbers with commas"),
        (("--after", "before.pt"), "holds zeros alone"),
        (("--before", "net.py"), "is no file of tensors"),
        (("--update", "before.pt"), "Give one of --after"),
        (("--lr", "-1"), "Known.lr = -1.0"),
        (("--truth", "net.py"), "is no folder of images"),
        (("--effort", "0"), "effort = 0.0: must be more than 0"),
        (("--effort", "2"), "effort = 2.0: must be more than 0 and at most 1"),
        (("--model", "net.py:leave"), "net.py:leave ended the program"),
        (("--out", "net.py"), "net.py"),
        (("--steps", "0"), "Known.steps = 0"),
        (("--defended", "prnue ratio=0.9"), "Did you mean 'prune'"),
        (("--defended", "prune keep=0.1"), "unknown key 'keep'. Known here: error_feedback, kind, ratio"),
        (("--defended", "prune ratio"), "must be SETTING=VALUE, such as ratio=0.9"),
        (("--defended", "ckks"), "ckks works on the sum, which is not there to work on"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], message: str
) -> None:
    _files(tmp_path)
    monkeypatch.chdir(tmp_path)
    flags = {"--model": "net.py:make", "--before": "before.pt", "--after": "after.pt"}
    flags |= dict(zip(_COMMON[::2], _COMMON[1::2], strict=True)) | {change[0]: change[1]}
    done = gradsweep("audit", *(word for pair in flags.items() for word in pair))
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_folders_by_class_give_labels(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("L", (20, 10), 100).save(tmp_path / name / "a.png")
    found = read_folder(tmp_path, SPEC, where="--public")
    assert found.classes == ("cat", "dog")
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1]
    assert found.images.shape == (2, 3, 8, 8)


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(InputError, match=r"--public: .*bad.png cannot be read"):
        read_folder(tmp_path, SPEC, where="--public")


def test_what_is_tried_has_a_family_each() -> None:
    assert tuple(families({"weight": torch.ones(2)})) == TRIED
