"""Signed records: what is forged, changed or moved is set aside and never green; what is ours is accepted."""

import hmac
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import ConsumerRecord

from models.errors import Forged, SettingsError
from models.events import DeadLetter, Decision, Label, decode, encode
from models.joining import Horizons
from models.oracle import Entry, Logs, Rules, check
from models.partitions import home
from models.policy import Policies, Policy
from models.signing import OURS, Keys, Producer, Signed
from models.training.reactions import Arrival
from streams.agents import score
from streams.agents.common import Context
from streams.agents.expiry import Expiry
from streams.agents.join import Join
from streams.calibrations import Calibrations
from streams.clock import EventClock
from streams.consumer import _record
from streams.feed import items, send, send_end
from streams.logbook import newest
from streams.metrics import Metrics
from streams.scorer import Scorer
from streams.settings import load
from streams.stages import keys_in
from streams.topics import Found, Topic
from streams.wire import Record, outgoing, signature_error
from streams.worker import check_dates
from tests.stagecraft import Theatre, at, decision, feedback
from tests.unit.test_calibrations import version
from tests.unit.test_score import Known, Stub, response
from tests.unit.test_structured import wrapped

SECRET = "0123456789abcdef" * 2
OUR_TABLE = f"[demur]\nsecret = '{SECRET}'\n"
KEYS = Keys(
    {
        OURS: Producer(SECRET),
        "gateway": Producer(SECRET[::-1], ("responses",)),
        "records": Producer(SECRET.upper(), ("feedback",)),
    }
)
CONTEXT = Context("", Metrics(), KEYS)


def received(topic: str, key: bytes, value: bytes, headers: list[tuple[str, bytes]], offset: int = 0) -> Record:
    return Record(topic, 0, offset, key, value, dict(headers), 0.0)


def signed(event: Any, producer: str, offset: int = 0) -> Record:
    value = encode(event)
    headers = [("ce_id", b"1"), *KEYS.sign(producer, Signed(event.topic, b"k", b"1", value))]
    return received(event.topic, b"k", value, headers, offset)


def scoring() -> Theatre:
    clock = EventClock()
    parts = score.Parts(Scorer(Stub(), Metrics()), Known(), Policies(Policy(audit_rate=0.0)), clock, (b"",))
    return Theatre(lambda state: score.Score(CONTEXT, state, Expiry(timedelta(days=1), score.read_time, clock), parts))


def joining() -> Theatre:
    horizons = Horizons(timedelta(seconds=5), timedelta(days=7), timedelta(days=1))
    return Theatre(lambda state: Join(CONTEXT, state, horizons, EventClock(), (b"",)))


def sent(stage: Theatre, type_: Any) -> list[Any]:
    return [decode(type_, send.value or b"") for send in stage.sent if send.topic == type_.topic]


def forgeries(count: int) -> Iterator[tuple[Signed, dict[str, bytes]]]:
    """A signed record with one thing changed, at random."""
    rng = Random(7)
    value = encode(response())
    whole = Signed("responses", b"c1", b"r1", value)
    good = dict(KEYS.sign("gateway", whole))
    for _ in range(count):
        record, headers = whole, dict(good)
        match rng.randrange(7):
            case 0:
                record = record._replace(value=flipped(value, rng))
            case 1:
                record = record._replace(id=flipped(record.id, rng))
            case 2:
                record = record._replace(key=rng.choice([None, flipped(b"c1", rng)]))
            case 3:
                record = record._replace(topic=rng.choice(["labels", "feedback", "calibrations", "decisions"]))
            case 4:
                headers["ce_signature"] = flipped(headers["ce_signature"], rng)
            case 5:
                headers["ce_keyid"] = rng.choice([b"records", b"demur", b"nobody", b"\xff", b""])
            case _:
                del headers[rng.choice(sorted(headers))]
        yield record, headers


def flipped(value: bytes, rng: Random) -> bytes:
    where = rng.randrange(len(value))
    return value[:where] + bytes([value[where] ^ 1 << rng.randrange(8)]) + value[where + 1 :]


