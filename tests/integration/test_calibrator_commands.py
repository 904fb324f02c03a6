"""`demur calibrator` and `demur policy` as a user types them, on a LEARN worker's real topics."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from kafka import KafkaProducer

from models.calibration.succession import MIN_LABELS
from models.errors import DemurError, StateError
from models.events import Calibration, Decision, Event, Instruction, encode
from models.policy import Policy
from streams import orders, topics
from streams.broker import Child, free_port
from streams.commands import calibrator
from streams.connection import kafka_options
from streams.drive import await_ready, worker
from streams.logbook import newest
from streams.reading import read_all
from streams.settings import Settings
from streams.stages import changelogs
from tests.integration.test_cli import demur
from tests.stagecraft import decision
from tests.unit.test_ledger import log

LABELS = list(log(400))
WHO = "Anna-Žofie Schmidt (麻酔科)"
WHY = "Since the new order sets of Tuesday the doses on the wards are judged by other rules: back to before it."


@pytest.fixture
def learning(settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """A LEARN worker that has folded the labels."""
    fixed = {"stages": ("learn",), "http_port": free_port(), "data_dir": tmp_path / "data", "time_source": "event"}
    mine = settings.model_copy(update=fixed)
    topics.create(mine, changelogs(mine))
    send(mine, LABELS)
    with worker(mine, tmp_path) as child:
        await_ready(child, mine)
        until(mine, lambda version: version.version == len(LABELS))
        yield mine


def send(settings: Settings, events: Sequence[Event]) -> None:
    with closing(KafkaProducer(**kafka_options(settings))) as producer:
        for event in events:
            producer.send(settings.topic_prefix + event.topic, key=(event.key or "").encode(), value=encode(event))


def until(settings: Settings, holds: Callable[[Calibration], bool]) -> Calibration:
    for _ in range(150):
        if (found := newest(settings).get("icu")) and holds(found):
            return found
        time.sleep(0.2)
    raise AssertionError(f"in vain; the newest is {found and (found.version, found.cause)}")


def said(settings: Settings, *words: str) -> str:
    done = demur(*words, settings=settings)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_a_calibrator_is_shown_compared_rolled_back_and_rebuilt(learning: Settings) -> None:
    bit_for_bit = "reproduces the running state bit for bit"
    assert f"icu, version 400 (400 labels): the label log {bit_for_bit}" in said(
        learning, "calibrator", "rebuild", "icu"
    )

    found = orjson.loads(said(learning, "calibrator", "diff", "icu", "200", "400", "--json"))
    assert (found["before"], found["after"], found["labels"]) == (200, 400, 200)
    assert found["parameters"]["intercept"][0] != found["parameters"]["intercept"][1]

    at_200 = "calibrator", "rollback", "icu", "200", "--by", WHO, "--why", WHY
    assert "done: version 401" in said(learning, *at_200)
    back = until(learning, lambda version: version.cause == "rollback: version 200")
    assert (back.version, back.labels) == (401, 200)
    assert bit_for_bit in said(learning, "calibrator", "rebuild", "icu")

    entry = orjson.loads(said(learning, "calibrator", "log", "icu", "--json"))[-1]
    assert (entry["before"]["version"], entry["after"]["version"]) == (1, 401)
    assert (entry["evidence"]["by"], entry["evidence"]["why"], entry["cause"]) == (WHO, WHY, back.cause)
    assert "rollback: version 200" in said(learning, "calibrator", "log", "icu")


def test_corrections_take_effect_when_a_person_says_so(learning: Settings) -> None:
    wrong = LABELS[7]
    send(learning, [msgspec.structs.replace(wrong, label_id="l900", kind="correction", revises=wrong.label_id,
                                            rejected=not wrong.rejected)])  # fmt: skip
    asked = "calibrator", "rebuild", "icu", "--corrected"
    for _ in range(50):
        if "1 corrections" in (shown := said(learning, *asked)):
            break
        time.sleep(0.2)
    assert "1 corrections and revocations honoured" in shown
    refused = demur(*asked, "--apply", settings=learning)
    assert (refused.returncode, b"--apply needs --by" in refused.stderr) == (2, True)
    said(learning, *asked, "--apply", "--by", "dr.who")
    new = until(learning, lambda version: version.cause.startswith("rebuild"))
    assert (new.version, new.labels) == (401, 400)
    assert "reproduces the running state bit for bit" in said(learning, "calibrator", "rebuild", "icu")


@pytest.mark.parametrize("often", [1, calibrator.TRIES])
def test_labels_that_come_while_a_rebuild_is_computed_are_in_it(
    learning: Settings, monkeypatch: pytest.MonkeyPatch, often: int
) -> None:
    """LEARN has folded them before it obeys the order, and so they were lost from the calibrator."""
    late, giving = list(log(400 + often))[400:], orders.giving

    @contextmanager
    def overtaken(settings: Settings) -> Iterator[Callable[[Instruction], orders.Answer | None]]:
        def late_for(by: Instruction) -> orders.Answer | None:
            if late:
                send(learning, [late.pop(0)])
            return give(by)

        with giving(settings) as give:
            yield late_for

    monkeypatch.setattr(orders, "giving", overtaken)
    monkeypatch.setattr(calibrator, "load", lambda _: learning)
    order = {"corrected": True, "apply": True, "by": "dr.who"}
    if often < calibrator.TRIES:
        calibrator.rebuild("icu", **order)
    else:
        with pytest.raises(StateError, match="what came since would be lost; order it anew"):
            calibrator.rebuild("icu", **order)
        calibrator.rebuild("icu", **order)
    new = until(learning, lambda version: version.cause.startswith("rebuild"))
    assert (new.version, new.labels) == (401 + often, 400 + often)
    assert "reproduces the running state bit for bit" in said(learning, "calibrator", "rebuild", "icu")


def test_labels_that_come_while_connections_are_made_do_not_overtake_a_rebuild(
    learning: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where labels come by the dozen a second, every order was refused."""
    late, connect = list(log(400 + calibrator.TRIES))[400:], orders.reader

    def slowly(settings: Settings, of: Sequence[str]) -> AbstractContextManager[Any]:
        send(settings, [late.pop(0)])
        return connect(settings, of)

    monkeypatch.setattr(orders, "reader", slowly)
    monkeypatch.setattr(calibrator, "load", lambda _: learning)
    calibrator.rebuild("icu", corrected=True, apply=True, by="dr.who")
    new = until(learning, lambda version: version.cause.startswith("rebuild"))
    assert (new.version, new.labels) == (402, 401)


