"""All stages without Kafka: topics in memory; batches, interleavings and crashes from a seed; the logs they leave."""

import random
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import product
from typing import Any, cast

import msgspec

from models.calibration.ledger import thresholds
from models.deciding import Calibrated, Failed
from models.encoder.base import Score as RawScore
from models.events import Calibration, Decision, Response, Watermark, decode, encode
from models.joining import Horizons
from models.oracle import Entry, Logs, Rules
from models.partitions import home
from models.policy import Policies, Policy
from models.training import synth
from streams.agents import fold, score
from streams.agents.common import Context
from streams.agents.expiry import Expiry
from streams.agents.join import Join
from streams.agents.learn import Learn
from streams.agents.watch import Watch
from streams.feed import Item, items
from streams.metrics import Metrics
from streams.scorer import Decide, RoundingCheck
from streams.stages import INPUTS
from streams.wire import Record, Send
from tests.stagecraft import Published, Stopwatch, Theatre

DIGEST_KEYS = (b"a key of digests",)
HORIZONS = Horizons(timedelta(minutes=2), timedelta(days=7), timedelta(days=1))
"""Partitions may be a week apart here: LEARN, which keeps ids for two horizons, must still know them."""
POLICIES = Policies(Policy(warm_up_labels=15, warm_up_deviation=2.0))
RULES = Rules((POLICIES,), HORIZONS, DIGEST_KEYS, replayed=True)
Place = tuple[str, str, int]
"""A stage, and a partition of one of its inputs."""
COMMIT_LAG_S = 40.0
"""A step of the rehearsal takes a second."""
CRASHES = ("no", "no", "no", "early", "written", "sent", "written written")


class Reader:
    """Scores at once, by a digest of the text: the same everywhere, and different for every answer."""

    model_hash = "m" * 64
    ready_for_tokens = 500.0
    """Few enough that batches are cut."""

    async def decide_all(self, responses: Sequence[Response], decide: Decide, _: RoundingCheck) -> list[Decision]:
        return [decide(response, self.score(response)) for response in responses]

    def score(self, response: Response) -> RawScore | Failed:
        number = zlib.crc32(f"{response.query}{response.response}".encode())
        if number % 23 == 0:
            return Failed("deadline_missed")
        logit, alien = number / 2**32 * 8.0 - 6.0, number % 19 == 0
        return RawScore(logit, truncated=number % 17 == 0, unknown=0.9 if alien else 0.0)


class HandClock(Stopwatch):
    """Wall time, moved by hand."""

    def __init__(self, at: datetime) -> None:
        super().__init__()
        self.at = at

    def now(self) -> Any:
        return self.at

    def latest(self) -> Any:
        return self.now()

    def clamped(self, occurred_at: datetime, came_at: float = 0.0) -> datetime:
        return min(occurred_at, self.at)


class Behind(HandClock):
    """The clock of another machine."""

    def __init__(self, right: Any, by: timedelta) -> None:
        super().__init__(right.now() - by)
        self._right, self._by = right, by
        self.clamped = right.clamped  # type: ignore[method-assign]

    def now(self) -> Any:
        return self._right.now() - self._by


