import msgspec
import numpy as np
import pytest
import torch
from transformers.modeling_outputs import SequenceClassifierOutput

from models.training.data import from_week
from models.training.losses import Loss, lessons, loss, severities
from models.training.synth import Config, generate


def outputs(latent):
    return SequenceClassifierOutput(logits=torch.tensor(latent)[:, None])


TOLD = [(1.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)]


@pytest.mark.parametrize("kind", Loss)
def test_a_better_guess_costs_less(kind):
    compute = loss(kind, TOLD)
    good, bad = (
        compute(outputs(latent), torch.tensor(TOLD)) for latent in ([3.0, 1.0, -2.0, -2.0], [-2.0, -2.0, 3.0, 1.0])
    )
    assert good < bad


def test_depth_ranks_the_rejected():
    """Both orders tell rejected from accepted alike; only the depth tells them apart."""
    compute = loss(Loss.PLAIN, TOLD)
    deep_first, surface_first = (
        compute(outputs(latent), torch.tensor(TOLD)) for latent in ([2.0, 1.0, -2.0, -2.0], [1.0, 2.0, -2.0, -2.0])
    )
    assert deep_first < surface_first
    flat = [(rejected, 0.0, 0.0) for rejected, _, _ in TOLD]
    same = loss(Loss.PLAIN, flat)
    assert same(outputs([2.0, 1.0, -2.0, -2.0]), torch.tensor(flat)) == pytest.approx(
        same(outputs([1.0, 2.0, -2.0, -2.0]), torch.tensor(flat))
    )


def test_a_strict_rater_explains_a_rejection():
    told = [(1.0, 0.0, 2.0), (0.0, 0.0, -2.0)]
    unknown = [(1.0, 0.0, 0.0), (0.0, 0.0, 0.0)]
    compute = loss(Loss.PLAIN, told)
    assert compute(outputs([0.0, 0.0]), torch.tensor(told)) < compute(outputs([0.0, 0.0]), torch.tensor(unknown))


def test_focal_turns_to_what_is_wrong():
    """The share of the loss that the worst answer has."""
    shares = []
    for kind in (Loss.PLAIN, Loss.FOCAL):
        flat = [(1.0, 0.0, 0.0), (0.0, 0.0, 0.0)]
        latent = torch.tensor([-1.0, -2.0], requires_grad=True)
        loss(kind, flat)(SequenceClassifierOutput(logits=latent[:, None]), torch.tensor(flat)).backward()
        shares.append(float(latent.grad[0].abs() / latent.grad.abs().sum()))
    assert shares[1] > shares[0] > 0.5


def test_severities_of_the_synthetic_hospital_are_found():
    week = generate(Config(responses=6000, seed=3, drift=None, clinicians=2))
    examples = from_week(week)
    found = severities(examples)
    rates = {name: np.mean([e.rejected for e in examples if e.rater == name]) for name in found}
    assert len(found) == 6
    assert np.corrcoef(list(found.values()), [rates[name] for name in found])[0, 1] > 0.9
    assert lessons(examples[:1], found)[0][2] == found[examples[0].rater]
    assert severities(examples[:10]) == {}
    assert severities([example for example in examples if example.rejected]) == {}


def test_what_nobody_rejected_is_no_deep_rejection():
    examples = from_week(generate(Config(responses=20, seed=3, drift=None)))
    said = [msgspec.structs.replace(example, depth="deep") for example in examples]
    assert [deep for _, deep, _ in lessons(said, {})] == [float(example.rejected) for example in examples]
