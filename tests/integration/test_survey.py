"""`demur report` and `demur export` on the topics of a stream: at rest, as it flows, for a period, for a deployment."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from kafka import KafkaProducer
from kafka.consumer.fetcher import ConsumerRecord
from typer.testing import CliRunner

from models.accounts import Accounts, Run, Selection, balances, summary
from models.accounts.selection import moment
from models.errors import SettingsError
from models.events import CONTRACT, Alarm, Decision, Event, Label, decode, encode
from models.oracle import Logs
from models.training.data import read_labels
from streams import drive, logbook, topics
from streams.cli import app
from streams.connection import kafka_options
from streams.feed import broken, items
from streams.offline import calibrations
from streams.reading import read_all, read_each
from streams.report import write_report
from streams.settings import Settings, environment
from streams.stages import changelogs, keys_in
from streams.survey import survey
from streams.topics import administrator
from streams.wire import outgoing
from tests.integration.test_cli import demur
from tests.property.test_canary import leaks
from tests.property.test_oracle import lived
from tests.rehearsal import Rehearsal
from tests.rehearsal import week as untidy

DEPLOYMENTS = ("north-hospital", "south-hospital")
WEEK = untidy(200, 4, deployments=DEPLOYMENTS)
SAME = (
    *("decisions_out", "labels", "corrections", "duplicates", "orphans", "closures", "pending", "dead_letters"),
    *("dead_letters_by_code", "audited", "tiers", "deployments", "target", "promise", "brier", "calibration_error"),
    "alarms",
)
"""Of what a report of a running system and one of a finished run both speak."""
SMUGGLED = ("decisions", "labels", "closures", "changes", "alarms", "dead-letters")
MIDDLE = sorted(response.occurred_at for response in WEEK.responses)[100]


def played(share: float = 1.0) -> Rehearsal:
    """All stages, without Kafka, over the week or the beginning of it."""
    what = list(items(WEEK.arrivals[: int(share * len(WEEK.arrivals))]))
    what[40:40] = broken(WEEK.responses[0], WEEK.feedback[0])
    return Rehearsal(2, partitions=2).play(what, ended=share == 1.0)


def put(settings: Settings, stages: Rehearsal) -> Settings:
    """Write what the stages wrote to topics."""
    mine = settings.model_copy(update={"partitions": stages.partitions})
    topics.create(mine, changelogs(mine))
    with closing(KafkaProducer(**kafka_options(mine), max_request_size=2_000_000)) as producer:
        for topic, logs in stages.logs.items():
            for entry in (entry for log in logs for entry in log):
                place = {"partition": entry.partition, "key": entry.key, "headers": [*entry.headers]}
                producer.send(mine.topic_prefix + topic, value=entry.value, **place)
    return mine


def send(settings: Settings, events: Sequence[Event], *, keys: Any = None) -> None:
    with closing(KafkaProducer(**kafka_options(settings))) as producer:
        for event in events:
            one = outgoing(settings.topic_prefix, event, keys)
            producer.send(one.topic, key=one.key, value=one.value, headers=one.headers)


def figures(settings: Settings, asked: Selection = Selection()) -> dict[str, Any]:  # noqa: B008 (immutable)
    found = summary(*survey(settings, asked))
    return found | {"note": found["note"].partition(" UTC.")[2]}  # it begins with the minute


@pytest.fixture(scope="module")
def rest() -> Rehearsal:
    stages = played()
    known = {"deployment": DEPLOYMENTS[0], "scope": "all", "statistic": 0.07, "threshold": 0.05, "since": MIDDLE}
    stages.put("alarms", b"k", encode(Alarm(alarm_id="a", kind="breach", raised_at=MIDDLE, **known)), [])
    return stages


@pytest.fixture
def resting(settings: Settings, rest: Rehearsal) -> Settings:
    return put(settings, rest)


def test_a_running_system_is_reported_as_the_run_that_it_was(resting: Settings) -> None:
    watched = Accounts()
    for topic in drive.TOPICS:
        feed = SimpleNamespace(decided=lambda _: None)
        drive._observe(watched, feed, read_all(resting, topic), resting.topic_prefix)  # type: ignore[arg-type]
    assert balances(watched, 10) == []
    run, live = summary(watched, Run(title="", broker="")), figures(resting)
    assert {name: live[name] for name in SAME} == {name: run[name] for name in SAME}
    assert (live["pending"], live["dead_letters"], live["alarms"]) == (0, 10, 1)
    assert min(live[name] for name in ("labels", "corrections", "duplicates", "orphans", "closures")) > 0
    assert (run["invalid"], live["invalid"]) == (10, 0)  # inputs are not read
    assert (live["responses_in"], live["feedback_in"], live["balanced"]) == (None, None, None)
    assert set(live["deployments"]) == set(DEPLOYMENTS)


def test_how_many_partitions_there_are_is_read_from_the_topics(resting: Settings) -> None:
    """An operator's settings need not say it: almost everything would be passed over as misplaced."""
    found = figures(resting.model_copy(update={"partitions": resting.partitions + 5}))
    assert found["invalid"] == 0
    assert found["decisions_out"] == figures(resting)["decisions_out"]


