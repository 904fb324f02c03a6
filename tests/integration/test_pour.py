"""The feed of docker-compose: a week's events reach the topics as they are, and the end is marked everywhere."""

from models.events import Feedback, Response, Watermark, decode
from models.training import synth
from streams.pour import pour
from streams.reading import read_all
from streams.settings import Settings
from streams.topics import create


def test_what_is_poured_lies_in_the_topics(settings: Settings) -> None:
    create(settings)
    arrivals = list(synth.generate(synth.FAST).arrivals)[:200]
    assert pour(settings, arrivals, speed=1e9) == 200
    responses = [decode(Response, record.value) for record in read_all(settings, "responses")]
    feedback = [decode(Feedback | Watermark, record.value) for record in read_all(settings, "feedback")]
    sent = [event for _, event in arrivals]
    assert sorted(r.response_id for r in responses) == sorted(e.response_id for e in sent if isinstance(e, Response))
    assert sum(isinstance(event, Feedback) for event in feedback) == sum(isinstance(e, Feedback) for e in sent)
    ends = [event.occurred_at for event in feedback if isinstance(event, Watermark)]
    assert len(ends) == settings.partitions
    assert min(ends) > max(event.occurred_at for event in sent)
