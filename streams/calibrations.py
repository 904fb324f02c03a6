"""What every scorer knows of the calibrators: a compacted topic, read whole at the start and followed from there."""

import asyncio
from contextlib import suppress
from typing import Any, Final

import msgspec
import structlog
from aiokafka import TopicPartition

from models.calibration.ledger import thresholds
from models.deciding import Calibrated
from models.errors import EventError, StateError
from models.events import Calibration, decode
from models.signing import Keys
from streams.clock import since_boot
from streams.connection import kafka_options
from streams.reading import FETCH_MS
from streams.settings import Settings
from streams.standalone_consumers import retry_forever, standalone_consumer
from streams.wire import signature_error

CONTACT_S: Final = 5.0
"""How often the end of the topic is asked for, to know that nothing newer is missed."""
LOST_S: Final = 30.0
"""Without contact for so long, versions held may be outdated: nothing is green."""
START_S: Final = 10.0
"""How long the first responses wait for the calibrations."""
UNKNOWN: Final = Calibrated()
NOTHING: Final = -1, b""
"""No version, and no record of it."""


class Head(msgspec.Struct):
    """What of a version says whether it is the newest."""

    deployment: str
    version: int


HEAD: Final = msgspec.json.Decoder(Head)

log = structlog.get_logger(__name__)


class Calibrations:
    """The newest calibration of every deployment."""

    def __init__(self, settings: Settings, keys: Keys | None = None) -> None:
        self._prefix, self._keys = settings.topic_prefix, keys
        self._topic = settings.topic_prefix + Calibration.topic
        self._partitions = [TopicPartition(self._topic, number) for number in range(settings.partitions)]
        self._options = kafka_options(settings)
        self._heard: dict[str, tuple[int, bytes]] = {}
        """By deployment the newest version, and its record; an empty one if it was taken away."""
        self._held: dict[str, Calibrated] = {}
        """What is read of them: a version is superseded more often than asked for."""
        self._contact: float | None = None
        self._caught_up = asyncio.Event()

    def of(self, deployment: str) -> Calibrated:
        """Return what is known of a deployment's calibrator."""
        held = self._held.get(deployment, UNKNOWN)
        if held is UNKNOWN and (value := self._heard.get(deployment, NOTHING)[1]):
            held = self._held[deployment] = read(value)
        return held if self.in_contact else held._replace(current=False)

    def took_away(self, deployment: str) -> bool:
        """Whether a deployment's calibrator was taken away, and no newer version has come."""
        return deployment in self._heard and not self._heard[deployment][1]

    @property
    def in_contact(self) -> bool:
        """Whether lately all was read that the broker had."""
        return self._contact is not None and since_boot() - self._contact < LOST_S

    @property
    def caught_up(self) -> bool:
        """Whether everything that stood in the topic at the start is read."""
        return self._caught_up.is_set()

    async def ready(self) -> None:
        """Wait until caught up, but not for ever: a response gets its answer, which then is not green."""
        with suppress(TimeoutError):
            async with asyncio.timeout(None if self.caught_up else START_S):
                await self._caught_up.wait()

    async def follow(self) -> None:
        """Read for ever; a lost broker is waited for."""
        await retry_forever(self._follow, "lost the calibrations; until they are back, nothing is green here")

    def hear(self, record: Any) -> None:
        """Take in a record, unless it is forged. One without a value takes its deployment's calibrator away: until a
        newer version comes, for an older one that is sent again must not serve.
        """
        if error := signature_error(record, self._prefix, self._keys):
            log.error("a calibration is forged: it is not used", error=str(error))
        elif record.value is None:
            deployment = (record.key or b"").decode(errors="replace")
            self._note(deployment, self._heard.get(deployment, NOTHING)[0], b"")
        else:
            self.take(record.value)

    def take(self, value: bytes) -> None:
        """Take in one version, unless it or a newer one is known: of two that differ, the first was there first."""
        try:
            head = HEAD.decode(value)
        except (ValueError, RecursionError) as error:
            log.error("a record is no calibration: it is not used", error=type(error).__name__)  # noqa: TRY400 (no values)
            return
        if head.version > self._heard.get(head.deployment, NOTHING)[0]:
            self._note(head.deployment, head.version, value)

    def _note(self, deployment: str, version: int, value: bytes) -> None:
        self._heard[deployment] = version, value
        self._held.pop(deployment, None)

    async def _follow(self) -> None:
        how = {
            "auto_offset_reset": "earliest",
            "fetch_max_wait_ms": FETCH_MS,
            "metadata_max_age_ms": int(CONTACT_S * 1000),
        }
        async with standalone_consumer(self._options, self._partitions, **how) as consumer:
            await consumer.seek_to_beginning(*self._partitions)
            await self._read(consumer)

    async def _read(self, consumer: Any) -> None:
        while True:
            ends = await consumer.end_offsets(self._partitions)
            asked, whole = since_boot(), self._is_whole(consumer)
            while since_boot() - asked < CONTACT_S:
                for records in (await consumer.getmany(timeout_ms=FETCH_MS)).values():
                    for record in records:
                        self.hear(record)
                if whole and self._contact != asked and await _passed(consumer, ends):
                    self._contact = asked
                    self._caught_up.set()

    def _is_whole(self, consumer: Any) -> bool:
        """Whether all of the topic is read: one that was made larger may hold newer versions elsewhere."""
        found, read = len(consumer.partitions_for_topic(self._topic) or ()), len(self._partitions)
        if found != read:
            log.error("nothing is green: calibrations are cut otherwise than the settings say", found=found, read=read)
        return found == read


def read(value: bytes) -> Calibrated:
    """Read a version. One that cannot be is not replaced by an older one: nothing is green until the next."""
    try:
        found: Calibration = decode(Calibration, value)
        serving = thresholds(found)
        serving.risk(0.0, {})
    except (EventError, StateError, ArithmeticError, ValueError) as error:  # numbers may be absurd, too
        log.error("a calibration cannot be read: nothing is green until the next", error=type(error).__name__)  # noqa: TRY400 (no values)
        return Calibrated()
    return Calibrated(found, serving)


async def _passed(consumer: Any, ends: dict[TopicPartition, int]) -> bool:
    return all([await consumer.position(partition) >= end for partition, end in ends.items()])
