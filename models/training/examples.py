"""One judged answer, wherever it comes from: what training and evaluation work on."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final, Literal

import msgspec

from models.events import Depth, Response

Verdict = Literal["accept", "edit", "reject"]


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """An event and what was thought of it.

    `question` groups examples that must never be divided between training and test. `rater` is a pseudonym. `verdict`
    is the source's own word; `rejected` is the target that the source defines, which need not count an edit. `title`
    is the question that the source says this answer was written for.
    """

    event: Response
    rejected: bool
    depth: Depth = "none"
    verdict: Verdict = "accept"
    rater: str | None = None
    question: str
    edited: str | None = None
    title: str | None = None

    @property
    def rejected_deeply(self) -> bool:
        """Whether it was rejected deeply: a source may also state the depth of an edit that it counts as accepted."""
        return self.rejected and self.depth == "deep"


def has_both_verdicts(examples: Iterable[Example]) -> bool:
    """Whether accepted and rejected ones are among them: of one verdict alone nothing can be learnt or ranked."""
    return len({example.rejected for example in examples}) == 2


def pending(example: Example) -> Example:
    """The same example before its answer was written."""
    return msgspec.structs.replace(example, event=msgspec.structs.replace(example.event, response=None))


def digest(examples: Sequence[Example]) -> str:
    """SHA-256-sized BLAKE2b digest of the examples, in their order."""
    state = blake2b(digest_size=32)
    encoder = msgspec.json.Encoder(order="deterministic")
    for example in examples:
        state.update(encoder.encode(example))
    return state.hexdigest()


_SCALE: Final = 2**64


def fold_of(question: str, seed: int) -> float:
    """A stable point in [0, 1) for a question: the same on every machine and whatever else is in the data."""
    return (
        int.from_bytes(blake2b(question.encode(), digest_size=8, key=seed.to_bytes(8, "big")).digest(), "big") / _SCALE
    )


def split(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Divide into (rest, about `share` of the questions); neither a question nor a passage is on both sides."""
    held = [index for index, example in enumerate(examples) if fold_of(example.question, seed) < share]
    return [examples[index] for index in beside(examples, held)], [examples[index] for index in held]


def folds(examples: Sequence[Example], count: int, seed: int) -> list[list[int]]:
    """Indices of each of `count` folds. Questions are dealt out in a seeded order: each fold has as many of them."""
    questions = sorted({example.question for example in examples}, key=lambda name: (fold_of(name, seed), name))
    dealt = {name: index % count for index, name in enumerate(questions)}
    parts: list[list[int]] = [[] for _ in range(count)]
    for index, example in enumerate(examples):
        parts[dealt[example.question]].append(index)
    return parts


COPIED: Final = 60
"""Words from which an answer that stands twice was copied; shorter ones coincide, as the synthetic hospital's do."""


def beside(examples: Sequence[Example], held: Sequence[int]) -> list[int]:
    """Indices of what may be learnt from while `held` is measured: the others, but for copies of answers in it."""
    inside, known = set(held), {_passage(examples[index]) for index in held}
    return [
        index
        for index, example in enumerate(examples)
        if index not in inside and ((text := _passage(example)) is None or text not in known)
    ]


def unseen(train: Sequence[Example], test: Sequence[Example]) -> list[Example]:
    """What of `train` may be learnt from while `test` is measured: not its very answers, nor copies of long ones."""
    rows, known = [*train, *test], {_texts(example) for example in test}
    kept = (rows[index] for index in beside(rows, range(len(train), len(rows))))
    return [example for example in kept if _texts(example) not in known]


def _texts(example: Example) -> tuple[str, ...]:
    event = example.event
    return tuple(plain(text) for text in (*event.earlier, event.query, event.response or ""))


def _passage(example: Example) -> str | None:
    text = plain(example.event.response or "")
    return text if text.count(" ") >= COPIED - 1 else None


def joined(examples: Sequence[Example]) -> list[Example]:
    """Give one question to all that share a question, a conversation, or what was asked after the same turns."""
    from scipy.cluster.hierarchy import DisjointSet  # noqa: PLC0415 (0.3 s, which whoever reads events need not wait)

    keys = [_shared(example) for example in examples]
    sets = DisjointSet(key for shared in keys for key in shared)
    for first, *others in keys:
        for key in others:
            sets.merge(first, key)
    names: dict[tuple[str, ...], str] = {}
    return [
        msgspec.structs.replace(example, question=names.setdefault(sets[first], example.question))
        for example, (first, *_) in zip(examples, keys, strict=True)
    ]


def _shared(example: Example) -> tuple[tuple[str, ...], ...]:
    event = example.event
    asked = tuple(plain(text) for text in (*event.earlier, event.query))
    return ("question", example.question), ("conversation", event.conversation_id), ("asked", *asked)


def plain(text: str) -> str:
    """A text as it is compared: without capitals, each space one."""
    return " ".join(text.lower().split())
