"""A run of the demonstration or a replay: whatever becomes of a message, it ends, and says so."""

from contextlib import nullcontext
from datetime import timedelta
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError
from kafka.future import Future
from rich.console import Console

from models.accounts import Accounts, Run, balances
from models.events import Instruction, encode
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


@pytest.fixture
def nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """No workers, no broker, no messages."""
    monkeypatch.setattr(drive.topics, "create", lambda *_: None)
    monkeypatch.setattr(drive, "_workers", lambda *_: nullcontext([]))
    monkeypatch.setattr(drive, "Feed", lambda *_: SimpleNamespace(start=lambda: None, error=None, finished=True))
    monkeypatch.setattr(drive, "tail", lambda *_, **__: iter([[]]))


@pytest.mark.usefixtures("nothing_to_do")
def test_the_accounts_of_a_run_count_what_the_policy_means_by_rejected(tmp_path: Path) -> None:
    rules = tmp_path / "policy.toml"
    rules.write_text('target = "deep"')
    plan, run = drive.Plan([], at(0)), Run(title="", broker="")
    accounts, _ = drive.drive(Settings(policy=rules), plan, run, tmp_path, Console(file=StringIO()))
    assert accounts.target == "deep"


def test_what_a_person_orders_during_a_run_is_no_broken_message() -> None:
    order = Instruction(
        instruction_id="i", deployment="ward", order="rollback", version=1, by="dr.who", occurred_at=at(0)
    )
    accounts = Accounts()
    records = [SimpleNamespace(topic="run.labels", value=encode(order), timestamp=0)]
    drive._observe(accounts, SimpleNamespace(), records, "run.")  # type: ignore[arg-type]
    assert (accounts.records["labels"], accounts.invalid.total(), balances(accounts)) == (1, 0, [])
