"""What the stream is measured with: seeded decisions, feedback, responses and labels, one a second of event time.

Joins end with watermarks that let every horizon pass, so that their outcomes are complete.

>>> a, b = join(1000), join(1000)
>>> a == b, sorted({item.topic for item in a})
(True, ['decisions', 'feedback'])
"""

import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final, NamedTuple

from aiokafka.partitioner import murmur2

from models.events import Decision, Event, Feedback, Label, Response, Scored, Watermark, encode
from models.joining import Horizons

PARTITIONS: Final = 4
HORIZONS: Final = Horizons(timedelta(seconds=120), timedelta(hours=1), timedelta(minutes=10))
START: Final = datetime(2026, 1, 5, tzinfo=UTC)
VERBS: Final = ("accepted", "accepted", "accepted", "edited", "disagreed", "flagged", "abandoned", "retracted")
CLINICIANS: Final = 40


class Item(NamedTuple):
    """One message: topic without prefix, partition, key, value."""

    topic: str
    partition: int
    key: bytes
    value: bytes


def partition_of(key: str) -> int:
    """Return where a key lies: as our stages' producers put it, so that what is joined lies in equal partitions."""
    return int(murmur2(key.encode()) & 0x7FFFFFFF) % PARTITIONS


def join(events: int, seed: int = 1, *, begin: int = 0, ends: bool = True) -> list[Item]:
    """Return about `events` decisions and feedback, in order of their times; `ends`: let every horizon pass then."""
    rng, number = Random(seed), max(1, round(events / 1.9))
    timed: list[tuple[datetime, Decision | Feedback]] = []
    for n in range(begin, begin + number):
        at = START + timedelta(seconds=n)
        timed += [(at, decision(rng, f"r{n}", at)), *((f.occurred_at, f) for f in told(rng, f"r{n}", at))]
    timed.sort(key=lambda one: one[0])
    items = [item(event, event.response_id) for _, event in timed]
    return [*items, *watermarks(timed[-1][0] + timedelta(days=1))] if ends else items


def item(event: Event, key: str) -> Item:
    """Put an event in its place."""
    return Item(event.topic, partition_of(key), key.encode(), encode(event))


def watermarks(at: datetime) -> Iterator[Item]:
    """Yield the end of both inputs of JOIN. Engines that key their state need a key, whatever it is."""
    value = encode(Watermark(occurred_at=at))
    yield from (Item(topic, n, b"end", value) for topic in Watermark.topics for n in range(PARTITIONS))


def decision(rng: Random, response_id: str, at: datetime) -> Decision:
    """Return a decision with all that JOIN carries along."""
    return Decision(
        response_id=response_id,
        decided_at=at,
        salience_digest=f"{rng.getrandbits(128):032x}",
        config_hash="c0ffee",
        input_digest=f"{rng.getrandbits(256):064x}",
        deployment="general-hospital",
        reasons=("upper_risk",),
        **scored(rng, response_id, at),
    )


def scored(rng: Random, response_id: str, at: datetime) -> dict[str, Any]:
    """Return the fields that a decision and a label's snapshot of it have alike."""
    logit = rng.gauss(-2.0, 1.0)
    risk = sigmoid(logit)
    return {
        "conversation_id": f"c-{response_id}",
        "turn": 0,
        "groups": {"site": rng.choice("abc"), "category": rng.choice(("dosing", "triage", "notes", "coding"))},
        "logit": logit,
        "risk": risk,
        "upper": min(1.0, risk + 0.05),
        "tier": "yellow",
        "action": "banner",
        "audit": False,
        "propensity": 1.0,
        "calibrator_version": 0,
        "model_hash": "model",
        "occurred_at": at,
    }


def told(rng: Random, response_id: str, at: datetime) -> Iterator[Feedback]:
    """Yield what clinicians say of a response: three in ten nothing, some twice, some the same again."""
    if rng.random() < 0.3:
        return
    for n in range(1 + (rng.random() < 0.15) + (rng.random() < 0.05)):
        late = min(rng.expovariate(1 / 600), 4000)  # some come after the horizon
        found = Feedback(
            feedback_id=f"f-{response_id}-{n}",
            response_id=response_id if rng.random() > 0.01 else f"lost-{response_id}",
            clinician=f"clinician-{rng.randrange(CLINICIANS)}",
            action=rng.choice(VERBS),
            edited_response="Give 5 mg twice a day with food." if rng.random() < 0.2 else None,
            occurred_at=at + timedelta(seconds=late),
        )
        yield from [found] * (1 + (rng.random() < 0.05))


def pending(number: int, at: datetime = START) -> list[Item]:
    """Return decisions that wait for feedback."""
    rng = Random(0)
    return [item(decision(rng, f"waits-{n}", at), f"waits-{n}") for n in range(number)]


def responses(events: int, seed: int = 1, *, feedback: bool = False) -> list[Item]:
    """Return responses, two a conversation; or, with `feedback`, about as many events with it.

    Then each is a conversation of its own: decisions lie in the order of their responses, and no history changes them.
    """
    rng, number = Random(seed), max(1, round(events / (1.9 if feedback else 1)))
    timed: list[tuple[datetime, Event, str]] = []
    for n in range(number):
        at, name = START + timedelta(seconds=n), f"r{n}"
        conversation = name if feedback else f"c{n // 2}"
        timed.append((at, response(rng, name, conversation, at), conversation))
        if feedback:
            timed += [(f.occurred_at, f, f.response_id) for f in told(rng, name, at)]
    timed.sort(key=lambda one: one[0])
    return [item(event, key) for _, event, key in timed]


def response(rng: Random, response_id: str, conversation_id: str, at: datetime) -> Response:
    """Return a response of some three hundred characters."""
    return Response(
        response_id=response_id,
        conversation_id=conversation_id,
        deployment="general-hospital",
        site=rng.choice("abc"),
        category=rng.choice(("dosing", "triage", "notes", "coding")),
        query="How much of it may an adult of 70 kg with mild renal impairment take in a day?",
        response="Start with 5 mg in the morning and raise it to 10 mg after a week if it is tolerated. " * 2,
        occurred_at=at,
    )


def labels(number: int, deployments: int = 4, seed: int = 1) -> list[Item]:
    """Return labels, spread evenly over deployments; each is evidence."""
    rng = Random(seed)
    return [
        item(label(rng, n, f"deployment-{n % deployments}"), f"deployment-{n % deployments}") for n in range(number)
    ]


def label(rng: Random, number: int, deployment: str) -> Label:
    """Return a settled verdict on a response whose logit is right."""
    at = START + timedelta(seconds=number)
    decided = Scored(**scored(rng, f"r{number}", at))
    assert decided.logit is not None
    rejected = rng.random() < sigmoid(decided.logit)
    return Label(
        label_id=f"l{number}",
        feedback_id=f"f{number}",
        response_id=f"r{number}",
        deployment=deployment,
        clinician=f"clinician-{rng.randrange(CLINICIANS)}",
        action="disagreed" if rejected else "accepted",
        rejected=rejected,
        depth="deep" if rejected else "none",
        weight=1.0,
        delay_s=60.0,
        occurred_at=at,
        decision=decided,
    )


def sigmoid(logit: float) -> float:
    """Return the probability of a logit."""
    return 1 / (1 + math.exp(-logit))


def by_place(items: Iterable[Item]) -> Iterator[tuple[Item, int]]:
    """Pair each message with the offset that it will have in its partition."""
    following: dict[tuple[str, int], int] = {}
    for found in items:
        place = found.topic, found.partition
        following[place] = following.get(place, -1) + 1
        yield found, following[place]
