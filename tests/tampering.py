"""Seeded changes of a log: an edited field, a dropped record, a copy that differs, two labels swapped.

An edit keeps the record well-formed: canonical bytes and a digest that fits, so that only its meaning gives it away.
What nothing depends on is left alone, and named here.
"""

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from models.errors import EventError
from models.events import CONTRACT, Decision, Feedback, Instruction, Label, build, decode, digest, encode
from models.labels import is_evidence
from models.oracle import Entry, Logs

FREE = {
    ("responses", "department"), ("responses", "specialty"), ("responses", "llm_model"), ("responses", "context"),
    ("feedback", "comment"), ("feedback", "dwell_ms"),
    # Of these only the verdict counts, which another word or another edit may leave as it is:
    ("feedback", "reason_code"), ("feedback", "edited_response"),
    ("alarms", ""),  # those of WATCH are not recomputed
}  # fmt: skip
VERDICT = ("clinician", "action")
"""Of feedback that became no label, or repeats one that did, nothing but its id, its response and its time matter."""
WORDS: dict[str, tuple[str, ...]] = {
    "tier": ("green", "yellow", "red"),
    "action": ("show", "banner", "review", "withhold"),
    "depth": ("none", "surface", "deep"),
    "kind": ("verdict", "correction", "revocation"),
    "reason": ("unlabelled", "duplicate", "superseded", "orphan"),
    "history": ("none", "accepted", "rejected"),
}
VERBS = ("accepted", "edited", "disagreed", "flagged", "abandoned", "retracted")
Path = tuple[str | int, ...]


class Tampered(NamedTuple):
    """A log with one change, what it was, and where."""

    logs: Logs
    what: str


