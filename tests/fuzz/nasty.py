"""Hostile bytes from a seed: broken JSON, JSON of every shape, and events that are nearly right."""

import json
import random
from collections.abc import Callable
from typing import Any, Final

import orjson

from models.calibration.filter import Filter
from models.events import encode
from models.training import synth
from tests.stagecraft import decision, feedback
from tests.unit.test_fold import label

WEEK: Final = synth.generate(synth.Config(responses=40, seed=5))
GOOD: Final[list[dict[str, Any]]] = [
    orjson.loads(encode(event))
    for event in (*(a.event for a in WEEK.arrivals[:60]), decision(), feedback("f1", action="edited"), label(1))
] + [
    {"type": "watermark", "occurred_at": "2026-01-05T08:00:00Z"},
    {
        "type": "outcome", "label_id": "l", "conversation_id": "c", "response_id": "r", "turn": 0, "rejected": True,
        "depth": "deep", "occurred_at": "2026-01-05T08:00:00Z",
    },
    {
        "type": "instruction", "instruction_id": "i", "deployment": "ward", "order": "approval", "version": 1,
        "model_hash": "m", "ceilings": {"all": -2.0}, "by": "dr", "occurred_at": "2026-01-05T08:00:00Z",
    },
    {
        "type": "instruction", "instruction_id": "j", "deployment": "ward", "order": "rollback", "version": 0,
        "model_hash": "m", "parameters": Filter().state(), "by": "dr", "occurred_at": "2026-01-05T08:00:00Z",
    },
    {
        "type": "change", "deployment": "ward", "cause": "labels", "before": None, "last": "l", "after": {
            "version": 1, "labels": 1, "missing_labels": 299, "parameters": {"intercept": 0.1},
            "cuts": {"all": {"green": -3.0, "red": None}}, "shares": {"green": 1.0}, "as_of": "2026-01-05T08:00:00Z",
        },
    },
    {"type": "closure", "closure_id": "c", "reason": "orphan", "response_id": "r", "closed_at": "2026-01-05T08:00:00Z"},
]  # fmt: skip
NASTY: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64, 10**40, 0.0, -0.0, 1e308, 5e-324,
    float("nan"), float("inf"), float("-inf"), "", " ", "\x00", "\x00progress/0", "a" * 128, "a" * 129, "r1", "x\n",
    "x y", "\u0660\u0661", "\ud800", "\U0001f4a9", "\u202e", "\u200b", "e\u0301" * 50, "../../etc/passwd", "{{7*7}}",
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "1969-12-31T23:59:59Z", "2026-01-05T08:00:00",
    "2026-01-05T08:00:00+23:59", "2026-02-30T08:00:00Z", "2026-01-05", "1e5", "NaN", [], {}, [[]], [None], {"": ""},
    {"a": {"b": {"c": 1}}}, {"category": "dosing", "site": "north"}, ["truncated"], {"type": "decision"},
)  # fmt: skip
WAYS: Final = ("near", "near", "near", "near", "good", "bytes", "bytes", "json", "noise", "deep")
TOKENS: Final = (b'"', b"{", b"}", b",", b"\\", b"\\ud800", b"\xed\xa0\x80", b"1e999")
HEADERS: Final = ("ce_id", "ce_type", "content-type", "Faust-Ag-ReplyTo", "", "\u00e9", "Gr??e", "ce_id\x00")


class Nasty:
    """Draws hostile input."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self._ways: dict[str, Callable[[], bytes]] = {
            "near": self._near,
            "good": lambda: dump(self._good()),
            "bytes": lambda: self._garbled(dump(self._good())),
            "json": lambda: dump(self._any(4)),
            "noise": lambda: self.rng.randbytes(self.rng.randint(0, 64)),
            "deep": self._deep,
        }

    def value(self) -> bytes:
        """Return one message."""
        return self._ways[self.rng.choice(WAYS)]()

    def key(self) -> bytes | None:
        """Return one key."""
        return self.rng.choice((None, b"", b"r1", b"\xff\x00", b"k" * 300, self.rng.randbytes(8)))

    def headers(self) -> tuple[tuple[str, bytes], ...]:
        """Return a few headers."""
        names = self.rng.choices(HEADERS, k=self.rng.randint(0, 3))
        return tuple((name, self.rng.choice((b"", b"r1", b"\xff\xfe", b"x" * 500, b"topic"))) for name in names)

    def _good(self) -> dict[str, Any]:
        """A valid event; its ids come from a small set, so that events meet."""
        event = dict(self.rng.choice(GOOD))
        for name in ("response_id", "feedback_id", "conversation_id", "label_id", "instruction_id"):
            if name in event and self.rng.random() < 0.5:
                event[name] = f"{name[0]}{self.rng.randint(0, 20)}"
        return event

    def _near(self) -> bytes:
        event = self._good()
        for _ in range(self.rng.randint(1, 3)):
            name = self.rng.choice([*event, "schema", "unknown", "response", "context"])
            match self.rng.randint(0, 3):
                case 0:
                    event.pop(name, None)
                case 1:
                    event[name] = self._any(2)
                case _:
                    event[name] = self.rng.choice(NASTY)
        return dump(event)

    def _any(self, depth: int) -> Any:
        if depth == 0 or self.rng.random() < 0.5:
            return self.rng.choice(NASTY)
        few = range(self.rng.randint(0, 4))
        if self.rng.random() < 0.5:
            return [self._any(depth - 1) for _ in few]
        return {str(self.rng.choice([*GOOD[0], "schema", "x"])): self._any(depth - 1) for _ in few}

    def _garbled(self, data: bytes) -> bytes:
        """Flip, cut, double or insert bytes."""
        for _ in range(self.rng.randint(1, 4)):
            at = self.rng.randrange(len(data) + 1)
            match self.rng.randint(0, 4):
                case 0:
                    data = data[:at]
                case 1:
                    data = data[:at] + self.rng.randbytes(1) + data[at + 1 :]
                case 2:
                    data = (
                        data[:at]
                        + self.rng.choice((b'"', b"{", b"}", b",", b"\\", b"\\ud800", b"\xed\xa0\x80"))
                        + data[at:]
                    )
                case 3:
                    data = data[:at] + data[max(0, at - 20) : at] + data[at:]
                case _:
                    data = data[:at] + data[at + self.rng.randint(1, 9) :]
        return data

    def _deep(self) -> bytes:
        n = self.rng.choice((10, 200, 1100, 5000))
        return self.rng.choice((b"[" * n + b"]" * n, b'{"a":' * n + b"1" + b"}" * n, b"[" * n, b'{"query":' + b"[" * n))


def dump(value: Any) -> bytes:
    """Write JSON that may be none: NaN, half of a surrogate pair, numbers of any size."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError):
        return repr(value).encode("utf-8", "surrogatepass")
