"""The topics: what they are called, how they are cut, and how long they keep.

**Co-partitioning.** All topics have the same number of partitions, and so have the changelogs of the stages' rows:
`responses` meets `outcomes` in SCORE and `decisions` meets `feedback` in JOIN because equal keys lie in partitions of
equal number, and a changelog must be cut like the topic it follows. A topic cut otherwise stops the start.

**What the broker takes** it keeps unpacked and dated by its own clock, whoever sends it (`BROKER_CONFIGS`).

Workers need no permission to create: `create` is the administrator's, run by `demur topics`.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Final, NamedTuple

import structlog
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, TopicAlreadyExistsError

from models.errors import DemurError, SettingsError
from models.events import (
    Alarm,
    Calibration,
    Change,
    Closure,
    DeadLetter,
    Decision,
    Event,
    Feedback,
    Label,
    Outcome,
    Response,
)
from streams.connection import CONNECT_MS, kafka_options, reach, refused
from streams.settings import INPUT_RETENTION, Settings, far

BROKER_CONFIGS: Final = {"compression.type": "uncompressed", "message.timestamp.type": "LogAppendTime"}
"""A batch in a codec that we lack would stop its reader for ever, and a packed one may unpack to a thousandfold: the
broker unpacks it, and refuses what is too large. A producer whose clock says 1970 would have its events deleted."""
AT_LEAST: Final = frozenset({"delete.retention.ms", "max.message.bytes"})
"""More of it does no harm."""
RELIED_ON: Final = frozenset({"cleanup.policy", "retention.bytes", *BROKER_CONFIGS, *AT_LEAST})
"""What a stage would lose rows or inputs by, or stop. How long texts and records are kept is the hospital's affair."""
SHOWN: Final = RELIED_ON | {"retention.ms"}
RECORD_RETENTION: Final = timedelta(days=184)
"""What was decided, learnt and raised is kept for the longest half-year: articles 19 and 26(6) of the EU AI Act ask for
logs of six months at least. It holds no patients' text."""

TOMBSTONE_RETENTION: Final = timedelta(days=7)
"""What tells that a row was deleted. A worker whose rows on disk are older reads all anew: it would not be told."""

MAX_STATE_BYTES: Final = 8 * 2**20
"""A calibrator of a thousand groups and some thousand clinicians is one message; Kafka's default is 1 MiB."""

log = structlog.get_logger(__name__)

INPUT_TYPES: Final[tuple[type[Event], ...]] = (Response, Feedback)
RECORDS: Final[tuple[type[Event], ...]] = (Decision, Label, Outcome, Closure, Alarm, Change, DeadLetter)


class Topic(NamedTuple):
    """A topic as it should be. `retention` None: compacted, the newest value of each key is kept for ever."""

    name: str
    partitions: int
    retention: timedelta | None

    @property
    def configs(self) -> dict[str, str]:
        """Kafka's topic configuration."""
        if self.retention:
            kept = str(int(self.retention.total_seconds() * 1000))
            return BROKER_CONFIGS | {"cleanup.policy": "delete", "retention.ms": kept, "retention.bytes": "-1"}
        # The segment being written is never compacted: an hour bounds what a restart reads twice.
        compacted = {"cleanup.policy": "compact", "segment.ms": "3600000", "min.cleanable.dirty.ratio": "0.1"}
        kept = str(int(TOMBSTONE_RETENTION.total_seconds() * 1000))
        return BROKER_CONFIGS | compacted | {"max.message.bytes": str(MAX_STATE_BYTES), "delete.retention.ms": kept}


class Found(NamedTuple):
    """A topic as it is. `partitions` 0: it does not exist."""

    topic: Topic
    partitions: int
    configs: dict[str, str]

    @property
    def wrong(self) -> dict[str, str]:
        """What it lacks that we rely on. A broker that does not know a setting does not name it either."""
        return {
            name: value
            for name, value in self.topic.configs.items()
            if name in RELIED_ON & self.configs.keys() and not _serves(name, self.configs[name], value)
        }

    @property
    def kept(self) -> str:
        """What is kept, and for how long."""
        policy, ms = self.configs.get("cleanup.policy", ""), int(self.configs.get("retention.ms", 0))
        days = f"{ms / 86_400_000:g} days" if ms > 0 else "for ever" if ms else ""
        told = ["newest per key" if "compact" in policy else "", days if "delete" in policy else ""]
        return ", ".join(filter(None, told)) or "?"


def _serves(name: str, found: str, planned: str) -> bool:
    return int(found) >= int(planned) if name in AT_LEAST else found == planned


def plan(settings: Settings, changelogs: Iterable[str] = ()) -> tuple[Topic, ...]:
    """Return all topics. `changelogs` are full names (Faust derives them from the app's id, which holds the prefix).

    >>> [t.name for t in plan(Settings(topic_prefix="a."), ["a.join-changelog"]) if t.retention is None]
    ['a.calibrations', 'a.join-changelog']
    """
    kept = dict.fromkeys(INPUT_TYPES, INPUT_RETENTION) | dict.fromkeys(RECORDS, RECORD_RETENTION)
    timed = [Topic(settings.topic_prefix + t.topic, settings.partitions, keep) for t, keep in kept.items()]
    compacted = [settings.topic_prefix + Calibration.topic, *changelogs]
    return (*timed, *(Topic(name, settings.partitions, None) for name in compacted))


