"""What must hold of each reader for any bytes: a result or one of our errors; no other exception, and no silence."""

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import UnionType
from typing import Any, Final

import orjson

from models.calibration.ledger import Ledger, thresholds
from models.errors import DeliveryError, DemurError, EventError, IdReused, Undecodable, UnknownSchema
from models.events import (
    CONTRACT,
    WRITTEN_BY_OTHERS,
    Calibration,
    DeadLetter,
    Instruction,
    Response,
    build,
    decode,
    digest,
    encode,
    parse,
)
from models.oracle import Entry, Logs, check
from models.policy import Policies, Policy
from models.salience import plain, tokens
from models.training.data import read, read_logs
from streams import runs
from streams.calibrations import Calibrations
from streams.offline import Offline, calibrations
from streams.settings import load
from streams.stages import INPUTS, policies
from tests.fuzz.nasty import GOOD, NASTY, Nasty, dump
from tests.rehearsal import HORIZONS, RULES, HandClock, Reader, Rehearsal
from tests.stagecraft import at, record
from tests.unit.test_fold import label, theatre

Target = Callable[[Sequence[bytes], Nasty], None]
SHARED: Final = "its feedback id is counted in"
"""Who gives two responses one feedback id is not stopped: JOIN sees one response at a time. The oracle says so."""
_GOOD_ORDER: Final = next(event for event in GOOD if event["type"] == "instruction") | {"ceilings": {}}
PIECES: Final = 400
"""Inputs that share a state before it starts anew."""


def decoding(values: Sequence[bytes], _: Nasty) -> None:
    """Every type: an event that survives being written and read again, or an `EventError`."""
    for value in values:
        for type_ in CONTRACT.values():
            _decoding(type_, value)


def _decoding(type_: type | UnionType, value: bytes) -> None:
    try:
        event: Any = decode(type_, value)
    except EventError:
        return
    again: Any = decode(type_, encode(event))
    assert encode(again) == encode(event)
    with suppress(Undecodable):  # what a field that nobody knows holds is not looked at
        told: Any = build(type_, parse(value))
        assert encode(told) == encode(event)


def stages(values: Sequence[bytes], nasty: Nasty) -> None:
    """Every stage, every topic: a dead letter for each message that breaks the contract, and for no other.

    But for instructions to LEARN, and texts under the ids of others: of those, the oracle says which ones. And what of
    ours is in another schema ends the worker.
    """
    rehearsal, offset = Rehearsal(partitions=1, crashes=False), 0
    while values:
        name = nasty.rng.choice(list(INPUTS))
        topic = nasty.rng.choice(INPUTS[name])
        batch, values = values[: (size := nasty.rng.randint(1, 8))], values[size:]
        records = [
            record(value, offset + n, topic=topic, key=nasty.key() or b"")._replace(headers=dict(nasty.headers()))
            for n, value in enumerate(batch)
        ]
        offset += len(records)
        _stage(rehearsal.stages[name], topic, records)


def _stage(theatre: Any, topic: str, records: Sequence[Any]) -> None:
    newer = (
        [] if topic in WRITTEN_BY_OTHERS else [r for r in records if _broken(Response, r.value) == UnknownSchema.code]
    )
    try:
        plan = asyncio.run(theatre.stage.handle(0, records))
    except DeliveryError:
        assert newer
        theatre.restart()
        if rest := [one for one in records if one not in newer]:
            _stage(theatre, topic, rest)
        return
    theatre.state.apply(0, plan)
    theatre.stage.done(0)
    if plan.left:
        _stage(theatre, topic, records[-plan.left :])
        records = records[: -plan.left]
    assert not any(one in newer for one in records)
    letters = [decode(DeadLetter, s.value) for s in plan.sends if s.topic == DeadLetter.topic]
    said = {(found.offset, found.code, found.digest) for found in letters}
    types = getattr(theatre.stage, "kind", None)  # LEARN and WATCH read any of their types in any of their topics
    reads = types.types if types else CONTRACT[topic]
    broken = {(r.offset, code, digest(r.value)) for r in records if (code := _broken(reads, r.value))}
    assert broken <= said
    values = {one.offset: one.value for one in records}
    for offset, code, _ in said - broken:
        allowed = Response if code == IdReused.code else Instruction
        assert _broken(allowed, values[offset]) is None


def _broken(types: Any, value: bytes) -> str | None:
    try:
        decode(types, value)
    except EventError as error:
        return error.code
    return None


def flow(values: Sequence[bytes], nasty: Nasty) -> None:
    """What anyone may send, through all stages with crashes, and the oracle: every input has its one end (I1)."""
    clock = HandClock(at(4 * 86_400))
    rehearsal = Rehearsal(nasty.rng.randrange(2**32), partitions=1, clock=clock)  # one id in two partitions breaks I3
    for value in values:
        rehearsal.put(nasty.rng.choice(("responses", "feedback")), nasty.key(), value, nasty.headers())
        rehearsal.run(some=True)
    rehearsal.run()
    clock.at += 3 * HORIZONS.response
    report = check(rehearsal.finish(clock.at).left(), RULES._replace(replayed=False))
    wrong = [str(one) for one in report.differences if SHARED not in one.what]
    assert not wrong, wrong[:3]


def oracle(values: Sequence[bytes], nasty: Nasty) -> None:
    """Any bytes in any topic: the oracle says what is wrong, and does not stumble over it."""
    entries: dict[str, list[Entry]] = {topic: [] for topic in CONTRACT}
    for value in values:
        topic = nasty.rng.choice([*CONTRACT])
        entries[topic].append(Entry(topic, 0, len(entries[topic]), nasty.key(), value, nasty.headers()))
    assert check(Logs(entries), RULES).checked is not None