class Forger:
    """Makes changes to one log."""

    def __init__(self, logs: Logs) -> None:
        self._logs = logs
        self._labels = [(e, found) for e in logs.entries["labels"] if isinstance(found := _folded(e), Label)]
        labelled = {label.feedback_id for _, label in self._labels}
        first = {_feedback_id(e): e for e in reversed(logs.entries["feedback"])}
        self._counted = {entry for id_, entry in first.items() if id_ in labelled}
        self._scored = {label.response_id for _, label in self._labels if label.decision.calibrator_version}

    def forge(self, seed: int) -> Tampered:
        """Return the change of this seed."""
        rng = random.Random(seed)
        ways = {"edit": self._edit, "drop": self._drop, "copy": self._copy, "swap": self._swap}
        while True:
            how = rng.choices(list(ways), (6, 2, 2, 2))[0]
            if (found := ways[how](rng)) is not None:
                return found

    def _pick(self, rng: random.Random) -> Entry:
        topic = rng.choice([topic for topic, entries in self._logs.entries.items() if entries and topic != "alarms"])
        return rng.choice(list(self._logs.entries[topic]))

    def _edit(self, rng: random.Random) -> Tampered | None:
        entry = self._pick(rng)
        changed = self._changed(rng, entry)
        return changed and self._with(entry, [changed[0]], f"edit {changed[1]}")

    def _copy(self, rng: random.Random) -> Tampered | None:
        entry = self._pick(rng)
        changed = None if entry.topic in {"responses", "feedback"} else self._changed(rng, entry)
        if changed is None:
            return None
        last = max(e.offset for e in self._logs.entries[entry.topic] if e.partition == entry.partition)
        return self._with(entry, [entry, changed[0]._replace(offset=last + 1)], f"copy with {changed[1]}")

    def _drop(self, rng: random.Random) -> Tampered | None:
        entry = self._pick(rng)
        newest = max(
            self._logs.entries["calibrations"], key=lambda e: decode(CONTRACT["calibrations"], e.value).version
        )
        if entry.topic == "calibrations" and entry is not newest:
            return None  # Kafka compacts them away
        if b'"watermark"' in entry.value:
            return None  # it only lets time pass
        return self._with(entry, [], "drop")

    def _swap(self, rng: random.Random) -> Tampered | None:
        carry = [entry for entry, label in self._labels if _carries(label)]
        one = rng.choice(carry)
        other = rng.choice([e for e in carry if e.partition == one.partition])
        if one is other:
            return None
        swapped = {
            one: one._replace(key=other.key, value=other.value, headers=other.headers),
            other: other._replace(key=one.key, value=one.value, headers=one.headers),
        }
        entries = [swapped.get(e, e) for e in self._logs.entries["labels"]]
        logs = self._logs._replace(entries={**self._logs.entries, "labels": entries})
        return Tampered(logs, f"swap labels {one.partition}/{one.offset} and {other.partition}/{other.offset}")

    def _with(self, entry: Entry, instead: list[Entry], what: str) -> Tampered:
        rest = [e for e in self._logs.entries[entry.topic] if e is not entry]
        entries = sorted([*rest, *instead], key=lambda e: (e.partition, e.offset))
        logs = self._logs._replace(entries={**self._logs.entries, entry.topic: entries})
        return Tampered(logs, f"{what} at {entry.topic}/{entry.partition}/{entry.offset}")

    def _changed(self, rng: random.Random, entry: Entry) -> tuple[Entry, str] | None:
        try:
            event = decode(CONTRACT[entry.topic], entry.value)
        except EventError:
            return None  # a broken input is as broken after an edit; its dead letter is edited instead
        value = orjson.loads(entry.value)
        paths = [path for path in _leaves(value) if self._matters(entry, event, path)]
        if not paths:
            return None
        path = rng.choice(paths)
        _set(value, path, _other(rng, path[-1], _get(value, path), entry.topic))
        try:
            changed = encode(build(CONTRACT[entry.topic], value))
        except EventError:
            changed = orjson.dumps(value)
        if changed == entry.value:
            return None
        headers = tuple((k, digest(changed)[:32].encode() if k == "ce_id" else v) for k, v in entry.headers)
        return entry._replace(value=changed, headers=headers), ".".join(map(str, path))

    def _matters(self, entry: Entry, event: Any, path: Path) -> bool:
        if (entry.topic, path[0]) in FREE or path[0] == "type":
            return False
        if isinstance(event, Instruction) and path[0] == "version" and event.order == "release":
            return False
        if isinstance(event, Feedback) and entry not in self._counted and path[0] in VERDICT:
            return False
        if isinstance(event, Decision):
            if path[0] == "model_hash":  # only labels and calibrations say it again
                return event.response_id in self._scored
            return not (path[0] == "reasons" and "out_of_distribution" in event.reasons)  # see `tiering`
        return b'"watermark"' not in entry.value


def _feedback_id(entry: Entry) -> str:
    try:
        return str(orjson.loads(entry.value).get("feedback_id"))
    except orjson.JSONDecodeError:
        return ""


def _folded(entry: Entry) -> Any:
    return decode(CONTRACT["labels"], entry.value)


def _carries(label: Label) -> bool:
    return is_evidence(label) and label.decision.logit is not None


def _leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    children = [leaf for key, child in inner for leaf in _leaves(child, (*path, key))]
    yield from children or ([path] if path else [])


def _get(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def _set(value: Any, path: Path, to: Any) -> None:
    _get(value, path[:-1])[path[-1]] = to


def _other(rng: random.Random, name: str | int, value: Any, topic: str) -> Any:
    """Return another value of the same kind."""
    words = VERBS if (topic, name) in {("labels", "action"), ("feedback", "action")} else WORDS.get(str(name), ())
    if value in words:
        return rng.choice([word for word in words if word != value])
    if isinstance(value, str):
        return _text(rng, value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value * rng.choice((0.9, 1.001)) if value else 0.25
    return {int: 7 + (value if isinstance(value, int) else 0), list: ["x"], dict: {"x": "y"}}.get(type(value), "x")


def _text(rng: random.Random, value: str) -> str:
    if value[:2] == "20" and "T" in value:
        return f"2025{value[4:]}"
    place = rng.randrange(len(value) + 1)
    return f"{value[:place]}x{value[place:]}"
