"""Which broker the tests run on, and what every test gets from it.

`DEMUR_BOOTSTRAP` if it is set; else Apache Kafka itself if Java and Maven can give it; else the embedded broker, and
tests marked `kafka` are skipped by name. The last lines of the run say which. `--require-kafka` refuses anything less.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import hypothesis
import pytest

from models.errors import DemurError
from streams.broker import embedded
from streams.settings import Settings, load
from tests import apache_kafka

hypothesis.settings.register_profile("demur", deadline=None)  # no test asserts on time
hypothesis.settings.load_profile("demur")

CHOICE = pytest.StashKey["Choice"]()
BROKER = pytest.StashKey[str]()
"""Which it was, in words."""


class Choice:
    """The broker of this run."""

    def __init__(self) -> None:
        given = load()
        self.external = given.bootstrap if "bootstrap" in given.model_fields_set else None
        self.lack = None if self.external else lack()
        self.is_kafka = not self.external and not self.lack

    def __str__(self) -> str:
        if self.external:
            return f"{self.external} (DEMUR_BOOTSTRAP)"
        if self.is_kafka:
            return f"Apache Kafka {apache_kafka.VERSION} (KRaft, one process)"
        return f"embedded (Tansu), without Apache Kafka: {self.lack}"


def lack() -> str | None:
    """Return what Apache Kafka lacks here."""
    if missing := apache_kafka.missing():
        return f"no {' and no '.join(missing)}"
    try:
        apache_kafka.fetched()
    except DemurError as error:
        return str(error)
    return None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-kafka", action="store_true", help="fail unless the tests run on Apache Kafka itself")


def pytest_configure(config: pytest.Config) -> None:
    is_first = not hasattr(config, "workerinput")
    if is_first and config.getoption("--require-kafka") and not (choice := Choice()).is_kafka:
        raise pytest.UsageError(f"--require-kafka: {choice.lack or 'DEMUR_BOOTSTRAP may be any broker: unset it'}")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not any("broker" in getattr(item, "fixturenames", ()) or item.get_closest_marker("kafka") for item in items):
        return
    choice = config.stash[CHOICE] = Choice()
    if not choice.is_kafka:
        skip = pytest.mark.skip(reason=f"needs Apache Kafka itself; the broker is {choice}")
        for item in items:
            if item.get_closest_marker("kafka"):
                item.add_marker(skip)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Keep which broker it was, or tell the process that runs this one as one of several (pytest-xdist)."""
    if CHOICE in session.config.stash:
        session.config.stash[BROKER] = said = str(session.config.stash[CHOICE])
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["broker"] = said


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    if said := getattr(node, "workeroutput", {}).get("broker"):
        node.config.stash[BROKER] = said


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if BROKER in config.stash:
        terminalreporter.write_line(f"broker: {config.stash[BROKER]}")


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bootstrap address of this run's broker."""
    choice = request.config.stash[CHOICE]
    with ExitStack() as stack:
        if choice.external:
            yield choice.external
        elif choice.is_kafka:
            yield stack.enter_context(apache_kafka.apache_kafka(tmp_path_factory.mktemp("kafka"))).bootstrap
        else:
            yield stack.enter_context(embedded(tmp_path_factory.mktemp("broker")))


@pytest.fixture
def settings(broker: str) -> Settings:
    """Settings of an installation that no other test shares."""
    return load(bootstrap=broker, topic_prefix=f"t{uuid4().hex[:12]}-", http_port=0)
