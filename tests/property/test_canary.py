"""A patient who must appear nowhere after SCORE: in every field that may hold text, and in every that may not."""

import asyncio
import logging
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from models.accounts import Accounts, Run
from models.errors import DemurError, EventError
from models.events import CONTRACT, Event, Feedback, Response, decode, encode, parse
from models.oracle import check
from models.oracle.logs import Topics
from models.policy import Policies
from models.training.data import read
from streams.calibrations import Calibrations
from streams.delivery import Delivery, Plan
from streams.metrics import Metrics
from streams.offline import Offline
from streams.report import write_report
from streams.runs import _events, _is_own
from streams.scorer import Scorer
from streams.settings import load
from tests.fuzz.nasty import GOOD
from tests.rehearsal import RULES, Reader, Rehearsal
from tests.stagecraft import at

NAMES = (b"zebulon", b"quagga")
CANARIES = (
    "Zebulon Quagga, born 1950", "O'Quagga's Zebulon", "a 'b' Zebulon 'c' Quagga", "Zebulon\nQuagga",
    "\u200bZebulon `Quagga`", '"Zebulon" \\Quagga', "$.Zebulon [Quagga]", "Zebulon " + "Quagga" * 50,
)  # fmt: skip
"""None could be an id: ids are pseudonyms, travel on, and have an alphabet of their own."""
TEXTS = {
    "response": ("query", "response", "department", "specialty", "llm_model"),
    "feedback": ("edited_response", "comment", "reason_code"),
}


Played = tuple[Rehearsal, list[Any]]


def leaks(*surfaces: Any) -> list[str]:
    """Say where the patient appears."""
    told = [one if isinstance(one, bytes) else repr(one).encode() for one in surfaces]
    return [one[max(0, one.lower().find(name) - 60) :][:120].decode("utf-8", "replace")
            for one in told for name in NAMES if name in one.lower()]  # fmt: skip


def messages() -> Iterator[tuple[str, bytes, tuple[tuple[str, bytes], ...]]]:
    """Yield (topic, value, headers): the patient in each field of valid and of broken messages, as value and as key."""
    for kind, topic in (("response", "responses"), ("feedback", "feedback")):
        good = next(event for event in GOOD if event["type"] == kind)
        for n, canary in enumerate(CANARIES):
            ids = {name: f"{name}-{n}" for name in ("response_id", "feedback_id") if name in good}
            said = {name: canary if name in {"query", "response", "comment"} else canary[:120] for name in TEXTS[kind]}
            extra: dict[str, Any] = {"context": {canary[:120]: 1.0}, "earlier": [canary]}
            extra = {"action": "edited"} if kind == "feedback" else extra
            yield topic, orjson.dumps(good | ids | said | extra), ()
            for name in {*good, "schema", "type", "unknown"} - {"category"}:  # a group, which travels on as well
                for kind_, spoilt in enumerate((canary, [canary], {canary: canary})):
                    own = {id_: f"{id_}-{n}-{name}-{kind_}" for id_ in ids}
                    yield topic, orjson.dumps(good | own | {name: spoilt}), (("ce_id", canary.encode()),)
            event = {"specversion": "1.0", "id": canary, "subject": canary, canary: canary}
            inside = {id_: f"{id_}-{n}-inside" for id_ in ids}
            for data in (good | inside | said | extra, good | inside | {"turn": canary}, canary):
                yield topic, orjson.dumps(event | {"data": data}), (("content-type", canary.encode()),)
            yield topic, f"{{{canary}".encode(), ((canary, canary.encode()),)
            yield topic, canary.encode(), ()


def key_of(topic: str, value: bytes) -> bytes:
    """What a message is keyed by, also if it is broken."""
    try:
        found = parse(value).get("conversation_id" if topic == "responses" else "response_id")
    except EventError:
        return value[:20]
    return found.encode() if isinstance(found, str) else value[:20]


@pytest.fixture(scope="module")
def rehearsal() -> Iterator[tuple[Rehearsal, list[Any]]]:
    with capture_logs() as logs:
        stages = Rehearsal(3, partitions=2)
        for topic, value, headers in messages():
            stages.put(topic, key_of(topic, value), value, headers)
            stages.run(some=True)
        yield stages.run().finish(at(60 * 86_400)), logs


def test_nothing_that_any_stage_writes_names_the_patient(rehearsal: Played) -> None:
    stages, logs = rehearsal
    written = [
        e for t, parts in stages.logs.items() if t not in {"responses", "feedback"} for part in parts for e in part
    ]
    assert len([e for e in written if e.topic == "dead-letters"]) > 200
    assert len([e for e in written if e.topic == "decisions"]) > 200
    assert leaks(*((e.key, e.value, e.headers) for e in written)) == []
    rows = [(key, value) for stage in stages.stages.values() for key, value in stage.state.rows.items()]
    assert len(rows) > 20
    assert leaks(*rows) == []
    assert leaks(*logs) == []