class Rehearsal:
    """Topics in memory and the stages that read them."""

    def __init__(
        self,
        seed: int = 0,
        *,
        partitions: int = 2,
        crashes: bool = True,
        clock: HandClock | None = None,
        late: timedelta = timedelta(0),
    ) -> None:
        """Set the stage. `late`: how far the clock by which SCORE dates is behind `clock`."""
        self.rng = random.Random(seed)
        self.partitions = partitions
        self.crashes = CRASHES if crashes else ("no",)
        self.logs: dict[str, list[list[Entry]]] = defaultdict(lambda: [[] for _ in range(partitions)])
        self.committed: dict[Place, int] = {}
        self._begun: dict[Place, list[tuple[float, int]]] = defaultdict(list)
        self._held: dict[str, Calibrated] = {}
        self.clock = clock or Stopwatch()
        context, time, horizon = Context("", Metrics(), partitions=partitions), self.clock, HORIZONS.response
        self.policies, self._digest_keys = POLICIES, DIGEST_KEYS
        self.reader = Reader()

        def parts() -> score.Parts:
            dates = Behind(time, late) if late else time
            return score.Parts(cast("Any", self.reader), cast("Any", self), self.policies, dates, self._digest_keys)

        self.stages = {
            "score": Theatre(lambda s: score.Score(context, s, Expiry(horizon, score.read_time, time), parts())),
            "join": Theatre(lambda s: Join(context, s, HORIZONS, time, self._digest_keys)),
            "learn": Theatre(lambda s: fold.Fold(Learn(self.policies, Published()), context, s, _long(time), time)),
            "watch": Theatre(lambda s: fold.Fold(Watch(self.policies), context, s, _long(time), time)),
        }

    def of(self, deployment: str) -> Calibrated:
        return self._held.get(deployment, Calibrated())

    async def ready(self) -> None:
        return

    def follow(self, policies: Policies) -> None:
        """Start the stages anew under other policies."""
        self.policies = policies
        self._restart()

    def rekey(self, *digest_keys: bytes) -> None:
        """Start the stages anew with another key of the digests."""
        self._digest_keys = digest_keys
        self._restart()

    def _restart(self) -> None:
        for stage in self.stages.values():
            stage.restart()

    def play(
        self, what: Iterable[Item], *, ended: bool = True, meanwhile: Callable[[], None] = lambda: None
    ) -> "Rehearsal":
        """Send items, a few at a time, and let the stages run in between; then end the stream."""
        waiting, end = list(what), None
        while waiting:
            for item in waiting[:20]:
                end = max(end or item.arrives_at, item.arrives_at)
                self.put(item.topic, item.key, item.value, item.headers)
            waiting = waiting[20:]
            self.run(some=True)
            meanwhile()
        self.run()
        return self.finish(end + 2 * HORIZONS.response) if ended else self

    def finish(self, at: datetime) -> "Rehearsal":
        """Let every horizon pass."""
        for topic, partition in product(Watermark.topics, range(self.partitions)):
            self.put(topic, None, encode(Watermark(occurred_at=at)), [], partition)
        return self.run()

    def put(self, topic: str, key: bytes | None, value: bytes, headers: Any, partition: int | None = None) -> None:
        place = home(key or b"", self.partitions) if partition is None else partition
        log = self.logs[topic][place]
        log.append(Entry(topic, place, len(log), key, value, tuple(headers or ()), self._now_ms()))
        if topic == Calibration.topic and self.rng.random() < 0.7:  # scorers may lag behind
            found = decode(Calibration, value)
            self._held[found.deployment] = Calibrated(found, thresholds(found))

    def published(self) -> list[Calibration]:
        """Return every version that was published, in the order of its deployment's log."""
        return [decode(Calibration, entry.value) for log in self.logs["calibrations"] for entry in log]

    def _now_ms(self) -> int:
        now = self.clock.now()
        return int(now.timestamp() * 1000) if now else 0

    def run(self, *, some: bool = False) -> "Rehearsal":
        """Let stages consume what there is in any interleaving (some of it, or all)."""
        while (open_ := self._open()) and not (some and self.rng.random() < 0.05):
            upstream = int(self.rng.random() ** 3 * len(open_))  # a worker far behind makes orphans of all feedback
            name, topic, partition = open_[upstream]
            at = self.committed.get((name, topic, partition), 0)
            batch = self.logs[topic][partition][at : at + self.rng.randint(1, 12)]
            stage, crash = self.stages[name], self.rng.choice(self.crashes)
            stage.run([_record(entry) for entry in batch], crash=crash)
            self.committed[name, topic, partition] = at + len(batch)
            self._begun[name, topic, partition].append((self.clock.seconds, at))
            self._send(stage.sent)
            stage.sent = []
            self.clock.seconds += 1.0
            if crash != "no" and self.rng.random() < 0.1:
                self._read_again(name)
        return self

    def _read_again(self, name: str) -> None:
        """Commits lag behind: another worker begins with what was done already, and what followed comes twice."""
        for place, begun in self._begun.items():
            recent = [at for when, at in begun if when > self.clock.seconds - COMMIT_LAG_S]
            if place[0] == name and recent:
                self.committed[place] = self.rng.choice(recent)

    def _open(self) -> list[tuple[str, str, int]]:
        return [
            (name, topic, partition)
            for name, topics in INPUTS.items()
            for topic in topics
            for partition in range(self.partitions)
            if self.committed.get((name, topic, partition), 0) < len(self.logs[topic][partition])
        ]

    def _send(self, sends: Sequence[Send]) -> None:
        for send in sends:
            self.put(send.topic, send.key, send.value or b"", send.headers)

    def left(self, *, at_rest: bool = True) -> Logs:
        """Return the logs, and, unless the stream is at rest, how far the stages have come."""
        entries = {topic: [entry for log in logs for entry in log] for topic, logs in self.logs.items()}
        return Logs(entries, committed=None if at_rest else dict(self.committed), partitions=self.partitions)


def _long(clock: Stopwatch) -> Expiry:
    return Expiry(2 * HORIZONS.response, fold.read_time, clock)


def _record(entry: Entry) -> Record:
    return Record(
        entry.topic, entry.partition, entry.offset, entry.key, entry.value, dict(entry.headers), entry.at_ms / 1000
    )


def week(responses: int = 120, seed: int = 3, **changed: Any) -> synth.Week:
    """A small week with everything untidy in it."""
    untidy = {"orphans": 0.03, "duplicated": 0.1, "contradicted": 0.15} | changed
    return synth.generate(synth.Config(responses=responses, seed=seed, drift=None, **untidy))


def crowded(what: Sequence[Item]) -> list[Item]:
    """Send some ids with two texts: another answer after one, a query before its answer, a text where none was read."""
    found: list[Item] = []
    for n, item in enumerate(what):
        found.append(item)
        if item.topic != Response.topic or item.response_id is None:
            continue
        if item.response_id.startswith("broken"):
            found.append(item._replace(value=encode(_named(item.response_id))))
        elif n % 4 == 0:
            asked = decode(Response, item.value)
            other = msgspec.structs.replace(asked, response=None if n % 8 else f"{asked.response} Or not.")
            found.insert(len(found) - n % 3 // 2, item._replace(value=encode(other)))
    return found


def _named(response_id: str) -> Response:
    first = week(1).responses[0]
    return msgspec.structs.replace(first, response_id=response_id, conversation_id=response_id)


def rehearsed(seed: int = 0, responses: int = 120, **how: Any) -> Rehearsal:
    return Rehearsal(seed, **how).play(list(items(week(responses, seed + 3).arrivals)))