def test_a_record_without_key_or_id_is_signed_as_if_they_were_empty() -> None:
    """As other programs do, which have only the page to go by."""
    whole = b"".join(len(part).to_bytes(8, "big") + part for part in (b"responses", b"", b"", b"{}"))
    code = hmac.new(SECRET[::-1].encode(), whole, "sha256").hexdigest().encode()
    headers = {"ce_keyid": b"gateway", "ce_signature": code}
    assert KEYS.signature_error(Signed.of("responses", None, b"{}", headers), headers) is None


def test_of_a_hundred_thousand_forgeries_none_is_accepted() -> None:
    assert [record for record, headers in forgeries(100_000) if KEYS.signature_error(record, headers) is None] == []


def test_a_secret_is_changed_without_losing_what_is_under_way() -> None:
    record, new = Signed("labels", b"k", b"1", b"{}"), SECRET[::-1]
    steps = [Producer(SECRET), Producer(SECRET, accepted=(new,)), Producer(new, accepted=(SECRET,)), Producer(new)]
    keys = [Keys({OURS: step}) for step in steps]
    accepted = [
        [reads.signature_error(record, dict(writes.sign(OURS, record))) is None for reads in keys] for writes in keys
    ]
    assert accepted[0] == accepted[1] == [True, True, True, False]
    assert accepted[2] == accepted[3] == [False, True, True, True]


def test_a_producer_whose_topics_are_taken_away_may_write_none() -> None:
    record = Signed("labels", b"k", b"1", b"{}")
    keys = Keys({OURS: Producer(SECRET, ())})
    assert keys.signature_error(record, dict(keys.sign(OURS, record))) is not None


NOTHING = [("ce_id", None), ("ce_keyid", None), ("ce_signature", None)]


@pytest.mark.parametrize("keys", [None, KEYS])
def test_headers_without_a_value_are_no_signature_and_stop_nothing(keys: Keys | None) -> None:
    """Kafka allows them. A record that can be neither read nor set aside would end every worker that takes it over."""
    raw = SimpleNamespace(
        topic="responses", partition=0, offset=0, key=b"k", value=b"{", headers=NOTHING, timestamp=0, timestamp_type=0
    )
    found = _record(raw)
    assert signature_error(raw, "", KEYS) is not None
    parts = score.Parts(Scorer(Stub(), Metrics()), Known(), Policies(), EventClock(), (b"",))
    expiry = Expiry(timedelta(days=1), score.read_time, EventClock())
    stage = Theatre(lambda state: score.Score(Context("", Metrics(), keys), state, expiry, parts))
    stage.run([found])
    assert [send.topic for send in stage.sent] == ["dead-letters"]
    known = Calibrations(load(), keys)
    known.hear(
        SimpleNamespace(topic="calibrations", key=b"ward", value=b"{", headers=NOTHING, timestamp=0, timestamp_type=0)
    )
    assert known.of("ward").calibration is None