def test_a_policy_is_simulated_beside_the_current_one(learning: Settings, tmp_path: Path) -> None:
    made: list[Decision] = [
        decision(f"r{n}", seconds=3600.0 * n, logit=-6.0 + n / 10, upper=0.02, deployment="icu", groups={"site": "x"})
        for n in range(73)
    ]
    send(learning, made)
    proposed = tmp_path / "proposed.toml"
    proposed.write_text("green = 0.02\nwarm_up_labels = 100\nwarm_up_deviation = 1.0\n")
    current = tmp_path / "current.toml"
    current.write_text("warm_up_labels = 100\nwarm_up_deviation = 1.0\n")
    mine = learning.model_copy(update={"policy": current})
    found = orjson.loads(said(mine, "policy", "simulate", str(proposed), "--json"))["icu"]
    assert found["days"] == 3.0
    assert 0.0 < found["proposed"]["tiers"]["green"] < found["current"]["tiers"]["green"]
    assert found["current"]["review_load"] == pytest.approx(found["current"]["actions"]["review"])

    file = tmp_path / "decisions.jsonl"
    file.write_bytes(b"\n".join(map(encode, made)))
    nowhere = mine.model_copy(update={"bootstrap": "127.0.0.1:1"})
    told = said(nowhere, "policy", "simulate", str(proposed), "--decisions", str(file))
    assert "icu: no calibration given" in told
    again = orjson.loads(said(nowhere, "policy", "simulate", str(proposed), "--decisions", str(file), "--json"))["icu"]
    assert (again["current"]["tiers"], again["proposed"]["tiers"]) == ({"green": 1.0}, {"yellow": 1.0})


