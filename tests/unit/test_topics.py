"""Where the brokers are that a bootstrap address leads to, and how they take what comes; without a broker."""

from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from models.errors import SettingsError
from streams import topics
from streams.settings import Settings, load
from streams.topics import TAKEN, Found, plan


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


def found(**configs: str) -> Found:
    topic = plan(Settings())[0]
    return Found(topic, topic.partitions, configs)


@pytest.mark.parametrize("setting", TAKEN)
def test_a_topic_that_takes_what_comes_as_it_comes_is_warned_of(setting: str) -> None:
    with capture_logs() as logs:
        topics.warn([found(**TAKEN), found(), found(**(TAKEN | {setting: "producer"}))])
    [warning] = logs
    assert warning["lacks"] == {setting: TAKEN[setting]}
    assert "demur topics" in warning["remedy"]


def test_every_topic_is_taken_unpacked_and_dated_by_the_broker() -> None:
    assert all(topic.configs.items() >= TAKEN.items() for topic in plan(Settings(), ["some-changelog"]))