def test_neither_metrics_nor_the_report_name_the_patient(
    rehearsal: tuple[Rehearsal, list[Any]], tmp_path: Path
) -> None:
    stages, _ = rehearsal
    metrics = [stage.stage.context.metrics for stage in stages.stages.values()]
    assert leaks(*(generate_latest(one.registry) for one in metrics)) == []
    accounts, topics = Accounts(), Topics(stages.left())
    for topic, found in topics.found.items():
        for entry, event in found:
            accounts.observe(topic, event, entry.at_ms)
    for topic, refused in topics.refused.items():
        for _ in refused:
            accounts.observe_invalid(topic)
    report = write_report(accounts, Run(title="canaries", broker="none"), tmp_path)
    assert leaks(report.read_bytes(), report.with_name("summary.json").read_bytes()) == []


def test_no_category_steers_the_terminal_of_whoever_reads_it() -> None:
    """It is the one text that travels on, as a group."""
    stages = Rehearsal(3, crashes=False)
    good = next(event for event in GOOD if event["type"] == "response")
    told = {"\x1b]52;c;eA==\x07dosing": "]52;c;eA==dosing", "\u202edos\u200ding\x00": "dosing", "\x85": "unknown"}
    for n, category in enumerate(told):
        value = orjson.dumps(good | {"response_id": f"r{n}", "category": category})
        stages.put("responses", key_of("responses", value), value, [])
    logs = stages.run().finish(at(60 * 86_400)).left()
    found = [orjson.loads(e.value) for e in logs.entries["decisions"] if b"watermark" not in e.value]
    assert {one["groups"]["category"] for one in found} == set(told.values())
    assert check(logs, RULES).differences == []


def test_the_oracle_names_places_and_fields_but_not_the_patient(rehearsal: Played) -> None:
    logs = rehearsal[0].left()
    tampered = [e._replace(value=b'{"Zebulon":"Quagga"}') for e in logs.entries["labels"]]
    report = check(logs._replace(entries={**logs.entries, "labels": tampered}), RULES)
    assert len(report.differences) > 10
    assert leaks(*map(str, report.differences)) == []


def test_no_error_names_the_patient_not_even_its_traceback() -> None:
    errors = []
    for _, value, _ in messages():
        for type_ in CONTRACT.values():
            try:
                decode(type_, value)
            except EventError as error:
                errors += [str(error), repr(error), "".join(traceback.format_exception(error))]
    assert len(errors) > 1000
    assert leaks(*errors) == []


def test_no_file_that_cannot_be_read_is_quoted(tmp_path: Path) -> None:
    path, said = tmp_path / "file.jsonl", []
    row = {"id": "1", "query": "q", "label": 1}
    for canary in CANARIES:
        for value in (
            *(orjson.dumps(row | {name: canary}) for name in ("label", "verdict", "depth", "grade")),
            *(orjson.dumps(GOOD[0] | {name: canary}) for name in ("turn", "response_id", "schema", "type")),
            canary.encode(),
        ):
            path.write_bytes(value)
            for reads in (lambda: read(path), lambda: _is_own(path) and _events([path], path), lambda: _offline(path)):
                try:
                    reads()
                except DemurError as error:
                    said += [str(error), "".join(traceback.format_exception(error))]
    assert len(said) > 100
    assert leaks(*said) == []


def _offline(path: Path) -> Sequence[bytes]:
    reader: Any = Reader()
    return list(Offline(reader, Policies(), {}, b"").decide(path.read_bytes().splitlines()))


class Talkative(Exception):
    """A library's error that quotes what it was given."""


def test_a_library_that_quotes_the_patient_is_not_repeated(caplog: pytest.LogCaptureFixture) -> None:
    """The encoder, a stage, and what is published: the logs of structlog and of the standard library."""

    class Encoder:
        model_hash = "m"
        rounding = 0.0

        def prepare(self, responses: Sequence[Response]) -> list[Any]:
            return [SimpleNamespace(response=r, size=1) for r in responses]

        def infer(self, prepared: Sequence[Any]) -> list[Any]:
            raise Talkative([found.response.query for found in prepared])

    class Stage:
        name, batch = "test", 10

        async def handle(self, partition: int, records: Any) -> Any:
            raise Talkative(records)

        async def poison(self, record: Any) -> Any:
            return Plan({}, [])

        def done(self, partition: int) -> None:
            return

        def forget(self, *partitions: int) -> None:
            return

    asked: Response = decode(Response, orjson.dumps(GOOD[0] | {"query": CANARIES[0]}))
    message = SimpleNamespace(
        topic="responses", partition=0, offset=1, key=b"k", value=encode(asked), headers={}, timestamp=0
    )
    with capture_logs() as logs, caplog.at_level(logging.DEBUG):
        scorer = Scorer(Encoder(), Metrics())
        failed = asyncio.run(scorer.score(asked))
        scorer.close()
        delivery = Delivery(SimpleNamespace(), Stage())  # type: ignore[arg-type]
        asyncio.run(delivery._one_by_one([message], Talkative(CANARIES[0])))  # type: ignore[list-item]
        for canary in CANARIES:
            Calibrations(load()).take(orjson.dumps({"type": "calibration", "cause": canary}))
            Calibrations(load()).take(canary.encode())
    assert len(logs) > 10
    assert leaks(failed, *logs, caplog.text) == []


@pytest.mark.parametrize("type_", [t for t in Event.__subclasses__() if t not in {Response, Feedback}])
def test_what_follows_has_no_field_for_text(type_: type[Event]) -> None:
    assert not {"query", "response", "edited_response", "comment", "context", "earlier"} & set(type_.__struct_fields__)