WRONG = {
    ("rollback", "icu", "200", "--by", "Anna\nSchmidt"): b"--by: give a name",
    ("rollback", "icu", "200", "--by", " "): b"--by: give a name",
    ("rollback", "icu", "200", "--by", "x", "--why", "x" * 501): b"--why: say it in at most 500 characters",
    ("release", "icu", "x" * 140, "--by", "x"): b"SCOPE: name a group as it was alarmed of",
    ("release", "icu", "site=north", "--by", "Anna Schmidt"): (
        b"LEARN could not follow the release, and nothing has changed: "
        b"the instruction cannot be followed: site=north is not in quarantine"
    ),
    ("rollback", "icu", "9000", "--by", "x"): b"there is no version 9000; the newest is 400",
    ("log", "nowhere"): b"the log of nowhere has no entries",
    ("rebuild", "nowhere"): b"LEARN knows nothing of deployment nowhere",
    ("approve", "icu", "--by", "x"): b"nothing is held back in icu",
    ("rollback", "icu", "1"): b"--by",
}


def test_what_cannot_be_done_is_said_in_one_sentence(learning: Settings) -> None:
    for words, sentence in WRONG.items():
        done = demur("calibrator", *words, settings=learning)
        assert done.returncode in {1, 2}
        assert sentence in done.stderr
        assert b"Traceback" not in done.stderr


def test_an_order_that_no_worker_follows_yet_is_not_called_done(settings: Settings) -> None:
    topics.create(settings, [])
    by = Instruction(
        instruction_id="i1", deployment="icu", order="release", version=1, by=WHO, occurred_at=LABELS[0].occurred_at
    )
    with orders.giving(settings, wait_s=0.5) as give:
        assert give(by) is None
    [lies] = read_all(settings, Instruction.topic)
    assert lies.value == encode(by)


@contextmanager
def learn(settings: Settings, tmp_path: Path) -> Iterator[Child]:
    with worker(settings, tmp_path) as child:
        await_ready(child, settings)
        yield child


def spoil(settings: Settings) -> None:
    """Let LEARN's state be of an earlier version."""
    topic = f"{settings.topic_prefix}demur-learn-state-changelog"
    rows = [one for one in read_all(settings, "demur-learn-state-changelog") if one.key == b"d/icu"]
    row = orjson.loads(rows[-1].value)
    row["snapshot"]["ledger"]["filter"]["schema"] = 3
    with closing(KafkaProducer(**kafka_options(settings))) as producer:
        producer.send(topic, key=b"d/icu", value=orjson.dumps(row), partition=rows[-1].partition).get()


def test_a_calibrator_is_rebuilt_though_its_state_is_of_an_earlier_version(learning: Settings) -> None:
    spoil(learning)
    refused = demur("calibrator", "rebuild", "icu", settings=learning)
    assert (refused.returncode, b"calibrator state of schema 3; this version reads 4" in refused.stderr) == (1, True)
    assert "done: version 401" in said(learning, "calibrator", "rebuild", "icu", "--corrected", "--apply", "--by", WHO)
    assert "bit for bit" in said(learning, "calibrator", "rebuild", "icu")


