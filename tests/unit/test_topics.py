"""Where the brokers are that a bootstrap address leads to, and how topics must be; without a broker."""

from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from models.errors import SettingsError
from streams import topics
from streams.settings import Settings, load
from streams.topics import AT_LEAST, BROKER_CONFIGS, Found, plan


@pytest.fixture
def tunnel(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A broker that listens here, and says that it is elsewhere."""
    brokers = [{"host": "127.0.0.1", "port": 9092}, {"host": "kafka-2.example.org", "port": 9092}]
    admin = SimpleNamespace(describe_cluster=lambda: {"brokers": brokers}, close=lambda: None)
    monkeypatch.setattr(topics, "reach", lambda _: None)
    monkeypatch.setattr(topics, "KafkaAdminClient", lambda **_: admin)
    return brokers


def test_a_tunnel_to_another_machine_needs_tls_too(tunnel: list[Any]) -> None:
    with (
        pytest.raises(SettingsError, match=r"brokers behind it are at kafka-2\.example\.org, .*TLS is off"),
        topics.administrator(load()),
    ):
        pass


@pytest.mark.parametrize("how", [{"tls": True}, {"allow_plaintext": True}])
def test_a_tunnel_with_tls_or_the_users_word_is_taken(tunnel: list[Any], how: dict[str, Any]) -> None:
    with topics.administrator(load(**how)):
        pass


def test_brokers_of_this_machine_are_taken(tunnel: list[Any]) -> None:
    tunnel[1]["host"] = "::1"
    with topics.administrator(load()):
        pass


RECORDS, ROWS = plan(Settings(), ["some-changelog"])[::10]


def found(topic: topics.Topic = RECORDS, **configs: str) -> Found:
    """A topic whose configuration differs in this from what is planned."""
    return Found(topic, topic.partitions, topic.configs | configs)


@pytest.mark.parametrize("topic", [RECORDS, ROWS], ids=["records", "rows"])
def test_a_topic_is_as_planned_or_keeps_more(topic: topics.Topic) -> None:
    more = {name: str(int(topic.configs[name]) + 1) for name in AT_LEAST & topic.configs.keys()}
    assert not any(one.wrong for one in (found(topic), found(topic, **more), Found(topic, 4, {})))


@pytest.mark.parametrize(
    ("topic", "differs"),
    [
        *((RECORDS, {name: "producer"}) for name in BROKER_CONFIGS),
        (RECORDS, {"cleanup.policy": "compact"}),
        (RECORDS, {"retention.bytes": "1000000"}),
        (ROWS, {"cleanup.policy": "delete"}),
        (ROWS, {"cleanup.policy": "compact,delete"}),
        (ROWS, {"delete.retention.ms": "86400000"}),
        (ROWS, {"max.message.bytes": "1048588"}),
    ],
    ids=str,
)
def test_a_topic_that_is_not_as_stages_rely_on_is_warned_of(topic: topics.Topic, differs: dict[str, str]) -> None:
    with capture_logs() as logs:
        topics.warn([found(topic), found(topic, **differs)])
    [warning] = logs
    assert warning["lacks"] == {name: topic.configs[name] for name in differs}
    assert "demur topics" in warning["remedy"]


@pytest.mark.parametrize(
    ("topic", "policy", "then"),
    [
        (ROWS, "delete", "what is older is deleted"),
        (ROWS, "compact,delete", "what is older is deleted"),
        (RECORDS, "compact", "only the newest of each key is kept"),
        (RECORDS, "compact,delete", "only the newest of each key is kept"),
    ],
)
def test_rows_that_would_go_and_records_that_would_be_compacted_stop_the_start(
    topic: topics.Topic, policy: str, then: str
) -> None:
    says = rf"topic {topic.name} has cleanup\.policy={policy}, not {topic.configs['cleanup.policy']}: {then}; run"
    topics.check([found(), found(ROWS)])
    with pytest.raises(SettingsError, match=says):
        topics.check([found(topic, **{"cleanup.policy": policy})])


def test_more_partitions_than_expected_are_nothing_to_follow() -> None:
    """Keys would lie elsewhere: calibrators begin again, and feedback misses its response."""
    with pytest.raises(SettingsError, match="only a new set of topics") as raised:
        topics.check([found()._replace(partitions=8)])
    assert "set DEMUR_PARTITIONS" not in str(raised.value)


@pytest.mark.parametrize(
    ("topic", "configs", "kept"),
    [
        (RECORDS, {}, "30 days"),
        (RECORDS, {"retention.ms": "43200000"}, "0.5 days"),
        (RECORDS, {"retention.ms": "-1"}, "for ever"),
        (RECORDS, {"cleanup.policy": "compact"}, "newest per key"),
        (ROWS, {}, "newest per key"),
        (ROWS, {"cleanup.policy": "delete", "retention.ms": "604800000"}, "7 days"),
        (ROWS, {"cleanup.policy": "compact,delete", "retention.ms": "604800000"}, "newest per key, 7 days"),
    ],
    ids=str,
)
def test_what_is_shown_is_what_is_there(topic: topics.Topic, configs: dict[str, str], kept: str) -> None:
    assert found(topic, **configs).kept == kept
    assert Found(topic, 0, {}).kept == "?"


def test_every_topic_is_taken_unpacked_and_dated_by_the_broker() -> None:
    assert all(topic.configs.items() >= BROKER_CONFIGS.items() for topic in plan(Settings(), ["some-changelog"]))
