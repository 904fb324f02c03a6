"""A run of the demonstration or a replay: whatever becomes of a message, it ends, and says so."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError
from kafka.future import Future

from models.accounts import Accounts, Run
from streams import drive, feed
from streams.feed import Feed, items
from streams.settings import Settings
from tests.stagecraft import at, feedback
from tests.unit.test_score import response


def rest(*, finished: bool) -> Any:
    """Whether it is at rest after each second, of which the first brings something new."""
    asked = drive.Rest(Accounts(), SimpleNamespace(finished=finished), Run(title="", broker=""), 1000.0)  # type: ignore[arg-type]
    return lambda seconds: [asked.reached(1000.0 + n, moved=n == 0) for n in range(seconds)]


def test_a_run_ends_when_all_is_sent_and_nothing_moves() -> None:
    assert rest(finished=True)(4) == [False, False, True, True]


def test_a_run_ends_though_a_response_gets_no_decision_and_the_feed_waits_for_it() -> None:
    seconds = int(drive.REST_S)
    assert rest(finished=False)(seconds + 2) == [False] * (seconds + 1) + [True]


class Producer:
    """Takes what is sent; the broker answers `error`, if any."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.sent: list[str] = []

    def send(self, topic: str, **_: Any) -> Future:
        self.sent.append(topic)
        return Future().failure(self.error) if self.error else Future().success(None)

    def flush(self) -> None:
        """All is sent."""

    close = flush


@pytest.mark.parametrize("error", [None, KafkaTimeoutError()])
def test_what_the_broker_does_not_take_is_an_error_of_the_feed(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    made = Producer(error)
    monkeypatch.setattr(feed, "KafkaProducer", lambda **_: made)
    arrivals = [(at(0), response()), (at(1), feedback("f1"))]
    feeding = Feed(Settings(partitions=1), list(items(arrivals)), at(0) + timedelta(hours=1))  # type: ignore[arg-type]
    feeding.run()
    assert feeding.error is error
    assert made.sent[:2] == ["responses", "feedback"]
