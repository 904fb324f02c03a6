"""Batches that a producer compresses: Kafka unpacks them; one that was not unpacked ends a worker, which says where."""

import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c_py
from kafka import KafkaAdminClient, KafkaProducer
from structlog.testing import capture_logs

from streams import topics
from streams.broker import free_port
from streams.clock import WallClock
from streams.connection import kafka_options
from streams.drive import launch
from streams.reading import read_all
from streams.settings import Settings
from streams.stages import changelogs
from tests.batches import batch_of
from tests.integration.test_hang import until

HEAD, LENGTH, CRC, ATTRIBUTES = 61, 8, 17, 21
"""Bytes before the records of a batch (format 2), and where in them those stand that depend on the codec."""
LZ4 = 3


def lz4(data: bytes) -> bytes:
    """One stored block in an LZ4 frame, which needs no library: magic, descriptor with its checksum, block, end."""
    return b"\x04\x22\x4d\x18\x60\x40\x82" + struct.pack("<I", len(data) | 1 << 31) + data + bytes(4)


def packed(batch: bytes) -> bytes:
    """Compress a batch of records."""
    made = bytearray(batch[:HEAD] + lz4(batch[HEAD:]))
    struct.pack_into(">i", made, LENGTH, len(made) - LENGTH - 4)
    struct.pack_into(">h", made, ATTRIBUTES, LZ4)
    struct.pack_into(">I", made, CRC, calc_crc32c_py(bytes(made[ATTRIBUTES:])))
    return bytes(made)


async def send_made(settings: Settings, topic: str, made: bytes) -> int:
    """Send the bytes of a batch to partition 0; return the offset of its first record."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap)
    await producer.start()
    try:
        batch = producer.create_batch()
        batch.append(timestamp=1000, key=None, value=b"")
        batch.close()
        batch._build = lambda: made
        sent = await producer.send_batch(batch, settings.topic_prefix + topic, partition=0)
        return int((await sent).offset)
    finally:
        await producer.stop()


async def send_packed(settings: Settings, topic: str, value: bytes) -> int:
    """Send a batch in a codec that this machine has no library for; return its offset in partition 0."""
    return await send_made(settings, topic, packed(batch_of([value])))


@pytest.fixture
def administrator(settings: Settings) -> Iterator[KafkaAdminClient]:
    with topics.administrator(settings) as admin:
        yield admin


@pytest.fixture
def bare(settings: Settings, administrator: KafkaAdminClient) -> Settings:
    """Topics as an administrator makes them who has read no more than what is compacted."""
    planned = topics.plan(settings, changelogs(settings))
    policies = {t.name: {"cleanup.policy": t.configs["cleanup.policy"]} for t in planned}
    asked = {t.name: {"num_partitions": t.partitions, "replication_factor": 1} for t in planned}
    asked = {name: how | {"configs": policies[name]} for name, how in asked.items()}
    administrator.create_topics(asked)
    administrator.wait_for_topics(list(asked))
    return settings


@pytest.mark.kafka
async def test_the_broker_unpacks_what_it_takes_and_dates_it_itself(settings: Settings) -> None:
    topics.create(settings)
    before = WallClock().now().timestamp() * 1000
    with closing(KafkaProducer(**kafka_options(settings), compression_type="gzip")) as producer:
        producer.send(f"{settings.topic_prefix}feedback", b"gzip", partition=0, timestamp_ms=1000).get(10)
    await send_packed(settings, "feedback", b"lz4")
    found = read_all(settings, "feedback")
    assert [record.value for record in found] == [b"gzip", b"lz4"]
    assert all(record.timestamp >= before - 1000 for record in found)


@pytest.mark.kafka
async def test_what_would_unpack_to_more_than_a_message_may_have_is_refused(settings: Settings) -> None:
    topics.create(settings)
    with closing(KafkaProducer(**kafka_options(settings), compression_type="gzip", max_request_size=10**9)) as producer:
        sent = producer.send(f"{settings.topic_prefix}feedback", bytes(50 * 2**20), partition=0)
        with pytest.raises(Exception, match=r"MessageSizeTooLarge|RecordTooLarge|larger"):
            sent.get(30)
    assert read_all(settings, "feedback") == []


@pytest.mark.kafka
def test_topics_that_others_made_are_warned_of_and_put_right(bare: Settings) -> None:
    with capture_logs() as logs:
        topics.warn(topics.describe(bare))
    assert {one["topic"] for one in logs} == {one.topic.name for one in topics.describe(bare)}
    assert all(one["lacks"].items() >= topics.BROKER_CONFIGS.items() for one in logs)
    with capture_logs() as logs:
        assert topics.create(bare, changelogs(bare)) == []
    assert logs == []
    until(lambda: not any(one.wrong for one in topics.describe(bare, changelogs(bare))), "topics put right")


async def test_a_batch_that_cannot_be_unpacked_ends_the_worker_and_is_named(bare: Settings, tmp_path: Path) -> None:
    offset = await send_packed(bare, "feedback", b"{}")
    mine = bare.model_copy(update={"data_dir": tmp_path, "stages": ("join",), "http_port": free_port()})
    worker = launch(mine, tmp_path / "worker.log")
    try:
        until(lambda: not worker.running, "the end of the worker")
        said = worker.last_words(50)
    finally:
        worker.end(grace_s=1.0)
    assert f"the batch at {bare.topic_prefix}feedback/0/{offset} is compressed" in said
    assert "pip install cramjam" in said
