"""Names of headers that are no UTF-8: Kafka takes them, and whoever reads gets every record of the batch."""

from pathlib import Path

from aiokafka import TopicPartition

from models.events import DeadLetter, decode
from streams import topics
from streams.broker import free_port
from streams.connection import kafka_options
from streams.drive import launch
from streams.reading import read_all
from streams.settings import Settings
from streams.stages import changelogs
from streams.standalone_consumers import standalone_consumer
from tests.batches import batch_of
from tests.integration.test_codecs import send_made
from tests.integration.test_hang import until

VALUES = [b"0", b"1", b"2"]
NAMES = (b"plain", "Größe".encode("latin-1"), b"plain")


async def test_a_reader_and_a_follower_get_every_record(settings: Settings) -> None:
    topics.create(settings)
    await send_made(settings, "feedback", batch_of(VALUES, NAMES))
    assert [record.value for record in read_all(settings, "feedback")] == VALUES
    place = TopicPartition(f"{settings.topic_prefix}feedback", 0)
    async with standalone_consumer(kafka_options(settings), [place], auto_offset_reset="earliest") as consumer:
        assert [(await consumer.getone()).value for _ in VALUES] == VALUES


async def test_a_worker_gives_every_record_its_end(settings: Settings, tmp_path: Path) -> None:
    changes = {"data_dir": tmp_path, "stages": ("join",), "http_port": free_port()}
    mine = settings.model_copy(update=changes)
    topics.create(mine, changelogs(mine))
    await send_made(mine, "feedback", batch_of(VALUES, NAMES))
    worker = launch(mine, tmp_path / "worker.log")
    try:
        until(lambda: len(read_all(mine, "dead-letters")) == len(VALUES) or not worker.running, "the dead letters")
        assert worker.running, worker.last_words(50)
    finally:
        worker.end(grace_s=30.0)
    letters = [decode(DeadLetter, record.value) for record in read_all(mine, "dead-letters")]
    assert sorted((one.source_topic, one.partition, one.offset) for one in letters) == [
        (f"{mine.topic_prefix}feedback", 0, offset) for offset in range(len(VALUES))
    ]
