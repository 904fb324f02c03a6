"""A broker of its own for tests that hurt it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apache_kafka import ApacheKafka, apache_kafka


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[ApacheKafka]:
    """Apache Kafka to kill, stop, pause and restart. Mark the test `kafka`."""
    with apache_kafka(tmp_path) as kafka:
        yield kafka
