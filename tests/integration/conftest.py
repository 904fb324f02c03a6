"""A broker of its own for tests that hurt it, and a model for tests that restart workers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny_model as tiny
from tests.apache_kafka import ApacheKafka, apache_kafka


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[ApacheKafka]:
    """Apache Kafka to kill, stop, pause and restart. Mark the test `kafka`."""
    with apache_kafka(tmp_path) as kafka:
        yield kafka


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights."""
    return tiny.make(tmp_path_factory.mktemp("tiny"))
