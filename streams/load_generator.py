"""`python -P -m streams.load_generator 60`: send a synthetic week of a hospital, sixty times as fast as life.

It feeds workers that run elsewhere, as in docker-compose.yml; event times are those of the week, so the workers' time
source must be `event`. Once all is decided, it ends with the watermarks that let every horizon pass.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any, Final

from kafka import KafkaProducer

from models.events import Decision, Response
from models.training import synth
from models.training.reactions import Arrival
from streams.connection import kafka_options, reach
from streams.feed import end_of, items, send, send_end
from streams.reading import tail
from streams.settings import Settings, load

SPEED: Final = 60.0


def generate_load(settings: Settings, arrivals: list[Arrival], speed: float = SPEED) -> int:
    """Send arrivals, gaps divided by `speed`, and return how many.

    Raises `SettingsError` without a broker, and what the broker said of a message that it refused.
    """
    reach(settings)
    with closing(KafkaProducer(**kafka_options(settings))) as producer:
        confirm([send(producer, settings, item) for item in items(paced(arrivals, speed))])
        await_decisions(settings, {event.response_id for _, event in arrivals if isinstance(event, Response)})
        confirm(send_end(producer, settings, end_of(arrivals, settings)))
    return len(arrivals)


def confirm(sent: Iterable[Any]) -> None:
    """Wait until the broker has each message; raises what it said of the first that it refused."""
    for future in sent:
        future.get()


def await_decisions(settings: Settings, response_ids: set[str]) -> None:
    """Wait until each of these responses has its decision: for as long as the workers take."""
    missing = {response_id.encode() for response_id in response_ids}
    for records in tail(settings, Decision.topic) if missing else ():
        missing -= {record.key for record in records}
        if not missing:
            return


def paced(arrivals: Iterable[Arrival], speed: float, wait: Callable[[float], None] = time.sleep) -> Iterator[Arrival]:
    """Yield arrivals after their gaps; nights are cut short: nobody waits for longer than a second.

    >>> from datetime import UTC, datetime
    >>> waits = []
    >>> times = [datetime(2026, 1, 5, hour, tzinfo=UTC) for hour in (8, 9, 9)]
    >>> for _ in paced([Arrival(at, None) for at in times], 7200, waits.append):
    ...     pass
    >>> waits
    [0.5, 0.0]
    """
    last = None
    for arrival in arrivals:
        if last is not None:
            wait(min((arrival.arrives_at - last).total_seconds() / speed, 1.0))
        last = arrival.arrives_at
        yield arrival


if __name__ == "__main__":
    generate_load(load(), list(synth.generate(synth.Config()).arrivals), *map(float, sys.argv[1:2]))