def test_learn_says_how_it_comes_by_a_state_that_it_can_read_and_that_is_the_way(
    settings: Settings, tmp_path: Path
) -> None:
    fixed = {"stages": ("learn",), "http_port": free_port(), "data_dir": tmp_path / "data", "time_source": "event"}
    mine = settings.model_copy(update=fixed)
    topics.create(mine, changelogs(mine))
    send(mine, LABELS[:300])
    with learn(mine, tmp_path):
        until(mine, lambda version: version.version == 300)
    spoil(mine)
    send(mine, LABELS[300:])
    with learn(mine, tmp_path) as child, pytest.raises(DemurError, match="stop LEARN, delete the consumer"):
        child.wait(60.0)
    prefix = mine.topic_prefix
    with topics.administrator(mine) as admin:
        admin.delete_topics([f"{prefix}demur-learn-state-changelog"])
        while admin.delete_groups([group := f"{prefix}demur-learn"]) != {group: "OK"}:
            time.sleep(0.2)  # a member that died is missed after its session only
    assert demur("topics", settings=mine).returncode == 0
    with learn(mine, tmp_path):
        until(mine, lambda version: version.version == len(LABELS))
    assert "bit for bit" in said(mine, "calibrator", "rebuild", "icu")


def test_what_was_taken_away_stays_away_when_learn_is_started_again(settings: Settings, tmp_path: Path) -> None:
    """It was put back, and scorers that began then took it; what only stands is published again."""
    fixed = {"stages": ("learn",), "http_port": free_port(), "data_dir": tmp_path / "data", "time_source": "event"}
    mine = settings.model_copy(update={**fixed, "partitions": 1})
    topics.create(mine, changelogs(mine))
    others = [msgspec.structs.replace(one, deployment="er", label_id=f"er-{n}") for n, one in enumerate(LABELS[:9])]
    send(mine, [*others, *LABELS[:300]])
    with learn(mine, tmp_path):
        until(mine, lambda version: version.version == 300)
    with closing(KafkaProducer(**kafka_options(mine))) as producer:
        gone = producer.send(mine.topic_prefix + Calibration.topic, key=b"icu", value=None).get()
    with learn(mine, tmp_path):
        while not (again := [one.key for one in read_all(mine, Calibration.topic) if one.offset > gone.offset]):
            time.sleep(0.2)
        assert again == [b"er"]
        send(mine, LABELS[300:])
        until(mine, lambda version: version.version == len(LABELS))


def test_no_version_of_another_model_comes_back(learning: Settings) -> None:
    """Its curve is of other scores: put on these, it could call anything green."""
    after = [
        msgspec.structs.replace(
            one, label_id=f"new-{n}", decision=msgspec.structs.replace(one.decision, model_hash="new")
        )
        for n, one in enumerate(log(402 + MIN_LABELS))
        if n >= 400
    ]
    send(learning, after)
    until(learning, lambda version: version.model_hash == "new")
    done = demur("calibrator", "rollback", "icu", "200", "--by", "dr.who", settings=learning)
    assert (done.returncode, b"version 200 is of another model" in done.stderr) == (1, True), done.stderr


def test_a_changed_policy_is_learnt_for_when_a_person_says_so(learning: Settings, tmp_path: Path) -> None:
    """Until then scorers that follow it give nothing green by this calibrator; no earlier version comes back."""
    policy = tmp_path / "deep.toml"
    policy.write_text('target = "deep"\n')
    changed = learning.model_copy(update={"policy": policy})
    assert newest(learning)["icu"].basis == Policy().basis
    said(changed, "calibrator", "rebuild", "icu", "--corrected", "--apply", "--by", "dr.who")
    new = until(learning, lambda version: version.basis == Policy(target="deep").basis)
    assert (new.version, new.labels) == (401, 400)
    assert "reproduces the running state bit for bit" in said(changed, "calibrator", "rebuild", "icu")
    done = demur("calibrator", "rollback", "icu", "200", "--by", "dr.who", settings=changed)
    assert (done.returncode, b"version 200 was learnt for another target" in done.stderr) == (1, True), done.stderr