def test_a_verdict_counts_with_its_response_though_it_came_after_the_period(resting: Settings) -> None:
    whole = figures(resting)
    parts = [figures(resting, asked) for asked in (Selection(until=MIDDLE), Selection(since=MIDDLE))]
    for name in ("decisions_out", "labels", "corrections", "duplicates", "orphans", "closures", "audited", "alarms"):
        assert sum(part[name] for part in parts) == whole[name], name
    for tier, cell in whole["tiers"].items():
        for name in ("count", "labelled", "rejected"):
            assert sum(part["tiers"][tier][name] for part in parts) == pytest.approx(cell[name])
    labels = [decode(Label, r.value) for r in read_all(resting, "labels")]
    late = {one.label_id for one in labels if one.decision.occurred_at < MIDDLE <= one.occurred_at}
    early = {one.label_id for one in labels if one.occurred_at < MIDDLE}
    assert late
    assert parts[0]["labels"] == len(early | late)
    assert parts[0]["decisions_out"] >= 100


class Whole(Selection):
    """The same period, and all is read."""

    first_ms = None


@pytest.fixture
def dated(settings: Settings) -> tuple[Settings, datetime]:
    """Topics of two weeks of live operation, dated as if they had been written then; and the middle of the responses.

    Some responses are dated ten years ahead.
    """
    logs = lived(1, ahead_of="t1")
    came = sorted(entry.at_ms for entry in logs.entries["responses"])
    return put_dated(settings, logs), moment(came[len(came) // 2])


def put_dated(settings: Settings, logs: Logs) -> Settings:
    """Write logs to topics, dated as they are."""
    mine = settings.model_copy(update={"partitions": logs.partitions})
    with pytest.MonkeyPatch.context() as patch:  # a topic that is altered may date its first records anew
        patch.setitem(topics.BROKER_CONFIGS, "message.timestamp.type", "CreateTime")
        for name in ("INPUT_RETENTION", "RECORD_RETENTION"):
            patch.setattr(topics, name, timedelta(days=20_000))
        topics.create(mine, changelogs(mine))
    with closing(KafkaProducer(**kafka_options(mine))) as producer:
        for topic, entries in logs.entries.items():
            for e in sorted(entries, key=lambda entry: entry.at_ms):
                place = {"partition": e.partition, "key": e.key, "headers": [*e.headers], "timestamp_ms": e.at_ms}
                producer.send(mine.topic_prefix + topic, value=e.value, **place)
    return mine


@pytest.mark.kafka
def test_a_report_reads_no_more_than_it_must_and_counts_the_same(
    dated: tuple[Settings, datetime], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, middle = dated
    read: Counter[str] = Counter()

    def counted(settings: Settings, topic: str, first_ms: int | None = None) -> Iterator[ConsumerRecord]:
        for record in read_each(settings, topic, first_ms):
            read[topic] += 1
            yield record

    monkeypatch.setattr("streams.survey.read_each", counted)
    parts = [figures(settings, asked) for asked in (Selection(until=middle), Selection(since=middle))]
    read.clear()
    whole = figures(settings)
    all_read = read.copy()
    assert sum(part["decisions_out"] for part in parts) == whole["decisions_out"]
    assert sum(part["labels"] for part in parts) == whole["labels"]
    for days in (-1, 0, 1):
        period = middle + timedelta(days), middle + timedelta(days + 2)
        expected = figures(settings, Whole(*period))
        read.clear()
        assert figures(settings, Selection(*period)) == expected
        assert expected["decisions_out"] > 0
        assert 0 < read["decisions"] < all_read["decisions"]
        assert 0 < read.total() < all_read.total()
    read.clear()
    assert figures(settings, Selection(since=middle + timedelta(days=365)))["decisions_out"] == read.total() == 0


@pytest.mark.kafka
def test_what_is_dated_years_ahead_counts_when_it_came(dated: tuple[Settings, datetime]) -> None:
    settings, middle = dated
    ahead = {r.response_id for r in decisions(settings) if r.occurred_at > middle + timedelta(days=365)}
    assert ahead
    month = timedelta(days=30)
    accounts, _ = survey(settings, Selection(middle - month, middle + month))
    assert all(response_id in accounts.lives for response_id in ahead)
    assert figures(settings, Selection(since=middle + month))["decisions_out"] == 0
    assert figures(settings, Selection(since=middle + month, replayed=True))["decisions_out"] == len(ahead)


def decisions(settings: Settings) -> list[Decision]:
    return [decode(Decision, r.value) for r in read_all(settings, "decisions")]


def test_a_topic_is_read_from_a_time_on(settings: Settings) -> None:
    mine = settings.model_copy(update={"partitions": 2})
    topics.create(mine, changelogs(mine))
    with closing(KafkaProducer(**kafka_options(mine))) as producer:
        for n in range(6):
            producer.send(mine.topic_prefix + "alarms", value=b"%d" % n, partition=n % 2).get(10)
            time.sleep(0.02)
    found = read_all(mine, "alarms")
    for first in {record.timestamp for record in found}:
        expected = {record.value for record in found if record.timestamp >= first}
        assert {record.value for record in read_each(mine, "alarms", first)} >= expected
    assert {record.value for record in read_each(mine, "alarms", 0)} == {b"%d" % n for n in range(6)}


def test_of_a_period_without_responses_there_is_a_report(resting: Settings, tmp_path: Path) -> None:
    said = demur("report", "--out", str(tmp_path), "--from", "2031-01-01", "--to", "2031-02-01", settings=resting)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith(b"0 responses, 0 labels, 0 pending")
    found = orjson.loads((tmp_path / "summary.json").read_bytes())
    assert (found["from"], found["to"]) == ("2031-01-01T00:00:00+00:00", "2031-02-01T00:00:00+00:00")
    assert (found["decisions_out"], found["dead_letters"], found["alarms"]) == (0, 0, 0)
    assert "no decisions" in (tmp_path / "report.html").read_text()


def test_while_a_stream_flows_what_has_no_end_yet_is_pending(settings: Settings, tmp_path: Path) -> None:
    mine = put(settings, played(0.5))
    accounts, run = survey(mine, Selection())
    found = summary(accounts, run)
    assert 0 < found["pending"] < found["decisions_out"]
    html = write_report(accounts, run, tmp_path).read_text()
    assert f"{found['pending']:,} pending" in html
    assert "demur verify" in html
    assert [
        word for word in ("Something is missing", "balances", "wall time", "label to threshold") if word in html
    ] == []


def test_each_deployment_is_held_against_its_own_promise(resting: Settings, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    as_played = "warm_up_labels = 15\nwarm_up_deviation = 2.0\n"
    policy.write_text(f'{as_played}[deployments.{DEPLOYMENTS[0]}]\ntarget = "deep"\ngreen = 0.15\n')
    mine = resting.model_copy(update={"policy": policy})
    accounts, run = survey(mine, Selection())
    north, south = (summary(accounts, run)["deployments"][name] for name in DEPLOYMENTS)
    assert (north["target"], north["promise"]["green"]) == ("deep", 0.15)
    assert (south["target"], south["promise"]["green"]) == ("any", 0.05)
    html = write_report(accounts, run, tmp_path).read_text()
    assert "promise ≤ 15 %" in html
    assert f"{DEPLOYMENTS[1]}: warm-up over" in html
    assert f"{DEPLOYMENTS[0]}: breach, all" in html
    assert "7.0 % rejected, at most 5.0 % expected" in html
    assert "against which each is held below: 1." in html
    alone = figures(mine, Selection(deployment=DEPLOYMENTS[0]))
    assert (alone["target"], alone["promise"]["green"], alone["tiers"]) == ("deep", 0.15, north["tiers"])
    assert f"decisions that were made under another: {alone['decisions_out']:,}." in run.note
    assert alone["decisions_out"] == sum(tier["count"] for tier in north["tiers"].values())
    assert (alone["orphans"], set(alone["deployments"])) == (None, {DEPLOYMENTS[0]})
    assert north["tiers"] != figures(resting)["deployments"][DEPLOYMENTS[0]]["tiers"]  # deep rejections are fewer


def test_nothing_is_written_and_no_group_is_left_behind(resting: Settings, tmp_path: Path) -> None:
    def there() -> Any:
        with administrator(resting) as admin:
            groups = {group["group_id"] for group in admin.list_groups()}
        return groups, {topic: len(read_all(resting, topic)) for topic in drive.TOPICS}

    groups, records = there()
    assert demur("report", "--out", str(tmp_path), settings=resting).returncode == 0
    assert demur("export", "labels", settings=resting).returncode == 0
    after, still = there()
    assert (after - groups, still) == (set(), records)  # those of other tests may go


def lines(settings: Settings, *words: str) -> list[bytes]:
    said = CliRunner().invoke(app, ("export", *words), env=environment(settings))
    assert said.exit_code == 0, said.exception
    return said.stdout_bytes.splitlines()


def test_records_are_exported_for_the_commands_that_read_them(resting: Settings, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b"\n".join(lines(resting, "labels")))
    every = {decode(Label, r.value).label_id for r in read_all(resting, "labels")}
    assert {label.label_id for label in read_labels(file)} == every
    file.write_bytes(b"\n".join(lines(resting, "decisions", "--from", MIDDLE.isoformat())))
    decided = logbook.decisions_in(file)
    assert {one.response_id for one in decided} >= {r.response_id for r in WEEK.responses if r.occurred_at >= MIDDLE}
    assert min(one.occurred_at for one in decided) == MIDDLE
    file.write_bytes(b"\n".join(lines(resting, "calibrations")))
    newest = logbook.newest(resting)
    assert {name: held.calibration for name, held in calibrations(file).items()} == newest


@pytest.mark.parametrize("topic", ["responses", "feedback", "nothing"])
def test_what_holds_text_is_not_exported(topic: str) -> None:
    said = CliRunner().invoke(app, ("export", topic))
    assert isinstance(said.exception, SettingsError)
    assert said.stdout == ""
    assert ("patients' text" in str(said.exception)) == (topic != "nothing")


@pytest.fixture
def smuggled(settings: Settings, rest: Rehearsal) -> Settings:
    """Topics into which somebody wrote records with a patient in them, and records that are none."""
    topics.create(settings, changelogs(settings))
    with closing(KafkaProducer(**kafka_options(settings))) as producer:
        for topic in SMUGGLED:
            good = next(entry.value for log in rest.logs[topic] for entry in log)
            key = (decode(CONTRACT[topic], good).key or "").encode()
            for value in (orjson.dumps(orjson.loads(good) | {"comment": "Zebulon Quagga"}), b"Zebulon Quagga"):
                producer.send(settings.topic_prefix + topic, key=key, value=value)
    return settings


def test_no_text_comes_out_whatever_somebody_wrote(smuggled: Settings, tmp_path: Path) -> None:
    for topic in SMUGGLED:
        [line] = lines(smuggled, topic)
        assert leaks(line) == []
    said = demur("report", "--out", str(tmp_path), settings=smuggled)
    assert said.returncode == 0, said.stderr
    assert orjson.loads((tmp_path / "summary.json").read_bytes())["invalid"] == len(SMUGGLED)
    assert leaks(said.stdout, said.stderr, *(path.read_bytes() for path in tmp_path.iterdir())) == []


def test_only_what_is_signed_is_reported_and_exported(settings: Settings, rest: Rehearsal, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[demur]\nsecret = "{"0123456789abcdef" * 2}"\n')
    mine = settings.model_copy(update={"keys": keys})
    topics.create(mine, changelogs(mine))
    [one, other, *_] = [decode(Decision, e.value) for log in rest.logs["decisions"] for e in log[:2]]
    send(mine, [one], keys=keys_in(keys))
    send(mine, [other])
    assert lines(mine, "decisions") == [encode(one)]
    found = figures(mine)
    assert (found["decisions_out"], found["invalid"]) == (1, 1)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--from", "2026-02-01", "--to", "2026-02-01"), "--from must be before --to"),
        (("--from", "yesterday"), "is no date: write 2026-01-31"),
        (("--config", "absent.toml"), "no settings file absent.toml"),
    ],
)
def test_a_wrong_period_ends_with_one_sentence(words: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    for command in (("report", "--out", str(tmp_path / "out")), ("export", "labels")):
        said = CliRunner().invoke(app, (*command, *words), env={"COLUMNS": "200"})
        assert said.exit_code
        assert sentence in f"{said.output} {said.exception}"
        assert not (tmp_path / "out").exists()
