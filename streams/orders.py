"""A person's word on a calibrator: sent to its label log, and what LEARN made of it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from kafka import KafkaConsumer

from models.events import Change, DeadLetter, Instruction
from streams.logbook import genuine, instructing
from streams.reading import poll, reader
from streams.settings import Settings

WAIT_S: Final = 15.0
"""LEARN answers within a second; one that has just taken over from another worker, within some more."""
POLL_MS: Final = 200

Answer = Change | DeadLetter
"""The entry of the calibrator's log that an instruction made, or why it could not be followed."""


@contextmanager
def giving(settings: Settings, wait_s: float = WAIT_S) -> Iterator[Callable[[Instruction], Answer | None]]:
    """Yield what sends an instruction at once and returns LEARN's answer; None: there is none within `wait_s` seconds.

    An instruction that was made before connections are would be overtaken by what comes meanwhile.
    """
    answers = reader(settings, [Change.topic, DeadLetter.topic])
    with instructing(settings) as instruct, answers as (consumer, partitions):
        for partition, end in consumer.end_offsets(partitions).items():
            consumer.seek(partition, end)

        def give(instruction: Instruction) -> Answer | None:
            place = settings.topic_prefix + Instruction.topic, *instruct(instruction)
            for answer, _ in genuine(settings, _records(consumer, wait_s), len({one.partition for one in partitions})):
                if isinstance(answer, Change | DeadLetter) and _is_on(answer, instruction, place):
                    return answer
            return None

        yield give


def _records(consumer: KafkaConsumer, wait_s: float) -> Iterator[Any]:
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        yield from poll(consumer, POLL_MS)


def _is_on(answer: Answer, instruction: Instruction, place: tuple[str, int, int]) -> bool:
    if isinstance(answer, Change):
        return answer.last == instruction.instruction_id
    return (answer.source_topic, answer.partition, answer.offset, answer.stage) == (*place, "learn")