def depth(values: Sequence[bytes], _: Nasty) -> None:
    """Any text: each of its digits is in a salient token, in order, and blanks that are wider change nothing."""
    for value in values:
        text = plain(value.decode("utf-8", "replace"))
        found = tokens(text)
        assert re.findall(r"\d", "".join(found)) == re.findall(r"\d", text)
        assert tokens(f"\n{text.replace(' ', '  ')}\t") == found


def files(values: Sequence[bytes], nasty: Nasty) -> None:
    """Files of settings, policies, calibrations, events and verdicts, and standard input: one of our errors."""
    with TemporaryDirectory() as folder:
        for value in values:
            path = Path(folder) / "file"
            path.write_bytes(value)
            reads = nasty.rng.choice(FILES)
            try:
                reads(path)
            except DemurError:
                continue


def _offline(path: Path) -> None:
    made = Offline(_reader(), Policies(), {}, b"")
    assert all(orjson.loads(line) for line in made.decide(path.read_bytes().splitlines()))


def _reader() -> Any:
    return Reader()


def _replay(path: Path) -> None:
    if runs._is_own(path):
        runs._events([path], path)


FILES: Final[tuple[Callable[[Path], Any], ...]] = (
    policies, load, calibrations, read, _replay, _offline, lambda path: read_logs(path, path),
)  # fmt: skip


def tables(values: Sequence[bytes], nasty: Nasty) -> None:
    """TOML that is nearly a policy or nearly settings."""
    names = [*Policy.__struct_fields__, "deployments", "calibrator", "partitions", "bootstrap", "model", "x"]
    files([_table(nasty, names) for _ in values], nasty)


def _table(nasty: Nasty, names: Sequence[str]) -> bytes:
    shapes = ("{} = {}", "[{}]\n{} = 1", "[deployments.{}]\nred = {}")
    words = [(nasty.rng.choice(names), dump(nasty.rng.choice(NASTY)).decode("utf-8", "replace")) for _ in range(3)]
    return "\n".join(nasty.rng.choice(shapes).format(*pair) for pair in words).encode()


def _damage(value: Any, nasty: Nasty) -> None:
    for _ in range(nasty.rng.randint(1, 3)):
        place = value
        while isinstance(place, dict | list) and place:
            key = nasty.rng.choice([*place]) if isinstance(place, dict) else nasty.rng.randrange(len(place))
            if not isinstance(place[key], dict | list) or not place[key] or nasty.rng.random() < 0.1:
                place[key] = nasty.rng.choice(NASTY)
                break
            place = place[key]


def versions(values: Sequence[bytes], nasty: Nasty) -> None:
    """A published calibration, damaged, or any bytes in its place: not served, or with numbers that are risks."""
    for value in values:
        found = orjson.loads(_published())
        _damage(found, nasty)
        _serves(dump(found))
        _serves(value)


def _serves(value: bytes) -> None:
    scorers = _scorers()
    scorers._held.clear()
    scorers._heard.clear()
    scorers.take(value)
    if (serving := scorers.of("ward").thresholds) is not None:
        for logit in (-1e300, -2.0, 30.0):
            assert all(0.0 <= risk <= 1.0 for risk in serving.risk(logit, {"category": "dosing", "site": "north"}))


def instructions(values: Sequence[bytes], nasty: Nasty) -> None:
    """A person's word with damaged parameters or ceilings, and labels after it: no stop of LEARN."""
    version = orjson.loads(_published())
    for n in range(len(values)):
        said: dict[str, Any] = {"parameters": orjson.loads(dump(version["parameters"]["filter"]))}
        if n % 4 == 0:
            said = {"ceilings": {"all": -2.0, "site=north": -3.0}}
        _damage(said, nasty)
        order = "rollback" if "parameters" in said else "approval"
        by = _GOOD_ORDER | {"instruction_id": f"i{n}", "order": order} | said
        _learns(dump(by), n)


def _learns(said: bytes, n: int) -> None:
    rehearsal = _learner()
    rehearsal.run([record(said, 0, topic="labels"), record(label(10_000 + n, rejected=n % 2 == 0), 1)])
    found = [decode(Calibration, s.value) for s in rehearsal.sent if s.topic == Calibration.topic]
    assert all(0.0 <= thresholds(found[-1]).risk(x, {"site": "north"})[1] <= 1.0 for x in (-1e300, -2.0, 30.0))
    rehearsal.sent.clear()


def _learner() -> Any:
    """LEARN with what it knew before each instruction."""
    stage = theatre()
    stage.state.rows = dict(_known())
    return stage


@cache
def _known() -> Any:
    stage = theatre()
    stage.run([record(label(n, rejected=n % 7 == 0), n) for n in range(600)])
    return stage.state.rows


@cache
def _scorers() -> Calibrations:
    return Calibrations(load())


@cache
def _published() -> bytes:
    ledger = Ledger("ward", Policy(warm_up_labels=10, warm_up_deviation=2.0))
    for n in range(600):
        ledger.apply(label(n, rejected=n % 7 == 0))
    found = ledger.calibration()
    assert found is not None
    return encode(found)


TARGETS: Final[dict[str, tuple[Target, float]]] = {
    "decoding": (decoding, 0.48),
    "depth": (depth, 0.02),
    "stages": (stages, 0.25),
    "oracle": (oracle, 0.10),
    "flow": (flow, 0.05),
    "files": (files, 0.03),
    "tables": (tables, 0.02),
    "versions": (versions, 0.04),
    "instructions": (instructions, 0.01),
}
"""And the share of the inputs that each gets in the long run."""
