"""The feed of docker-compose: a week's events reach the topics as they are, and the end is marked everywhere."""

import time
from datetime import timedelta

import pytest
from kafka import KafkaProducer
from kafka.errors import MessageSizeTooLargeError
from msgspec.structs import replace

from models.events import Decision, Feedback, Response, Watermark, decode, encode
from models.training import synth
from streams.connection import kafka_options
from streams.feed import Feed, items
from streams.load_generator import generate_load
from streams.reading import read_all
from streams.settings import Settings
from streams.topics import create
from tests.stagecraft import decision


def test_what_is_poured_lies_in_the_topics(settings: Settings) -> None:
    create(settings)
    arrivals = list(synth.generate(synth.FAST).arrivals)[:200]
    producer = KafkaProducer(**kafka_options(settings))
    for response in (event for _, event in arrivals if isinstance(event, Response)):  # as a worker would
        decided = encode(decision(response.response_id))
        producer.send(f"{settings.topic_prefix}decisions", key=response.response_id.encode(), value=decided)
    producer.close()
    assert generate_load(settings, arrivals, speed=1e9) == 200
    responses = [decode(Response, record.value) for record in read_all(settings, "responses")]
    feedback = [decode(Feedback | Watermark, record.value) for record in read_all(settings, "feedback")]
    sent = [event for _, event in arrivals]
    assert sorted(r.response_id for r in responses) == sorted(e.response_id for e in sent if isinstance(e, Response))
    assert sum(isinstance(event, Feedback) for event in feedback) == sum(isinstance(e, Feedback) for e in sent)
    decided = [decode(Decision | Watermark, record.value) for record in read_all(settings, "decisions")]
    ends = [event.occurred_at for event in feedback + decided if isinstance(event, Watermark)]
    assert len(ends) == 2 * settings.partitions
    assert min(ends) > max(event.occurred_at for event in sent)


def test_a_message_that_the_broker_refuses_is_not_passed_over(settings: Settings) -> None:
    create(settings)
    arrival = next(one for one in synth.generate(synth.FAST).arrivals if isinstance(one.event, Response))
    large = replace(arrival.event, query="x" * 150_000, response="x" * 200_000, earlier=("x" * 200_000,) * 8)
    with pytest.raises(MessageSizeTooLargeError):
        generate_load(settings, [arrival._replace(event=large)], speed=1e9)


def test_a_feed_waits_for_one_decision_on_an_id_however_often_it_is_sent(settings: Settings) -> None:
    """Another text under it gets none: what comes after would never be sent."""
    create(settings)
    item = next(items(synth.generate(synth.FAST).arrivals))
    times = [item.arrives_at + timedelta(hours=5 * n) for n in range(3)]
    sent = [item._replace(arrives_at=at, response_id=id_) for at, id_ in zip(times, ("r1", "r1", None), strict=True)]
    feed = Feed(settings, sent, times[-1])
    feed.start()
    while not feed._open:
        time.sleep(0.05)
    feed.decided("r1")
    feed.join(20.0)
    assert feed.finished
