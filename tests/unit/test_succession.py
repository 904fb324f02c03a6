"""A calibrator is not thrown away by one label: another model follows once its labels come alone."""

import heapq
import random
from collections.abc import Callable, Iterator
from itertools import pairwise

import msgspec
import pytest

from models.calibration.history import History
from models.calibration.learning import Learning
from models.calibration.ledger import Ledger
from models.calibration.succession import MIN_LABELS
from models.events import Change, Label, decode, encode
from models.policy import Policy
from tests.stagecraft import at
from tests.unit.test_fold import label

SWAP = 4000


def stream(
    model: Callable[[int, random.Random], str], *, responses: int = 9000, every: float = 60.0, delay: float = 600.0
) -> Iterator[Label]:
    """Labels in the order of their log: two responses of five are judged, after 2 minutes and `delay` s on average."""
    rng, waiting = random.Random(5), list[tuple[float, int, Label]]()
    for n in range(responses):
        seconds = n * every
        while waiting and waiting[0][0] <= seconds:
            yield heapq.heappop(waiting)[2]
        by = model(n, rng)
        judged = seconds + 120.0 + rng.expovariate(1 / delay)
        one = label(n, rejected=rng.random() < 0.04, seconds=seconds, logit=rng.gauss(-3, 1), model_hash=by)
        if rng.random() < 0.4:
            one = msgspec.structs.replace(one, occurred_at=at(judged), clinician=f"dr{rng.randrange(20)}")
            heapq.heappush(waiting, (judged + 120.0, n, one))
    yield from (heapq.heappop(waiting)[2] for _ in range(len(waiting)))


def learn(labels: Iterator[Label] | list[Label]) -> tuple[Learning, list[tuple[str, int]]]:
    """Fold labels; return the fold, and by label which model the calibrator was of and how many it rested on."""
    learning, course = Learning(Ledger("ward", Policy())), []
    for one in labels:
        for _ in learning.apply(one):
            pass
        course.append((learning.model_hash, learning.ledger.labels))
    return learning, course


def restarts(course: list[tuple[str, int]]) -> int:
    return sum(before != after for (before, _), (after, _) in pairwise(course))


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_a_stray_worker_costs_its_own_labels_and_no_others(share: float) -> None:
    """A node that computes another hash: at a tenth of the traffic, it began the calibrator anew 116 times in days."""
    labels = list(stream(lambda n, rng: "stray" if n > 1000 and rng.random() < share else "own"))
    learning, course = learn(labels)
    assert restarts(course) == 0
    assert learning.ledger.labels == sum(one.decision.model_hash == "own" for one in labels)
    assert learning.ledger.missing_labels() == 0


@pytest.mark.parametrize(("every", "delay"), [(60.0, 600.0), (1.0, 600.0), (10.0, 7200.0)])
def test_a_rollout_starts_the_calibrator_anew_once_when_the_old_workers_are_gone(every: float, delay: float) -> None:
    """Verdicts on what the old ones scored keep coming for hours: they neither hold the new one up nor take it back."""
    hour = int(3600 / every)

    def rolled_out(n: int, rng: random.Random) -> str:
        return "new" if n >= SWAP or (n >= SWAP - hour and rng.random() < 0.5) else "old"

    labels = list(stream(rolled_out, every=every, delay=delay))
    learning, course = learn(labels)
    assert restarts(course) == 1
    begun = next(n for n, (model, _) in enumerate(course) if model == "new")
    assert begun > next(n for n, one in enumerate(labels) if one.decision.occurred_at >= at(SWAP * every))
    after = [one for one in labels if one.decision.occurred_at >= at(SWAP * every)]
    assert learning.ledger.labels >= len(after) - 2 * MIN_LABELS


def test_a_swap_that_is_taken_back_in_time_costs_nothing() -> None:
    labels = [label(n, rejected=n % 9 == 0, model_hash="old") for n in range(60)]
    tried = [label(n, model_hash="new") for n in range(60, 60 + MIN_LABELS - 1)]
    back = [label(n, rejected=n % 9 == 0, model_hash="old") for n in range(100, 130)]
    again = [label(n, model_hash="new") for n in range(130, 130 + MIN_LABELS - 1)]
    tried_and_not, _ = learn([*labels, *tried, *back, *again])
    plain, _ = learn([*labels, *back])
    assert tried_and_not.calibration() == plain.calibration()
    new, _ = learn([*labels, *tried, *back, *again, label(200, model_hash="new")])
    assert (new.model_hash, new.ledger.labels, new.ledger.version) == ("new", 1, 91)


def test_what_is_no_evidence_brings_no_other_model() -> None:
    labels = [label(n, model_hash="old") for n in range(5)]
    new = [label(n, model_hash="new") for n in range(5, 50)]
    silent = [msgspec.structs.replace(one, weight=0.0) for one in new]
    revised = [msgspec.structs.replace(one, kind="correction", revises="l1") for one in new]
    unscored = [label(n, model_hash="new", logit=None) for n in range(50, 100)]
    late = [label(n, seconds=3, model_hash="new") for n in range(100, 150)]
    learning, _ = learn([*labels, *silent, *revised, *unscored, *late])
    assert (learning.model_hash, learning.ledger.version) == ("old", 5)


def swapped() -> list[Label]:
    """A swap, and after its first labels a late one of the old model: a day later, which makes an entry."""
    late = msgspec.structs.replace(label(90, seconds=10, model_hash="old"), occurred_at=at(86_400))
    return [
        *(label(n, model_hash="old") for n in range(30)),
        *(label(n, model_hash="new") for n in range(30, 35)),
        late,
        *(label(n, model_hash="new") for n in range(35, 60)),
        *(label(n, seconds=20, model_hash="old") for n in range(60, 65)),
    ]


def test_a_crash_anywhere_changes_nothing_and_the_log_gives_it_again() -> None:
    labels, whole, part = swapped(), Learning(Ledger("ward", Policy())), Learning(Ledger("ward", Policy()))
    entries, told = list[Change](), list[Change]()
    for one in labels:
        entries += [decode(Change, encode(found)) for found in whole.apply(one) if isinstance(found, Change)]
        part = Learning.restore(msgspec.json.decode(msgspec.json.encode(part.snapshot())), Policy())
        told += [decode(Change, encode(found)) for found in part.apply(one) if isinstance(found, Change)]
    assert (whole.model_hash, whole.ledger.labels) == ("new", 30 - MIN_LABELS + 1)
    assert told == entries
    assert part.snapshot() == whole.snapshot()
    assert [one.cause for one in entries] == ["labels", "labels", "another model: new"]
    assert entries[1].state
    assert entries[1].state["succession"]["labels"] == 5
    for start in (0, 20):
        history = History("ward", Policy(), labels[start:], entries, whole=not start)
        assert history.after(labels[-1].label_id).snapshot() == whole.snapshot()


def test_a_state_from_before_is_read() -> None:
    """It does not say how new the responses were that its model scored; not newer than its last label."""
    learning, _ = learn([label(n, model_hash="old") for n in range(30)])
    stored = {name: value for name, value in learning.snapshot().items() if name != "succession"}
    restored = Learning.restore(stored, Policy())
    for n in range(MIN_LABELS):
        list(restored.apply(label(100 + n, seconds=29, model_hash="new")))
    assert restored.model_hash == "old"
    for n in range(MIN_LABELS):
        list(restored.apply(label(200 + n, model_hash="new")))
    assert restored.model_hash == "new"