def test_what_people_read_of_a_calibrator_is_signed_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What they order rests on it, and is signed: a forged version must not become an approval."""
    file = tmp_path / "keys.toml"
    file.write_text(f'[demur]\nsecret = "{SECRET}"\n')
    settings = load(keys=file)
    genuine = outgoing("", version(2), keys_in(file))
    forged = genuine._replace(value=encode(version(3)))
    sends = genuine, forged, genuine._replace(value=None)
    records = [
        SimpleNamespace(**send._asdict(), timestamp=0, partition=home(b"ward", settings.partitions)) for send in sends
    ]
    monkeypatch.setattr("streams.logbook.read_all", lambda *_: records)
    monkeypatch.setattr("streams.logbook.partitions_of", lambda *_: settings.partitions)
    assert newest(settings)["ward"].version == 2


def test_bytes_cannot_move_from_one_part_to_the_next() -> None:
    headers = dict(KEYS.sign(OURS, Signed("labels", b"ab", b"c", b"{}")))
    assert isinstance(KEYS.signature_error(Signed("labels", b"a", b"bc", b"{}"), headers), Forged)


def test_a_response_that_is_signed_is_scored_and_one_that_is_not_is_red() -> None:
    stage = scoring()
    stage.run([signed(response("r1"), "gateway"), signed(response("r2"), "records", 1)])
    good, forged = sent(stage, Decision)
    assert (good.response_id, good.logit) == ("r1", -5.0)
    assert (forged.response_id, forged.tier, forged.reasons) == ("r2", "red", ("invalid_input", "forged"))
    [letter] = sent(stage, DeadLetter)
    assert (letter.code, letter.offset) == ("forged", 1)
    assert "may not write to responses" in letter.detail


def test_a_cloud_event_in_structured_mode_is_signed_as_it_is_sent() -> None:
    """Its id is in what is signed; the header `ce_id`, which it need not have, counts as empty."""
    value, stage = wrapped(encode(response("r1"))), scoring()
    headers = KEYS.sign("gateway", Signed("responses", b"c1", b"", value))
    stage.run([received("responses", b"c1", value, headers), received("responses", b"c1", value + b" ", headers, 1)])
    assert [(one.response_id, one.logit) for one in sent(stage, Decision)] == [("r1", -5.0)]
    [letter] = sent(stage, DeadLetter)
    assert (letter.code, letter.offset) == ("forged", 1)


def ours(event: Decision, offset: int, topic: str = "decisions") -> Record:
    """A decision as SCORE sends it."""
    send = outgoing("", event, KEYS)
    return received(topic, send.key or b"", send.value or b"", send.headers or [], offset)


def test_what_a_stage_sends_the_next_accepts_and_a_forged_verdict_is_no_label() -> None:
    stage = joining()
    stage.run([ours(decision(), 0), ours(decision("r9", 9e4), 1)])
    unsigned = received("feedback", b"k", encode(feedback("f0", action="flagged")), [], 0)
    moved = ours(decision("r9", 9e4), 1, topic="feedback")
    stage.run([unsigned, moved, signed(feedback("f1"), "records", 2), signed(feedback("f9", "r9", 9e4), "records", 3)])
    assert [label.feedback_id for label in sent(stage, Label)] == ["f1"]
    assert [letter.code for letter in sent(stage, DeadLetter)] == ["forged", "forged"]


def test_a_forged_calibration_does_not_serve() -> None:
    known = Calibrations(load(), KEYS)
    first, second = (outgoing("", version(labels), KEYS) for labels in (2, 3))
    known.hear(
        SimpleNamespace(topic="calibrations", key=first.key, value=first.value, headers=first.headers, timestamp=0)
    )
    known.hear(
        SimpleNamespace(topic="calibrations", key=second.key, value=second.value, headers=first.headers, timestamp=0)
    )
    held = known.of("ward").calibration
    assert held
    assert held.version == 2


def test_the_oracle_names_a_record_of_ours_that_is_not_signed() -> None:
    sends = [outgoing("", decision(id_), keys) for id_, keys in (("r1", KEYS), ("r2", None))]
    entries = [
        Entry("decisions", 0, n, send.key, send.value or b"", tuple(send.headers or ())) for n, send in enumerate(sends)
    ]
    report = check(Logs({"decisions": entries}), Rules(keys=KEYS))
    named = [one.offset for one in report.differences if "not a record that a stage" in str(one)]
    assert named == [1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[gateway]\nsecret = '" + SECRET + "'", "keys: `demur` is missing"),
        (OUR_TABLE + "[gateway]\nsecret = '" + SECRET + "'", "keys of `gateway`: `topics` is missing: name those"),
        (
            OUR_TABLE + "['höhe']\nsecret = '" + SECRET + "'\ntopics = []",
            "keys of `höhe`: the name travels in a header",
        ),
        ("[demur]\nsecret = 'short'", "keys of `demur`: Expected `str` of length >= 32"),
        ("[demur]\nsecret = '" + SECRET + "'\ntopic = ['labels']", "keys of `demur`: Object contains unknown field"),
        ("demur = 1", "keys of `demur`: Expected `object`"),
        (OUR_TABLE + "unsigned_until = 2026-12-01T00:00:00", "Expected `datetime` with a timezone component"),
        (OUR_TABLE + "unsigned_until = 'soon'", "Invalid RFC3339"),
        (
            OUR_TABLE + "[gateway]\nsecret = '" + SECRET + "'\ntopics = []\nunsigned_until = 2026-01-01T00:00:00Z",
            "keys of `gateway`: `unsigned_until` is for all: enter it under `[demur]`",
        ),
        ("[demur]\nsecret = '" + " " * 32 + "'", "keys of `demur`: `secret` has fewer than 32 characters"),
        (
            OUR_TABLE + "accepted = ['" + " " * 40 + "']",
            "keys of `demur`: `accepted` has fewer than 32 characters between blanks",
        ),
        (
            OUR_TABLE + "[gateway]\nsecret = '" + SECRET + "'\ntopics = ['responses']",
            "keys of `demur` and `gateway`: they have the same secret",
        ),
        (
            OUR_TABLE + "[gateway]\nsecret = '" + SECRET[::-1] + "'\ntopics = []\naccepted = ['" + SECRET + "']",
            "keys of `demur` and `gateway`: they have the same secret",
        ),
        (
            OUR_TABLE + "[gateway]\nsecret = '" + SECRET[::-1] + "'\ntopics = ['response']",
            "keys of `gateway`: `topics` names `response`, which is none: name some of alarms, ",
        ),
        ("[demur", "is not TOML"),
    ],
)
def test_a_wrong_file_of_keys_is_named_and_no_secret_shown(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as raised:
        keys_in(file)
    assert expected in str(raised.value)
    assert SECRET not in str(raised.value)
    assert "short" not in str(raised.value)


SINCE = at(1000)
FROM_NOW_ON = f"{OUR_TABLE}unsigned_until = {SINCE.isoformat()}\n[gateway]\nsecret = '{SECRET[::-1]}'\ntopics = []"


@pytest.fixture
def lately(tmp_path: Path) -> Path:
    """A file of keys of an installation that signs since `SINCE`."""
    file = tmp_path / "keys.toml"
    file.write_text(FROM_NOW_ON)
    return file


def taken(event: Any, taken_at: datetime | None, *, keys: Keys | None = None, offset: int = 0) -> Record:
    """A record of ours that the broker took then."""
    send = outgoing("", event, keys)
    known = received(event.topic, send.key or b"", send.value or b"", send.headers or [], offset)
    return known._replace(at=taken_at.timestamp() if taken_at else 0.0, by_broker=True)


BEFORE, AFTER = SINCE - timedelta(milliseconds=1), SINCE


def test_what_lay_there_unsigned_before_records_were_signed_is_taken(lately: Path) -> None:
    """Decisions under way were set aside, and their feedback, which is signed, became orphans."""
    keys, stage = keys_in(lately), joining()
    stage.stage.context = Context("", Metrics(), keys)  # type: ignore[attr-defined]
    stage.run(
        [taken(decision(), BEFORE), taken(decision("r2"), AFTER, offset=1), taken(decision("r3"), None, offset=2)]
    )
    stage.run([taken(feedback("f1"), BEFORE), taken(decision("r9", 9e4), AFTER, keys=keys, offset=3)])
    stage.run([taken(decision("r4"), BEFORE, offset=4)._replace(by_broker=False)])
    stage.run([taken(feedback("f9", "r9", 9e4), AFTER, keys=keys, offset=1)])
    assert [(letter.code, letter.offset) for letter in sent(stage, DeadLetter)] == [("forged", n) for n in (1, 2, 4)]
    assert [label.feedback_id for label in sent(stage, Label)] == ["f1"]


@pytest.mark.parametrize("change", ["another secret", "half of a signature", "another producer's topic", "changed"])
def test_of_what_lay_there_before_only_what_has_no_signature_is_taken_without(lately: Path, change: str) -> None:
    whole = taken(decision(), BEFORE, keys=Keys({OURS: Producer("f" * 32 if change == "another secret" else SECRET)}))
    headers, value = dict(whole.headers), whole.value
    match change:
        case "half of a signature":
            del headers["ce_signature"]
        case "another producer's topic":
            headers["ce_keyid"] = b"gateway"
        case "changed":
            value = encode(decision("r2"))
    assert signature_error(whole._replace(headers=headers, value=value), "", keys_in(lately)) is not None


def test_what_its_producer_dated_back_answers_no_gateway(lately: Path) -> None:
    """It was taken for what lay there before: where topics are not checked, as workers do, anybody could date it so."""
    send = outgoing("", decision())
    when, value = int(BEFORE.timestamp() * 1000), send.value or b""
    raw = ConsumerRecord(send.topic, 0, 0, when, 1, send.key, value, None, 0, len(value), tuple(send.headers or ()))
    assert signature_error(raw, "", keys_in(lately)) is None
    assert signature_error(_record(raw), "", keys_in(lately)) is None
    dated_back = replace(raw, timestamp_type=0)
    assert signature_error(dated_back, "", keys_in(lately)) is not None
    assert signature_error(_record(dated_back), "", keys_in(lately)) is not None


def test_every_reader_takes_what_lay_there_before(lately: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scorers kept no calibrator, and commands dropped the past of one."""
    keys, settings = keys_in(lately), load(keys=lately)
    raw = [
        SimpleNamespace(**outgoing("", version(n))._asdict(), timestamp=int(when.timestamp() * 1000),
                        timestamp_type=type_, partition=home(b"ward", settings.partitions))
        for n, when, type_ in ((2, BEFORE, 1), (3, AFTER, 1), (4, BEFORE, 0))
    ]  # fmt: skip
    known = Calibrations(load(), keys)
    for record in raw:
        known.hear(record)
    held = known.of("ward").calibration
    assert held
    assert held.version == 2
    monkeypatch.setattr("streams.logbook.read_all", lambda *_: raw)
    monkeypatch.setattr("streams.logbook.partitions_of", lambda *_: settings.partitions)
    assert newest(settings)["ward"].version == 2


