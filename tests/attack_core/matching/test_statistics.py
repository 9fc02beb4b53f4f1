"""BatchNorm's statistics of a client's batch as a term of matching: nothing at the truth, and said where not seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attack_core.attacks.auto import Auto
from attack_core.gradients.batchnorm import SeenStatistics, statistics_distance
from attack_core.matching.matching import Matching
from attack_core.priors.priors import BatchNormStatistics
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.data.dataset import ImageDataset
from fl_core.models.build import build_model
from fl_core.models.forward import predict
from tests.support.matched import attacked
from tests.support.normalised import NORMS, batches_of, observed


def test_the_distance_is_nothing_at_the_truth_and_something_elsewhere(faces: ImageDataset) -> None:
    seen, model = observed(faces), build_model(NORMS)
    known, images = SeenStatistics.of(seen, model), batches_of(faces)[0][0]
    assert known is not None
    others = torch.rand(images.shape, generator=generator("others")) * 2 - 1
    both = torch.stack([images, others])
    found = known.distance(model, seen.state, both)
    assert float(found[0]) < 1e-6 < 1e-2 < float(found[1])
    literature = statistics_distance(model, seen.state, both, known)
    assert float(literature[0]) < 1e-2 < 1.0 < float(literature[1])
    # The running ones are no target any more.
    assert float(statistics_distance(model, seen.state, both)[0]) > 1.0


def test_the_settled_network_gives_each_image_what_the_batch_gave_it(faces: ImageDataset) -> None:
    seen, model = observed(faces), build_model(NORMS)
    known, images = SeenStatistics.of(seen, model), batches_of(faces)[0][0]
    assert known is not None
    network, state = known.settled(model, seen.state, len(images), NORMS.shape)
    together = predict(model, seen.state.with_own_buffers(), images)
    alone = torch.cat([predict(network, state, image[None]) for image in images])
    torch.testing.assert_close(alone, together, rtol=1e-3, atol=1e-3)
    assert any(module.training for module in model.modules())


def test_the_term_lowers_the_distance(faces: ImageDataset) -> None:
    seen, model = observed(faces), build_model(NORMS)
    known = SeenStatistics.of(seen, model)
    assert known is not None
    options = {"iterations": 10, "lr": 0.05, "init_std": 0.3}
    without = attacked(seen, **options)
    with_term = attacked(seen, statistics_weight=1.0, **options)
    repeated = attacked(seen, statistics_weight=1.0, **options)
    assert torch.equal(with_term.images, repeated.images)
    distances = [
        float(known.distance(model, seen.state, found.images[None])) for found in (without, with_term)
    ]
    assert distances[1] < distances[0]


def test_the_prior_compares_with_what_is_seen(faces: ImageDataset) -> None:
    seen = observed(faces)
    prior = (BatchNormStatistics(weight=1e-2),)
    options = {"iterations": 2, "priors": prior, "lr": 0.05}
    assert not torch.equal(
        attacked(seen, **options).images, attacked(replace(seen, statistics={}), **options).images
    )


def test_a_weight_without_statistics_is_refused(faces: ImageDataset) -> None:
    with pytest.raises(InputError, match=r"Matching\.statistics_weight = 0\.5: the change of BatchNorm's"):
        attacked(replace(observed(faces), statistics={}), iterations=1, statistics_weight=0.5)
    with pytest.raises(InputError, match=r"Matching\.statistics_weight = -1"):
        Matching(statistics_weight=-1.0)
    with pytest.raises(InputError, match=r"Auto\.statistics_weight = -1"):
        Auto(statistics_weight=-1.0)


def test_statistics_that_contradict_the_model_are_refused(faces: ImageDataset) -> None:
    seen = observed(faces)
    name, value = next(iter(seen.statistics.items()))
    for wrong, sentence in (
        ({"nolayer.running_mean": value}, "The statistics' change holds tensor 'nolayer.running_mean'"),
        ({name: value[:-1]}, "of the statistics' change has shape"),
        ({name: value * torch.nan}, "of the statistics' change holds values that are not finite"),
    ):
        with pytest.raises(InputError, match=sentence):
            attacked(replace(seen, statistics=wrong), iterations=1)


def test_auto_reads_inputs_where_the_statistics_tell_them_and_matches_elsewhere(
    faces: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, model = observed(faces), build_model(NORMS)
    plain = Matching(iterations=3, lr=0.05)
    auto = Auto(fallback=plain, statistics_weight=0.2)
    found = auto(seen, model, generator("attack"))
    assert found.outcome == "analytic"
    assert found.notes[0].startswith("the statistics of the batch and the row spaces of gradients tell")
    assert found.labels.shape == (seen.examples,)

    def undetermined(*_: object, **__: object) -> None:
        raise InputError("not determined")

    monkeypatch.setattr("attack_core.choosing.ways.batch_inputs", undetermined)
    found = auto(seen, model, generator("attack"))
    matched = replace(plain, statistics_weight=0.2)(seen, model, generator("attack"))
    assert torch.equal(found.images, matched.images)
