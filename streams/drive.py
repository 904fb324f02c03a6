"""A whole run: a worker with the real agents, a feed, and accounts kept from the topics alone.

The demonstration and `demur replay` both run through here. Nothing is taken from inside the worker: what is shown and
reported is what anyone can read from the topics.
"""

import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.console import Console

from models.accounts import Accounts, Run, balances
from models.errors import DemurError, EventError
from models.events import CONTRACT, Change, Decision, Event, decode
from streams import topics
from streams.broker import Child, free_port
from streams.feed import Feed, Item
from streams.live import LiveView
from streams.reading import tail
from streams.settings import Settings, Stage, environment
from streams.stages import changelogs, policies

TOPICS: Final = tuple(topic for topic in CONTRACT if topic != Change.topic)
"""What the accounts are kept from. The calibrations tell all that the log of changes does, version by version."""
READY_S: Final = 60.0
"""A worker loads its model and joins its groups in ten seconds on two cores."""
REST_S: Final = 90.0
"""When everything is sent, or nothing moves, this long for outcomes; then the accounts say what is missing."""
STILL_S: Final = 1.5
"""Nothing new for so long while all accounts balance: the stream has come to rest."""
GRACE_S: Final = 20.0
PARTS: Final[tuple[tuple[Stage, ...], ...]] = (("score",), ("join", "learn", "watch"))
"""Who does what: the encoder has a core to itself."""


class Plan(NamedTuple):
    """What to send, and an event time by which every horizon has passed."""

    items: Sequence[Item]
    end: datetime


def drive(settings: Settings, plan: Plan, run: Run, out: Path, console: Console) -> tuple[Accounts, Run]:
    """Run a plan through workers and return the accounts. Raises `DemurError` when a worker or the feed fails."""
    topics.create(settings, changelogs(settings))
    out.mkdir(parents=True, exist_ok=True)
    with _workers(settings, out) as workers:
        began = time.monotonic()
        feed = Feed(settings, plan.items, plan.end)
        feed.start()
        with LiveView(accounts := Accounts(policies(settings.policy)), run, console) as view:
            rest = Rest(accounts, feed, run, time.monotonic())
            for records in tail(settings, *TOPICS, wait_ms=20):
                _observe(accounts, feed, records, settings.topic_prefix)
                _check(workers, feed)
                now = time.monotonic()
                view.refresh(now)
                if rest.reached(now, moved=bool(records)):
                    break
            view.refresh(time.monotonic(), force=True)
    return accounts, replace(run, seconds=round(time.monotonic() - began, 2))


def _observe(accounts: Accounts, feed: Feed, records: Sequence[Any], prefix: str) -> None:
    for record in records:
        topic = record.topic.removeprefix(prefix)
        try:
            event: Event = decode(CONTRACT[topic], record.value)
        except EventError:
            accounts.observe_invalid(topic)
            continue
        accounts.observe(topic, event, record.timestamp)
        if isinstance(event, Decision):
            feed.decided(event.response_id)


class Rest:
    """Whether everything sent has come to its end, or has had the time to; times in seconds."""

    def __init__(self, accounts: Accounts, feed: Feed, run: Run, now: float) -> None:
        self._accounts, self._feed, self._run = accounts, feed, run
        self._moved = self._sent = now

    def reached(self, now: float, *, moved: bool) -> bool:
        """Ask at time `now`; `moved`: something new was read. A feed may wait for a decision that never comes."""
        if moved:
            self._moved = now
        if not self._feed.finished:
            self._sent = now
            return now - self._moved > REST_S
        still = now - max(self._moved, self._sent) > STILL_S
        return (still and not balances(self._accounts, self._run.dead_letters_planted)) or now - self._sent > REST_S


def _check(workers: Sequence[Child], feed: Feed) -> None:
    if feed.error:
        raise DemurError(f"the feed stopped: {type(feed.error).__name__}: {feed.error}") from feed.error
    for worker in workers:
        if not worker.running:
            raise DemurError(f"a worker ended (its log: {worker.log}): {worker.last_words()}")


@contextmanager
def _workers(settings: Settings, out: Path) -> Iterator[list[Child]]:
    """Start two workers, one with the encoder and one with the rest, and stop them gracefully at the end."""
    with ExitStack() as stack:
        found = [(stack.enter_context(worker(mine, out)), mine) for mine in map(_part(settings), PARTS)]
        for child, mine in found:
            await_ready(child, mine)
        yield [child for child, _ in found]


def _part(settings: Settings) -> Callable[[tuple[Stage, ...]], Settings]:
    return lambda stages: settings.model_copy(update={"stages": stages, "http_port": free_port()})


@contextmanager
def worker(settings: Settings, out: Path) -> Iterator[Child]:
    """Start a worker in a process of its own, which logs to `out`; stop it gracefully at the end."""
    log = out / f"worker-{settings.stages[0]}.log"
    log.unlink(missing_ok=True)
    child = launch(settings, log)
    try:
        yield child
    finally:
        child.end(grace_s=GRACE_S)


def launch(settings: Settings, log: Path) -> Child:
    """Start a worker in a process of its own; see `await_ready`."""
    return Child([sys.executable, "-P", "-m", "streams", "worker"], log, environment(settings))


def await_ready(worker: Child, settings: Settings) -> None:
    """Wait until a worker says that it is ready. Raises `DemurError` if it ends or takes too long."""
    url = f"http://{settings.http_host}:{settings.http_port}/healthz"
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        if not worker.running:
            raise DemurError(f"the worker did not start: {worker.last_words(1)}")
        with suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.1)
    raise DemurError(f"the worker is not ready after {READY_S:.0f} s: see {worker.log}")