def test_the_oracle_too_takes_what_lay_there_before(lately: Path) -> None:
    sends = [(outgoing("", decision(id_)), when) for id_, when in (("r1", BEFORE), ("r2", AFTER), ("r3", BEFORE))]
    entries = [
        Entry(
            "decisions", 0, n, send.key, send.value or b"", tuple(send.headers or ()), int(when.timestamp() * 1000),
            by_broker=n < 2,
        )
        for n, (send, when) in enumerate(sends)
    ]  # fmt: skip
    report = check(Logs({"decisions": entries}), Rules(keys=keys_in(lately)))
    assert [one.offset for one in report.differences if "not a record that a stage" in str(one)] == [1, 2]


def test_a_window_for_what_is_unsigned_must_be_closed_and_its_dates_the_brokers(lately: Path) -> None:
    settings = load(keys=lately)
    dated = Found(Topic("decisions", 4, None), 4, {"message.timestamp.type": "CreateTime"})
    for one in (dated, dated._replace(configs={})):
        with pytest.raises(SettingsError, match=r"of decisions may be the producers'.*`demur topics`"):
            check_dates(settings, [one])
    check_dates(settings, [dated._replace(configs={"message.timestamp.type": "LogAppendTime"})])
    check_dates(load(), [dated])
    lately.write_text(FROM_NOW_ON.replace(SINCE.isoformat(), "2199-01-01T00:00:00Z"))
    keys_in.cache_clear()
    with pytest.raises(SettingsError, match="`unsigned_until` is still to come"):
        keys_in(lately)


def test_what_is_fed_is_signed(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(f"[demur]\nsecret = '{SECRET}'")
    sent: list[dict[str, Any]] = []
    producer: Any = SimpleNamespace(send=lambda topic, **record: sent.append({"topic": topic, **record}))
    settings = load(keys=file, topic_prefix="ward.")
    [item] = items([Arrival(at(0), response())])
    send(producer, settings, item)
    send_end(producer, settings, at(0))
    known = {"key": None, "timestamp": 0, "timestamp_type": 0}
    faults = [signature_error(SimpleNamespace(**known | record), "ward.", keys_in(file)) for record in sent]
    assert faults == [None] * (1 + 2 * settings.partitions)