def create(settings: Settings, changelogs: Iterable[str] = ()) -> list[str]:
    """Create what is missing and return its names; alter what existing topics lack of what we rely on.

    Raises `SettingsError` if an existing topic is cut otherwise, or is cleaned otherwise and must not be altered.
    """
    wanted = plan(settings, changelogs)
    with administrator(settings) as admin:
        found = _look(admin, wanted)
        if missing := [one.topic for one in found if not one.partitions]:
            _create(admin, missing, settings.replication)
        done = _put_right(admin, [one for one in found if one.wrong])
        # Brokers learn of it a moment later: what is done is not looked at again.
        check(one._replace(configs={}) if one.topic in done else one for one in _look(admin, wanted))
    return [topic.name for topic in missing]


def describe(settings: Settings, changelogs: Iterable[str] = ()) -> list[Found]:
    """Return every topic of the plan as it is."""
    with administrator(settings) as admin:
        return _look(admin, plan(settings, changelogs))


def check(found: Iterable[Found]) -> None:
    """Raise `SettingsError` for the first topic that is missing, cut otherwise than the plan says, or cleaned so."""
    for one in found:
        name, expected = one.topic.name, one.topic.partitions
        if not one.partitions:
            raise SettingsError(f"topic {name} does not exist: run `demur topics`")
        if one.partitions > expected:
            raise SettingsError(
                f"topic {name} has {one.partitions} partitions, and DEMUR_PARTITIONS is {expected}: that number says "
                "where each key lies, so what the topics were made with must stay, and only a new set of topics "
                "(another DEMUR_TOPIC_PREFIX) can have another; see docs/integrate.md",
            )
        if one.partitions < expected:
            raise SettingsError(
                f"topic {name} has {one.partitions} partitions, not {expected}: what is joined must be cut alike; set "
                f"DEMUR_PARTITIONS={one.partitions}, or another DEMUR_TOPIC_PREFIX, or delete the topic",
            )
        if planned := one.wrong.get("cleanup.policy"):
            raise SettingsError(
                f"topic {name} has cleanup.policy={one.configs['cleanup.policy']}, not {planned}: "
                f"{'what is older is deleted' if planned == 'compact' else 'only the newest of each key is kept'}"
                "; run `demur topics` as one who may alter its configuration"
            )


def warn(found: Iterable[Found]) -> None:
    """Name the topics that are not as stages rely on: all goes well until it matters."""
    for one in found:
        if one.wrong:
            log.warning(
                "this topic may stop its readers, or lose records too soon",
                topic=one.topic.name,
                lacks=one.wrong,
                remedy="run `demur topics` as one who may alter its configuration",
            )


@contextmanager
def administrator(settings: Settings) -> Iterator[KafkaAdminClient]:
    """Connect. Raises `SettingsError` when no broker answers, or one is another machine and nothing is encrypted."""
    reach(settings)
    try:
        admin = KafkaAdminClient(**kafka_options(settings), bootstrap_timeout_ms=CONNECT_MS)
    except KafkaError:
        raise refused(settings) from None
    try:
        _check_near(settings, admin)
        yield admin
    finally:
        admin.close()


def _check_near(settings: Settings, admin: KafkaAdminClient) -> None:
    """The bootstrap address may be a tunnel's: clients go where the brokers say that they are."""
    brokers = (f"{broker['host']}:{broker['port']}" for broker in admin.describe_cluster()["brokers"])
    if not (settings.encrypted or settings.allow_plaintext) and (host := far(",".join(brokers))) is not None:
        raise SettingsError(
            f"DEMUR_BOOTSTRAP: the brokers behind it are at {host}, another machine, and TLS is off: set DEMUR_CAFILE, "
            "or DEMUR_ALLOW_PLAINTEXT=true to let patients' text travel in the clear"
        )


def _put_right(admin: KafkaAdminClient, wrong: Sequence[Found]) -> set[Topic]:
    """Alter what topics lack; return those of which the broker took it, and name the others."""
    asked = [ConfigResource(ConfigResourceType.TOPIC, one.topic.name, one.wrong) for one in wrong]
    answers = admin.alter_configs(asked)["topic"] if asked else {}
    done = {one.topic for one in wrong if answers.get(one.topic.name) == "OK"}
    warn(one for one in wrong if one.topic not in done)
    return done


def _look(admin: KafkaAdminClient, wanted: Iterable[Topic]) -> list[Found]:
    topics = {topic.name: topic for topic in wanted}
    counts = {t["name"]: len(t["partitions"]) for t in admin.describe_topics(list(topics)) if not t["error_code"]}
    configs = _configs(admin, counts)
    return [Found(topic, counts.get(name, 0), configs.get(name, {})) for name, topic in topics.items()]


def _configs(admin: KafkaAdminClient, names: Iterable[str]) -> dict[str, dict[str, str]]:
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    answer = admin.describe_configs(asked, config_filter="all").get("topic", {}) if asked else {}
    return {
        name: {key: config["value"] for key, config in configs.items() if key in SHOWN}
        for name, configs in answer.items()
    }


def _create(admin: KafkaAdminClient, topics: Iterable[Topic], replication: int | None) -> None:
    """Ask for all at once; a topic that another administrator made meanwhile is as good."""
    copies = {"replication_factor": replication} if replication else {}
    asked = {t.name: {"num_partitions": t.partitions, "configs": t.configs, **copies} for t in topics}
    for answer in admin.create_topics(asked, raise_errors=False)["topics"]:
        if answer["error_code"] not in {0, TopicAlreadyExistsError.errno}:
            raise DemurError(f"topic {answer['name']} could not be created: {answer['error_message']}")
    admin.wait_for_topics(list(asked))
