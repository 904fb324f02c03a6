"""A person's word on a calibrator: sent to its label log, and what LEARN made of it."""

import time
from collections.abc import Iterator
from typing import Any, Final

from kafka import KafkaConsumer

from models.events import Change, DeadLetter, Instruction
from streams.logbook import genuine, instruct
from streams.reading import poll, reader
from streams.settings import Settings

WAIT_S: Final = 15.0
"""LEARN answers within a second; one that has just taken over from another worker, within some more."""
POLL_MS: Final = 200

Answer = Change | DeadLetter
"""The entry of the calibrator's log that an instruction made, or why it could not be followed."""


def give(settings: Settings, instruction: Instruction, wait_s: float = WAIT_S) -> Answer | None:
    """Send an instruction and return LEARN's answer; None if there is none within `wait_s` seconds."""
    with reader(settings, [Change.topic, DeadLetter.topic]) as (consumer, partitions):
        for partition, end in consumer.end_offsets(partitions).items():
            consumer.seek(partition, end)
        place = settings.topic_prefix + Instruction.topic, *instruct(settings, instruction)
        for answer, _ in genuine(settings, _records(consumer, wait_s)):
            if isinstance(answer, Change | DeadLetter) and _is_on(answer, instruction, place):
                return answer
    return None


def _records(consumer: KafkaConsumer, wait_s: float) -> Iterator[Any]:
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        yield from poll(consumer, POLL_MS)


def _is_on(answer: Answer, instruction: Instruction, place: tuple[str, int, int]) -> bool:
    if isinstance(answer, Change):
        return answer.last == instruction.instruction_id
    return (answer.source_topic, answer.partition, answer.offset, answer.stage) == (*place, "learn")
