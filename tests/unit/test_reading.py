"""Plain readers and a broker that does not answer as one."""

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Thread
from unittest.mock import Mock

import pytest
from kafka.errors import KafkaTimeoutError

from models.errors import DemurError, SettingsError
from streams.logbook import instructing
from streams.reading import read_all
from streams.settings import Settings, load
from tests.unit.test_control import order


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes connections and says nothing, as one does that waits for TLS."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = []

        def accept() -> None:
            with suppress(OSError):
                while True:
                    taken.append(server.accept())

        Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def ask(settings: Settings) -> object:
    return read_all(settings, "labels")


def command(settings: Settings) -> object:
    with instructing(settings) as instruct:
        return instruct(order("release"))


@pytest.mark.parametrize("reach", [ask, command])
def test_what_listens_and_does_not_answer_is_refused_in_one_sentence(
    reach: Callable[[Settings], object], silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("reading", "logbook"):
        monkeypatch.setattr(f"streams.{module}.CONNECT_MS", 300)
    with pytest.raises(SettingsError, match=r"does not answer as Kafka: does it want TLS"):
        reach(load(bootstrap=silent))


def test_an_order_that_the_broker_does_not_confirm_may_lie_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Mock(**{"return_value.send.return_value.get.side_effect": KafkaTimeoutError})
    monkeypatch.setattr("streams.logbook.KafkaProducer", late)
    monkeypatch.setattr("streams.logbook.reach", lambda _: None)
    with pytest.raises(DemurError, match=r"KafkaTimeoutError\): see `demur calibrator log icu`"):
        command(load())
