"""What the commands print: names and words of people as they stand, and one sentence when something is wrong."""

import json
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from rich.console import Console
from typer.testing import CliRunner

from models.calibration.control import Difference, Effect
from models.calibration.history import History
from models.errors import SettingsError, StateError
from models.events import encode
from models.oracle import Logs
from models.policy import Policy
from models.training.fit import Report
from models.training.metrics import measure
from streams import cli, runs
from streams.commands import calibrator, policy, say
from streams.settings import Settings, load
from tests.stagecraft import decision
from tests.unit.test_ledger import fold, log

HOSTILE = "ward [icu], see [/wiki] :warning:"


def printed(capsys: pytest.CaptureFixture[str], text: str) -> bool:
    out, err = capsys.readouterr()
    return text in (out + err)


def test_what_people_wrote_is_printed_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    assert printed(capsys, HOSTILE)


def test_an_error_is_printed_as_it_stands(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise StateError(HOSTILE)

    monkeypatch.setattr(cli, "app", fails)
    monkeypatch.setattr(cli.structlog, "configure", lambda **_: None)  # for all tests that follow
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert printed(capsys, f"demur: {HOSTILE}")


def test_the_way_to_learn_for_another_policy_can_be_typed_as_it_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(calibrator, "_correct", lambda _, *words: given.append(words))
    [said] = policy.notes("icu", None, Policy(), Policy(target="deep"))[1:]
    name, *words = said.split("`")[1].split()
    done = CliRunner().invoke(cli.app, words)
    assert (name, done.exit_code, given) == ("demur", 0, [("icu", ("WHO", ""))])


def test_a_longer_warm_up_is_not_foreseen_without_a_calibration() -> None:
    longer = "a longer warm-up"
    known = fold(log(300))[0].calibration()
    assert longer in " ".join(policy.notes("icu", None, Policy(), Policy(warm_up_labels=301)))
    for version, proposed in ((None, Policy(warm_up_labels=299)), (known, Policy(warm_up_labels=301))):
        assert longer not in " ".join(policy.notes("icu", version, Policy(), proposed))


def test_reviews_a_day_are_of_the_days_in_which_responses_were_decided_on(tmp_path: Path) -> None:
    """One is dated far ahead, and one is there twice: delivery is at least once."""
    made = [decision(f"r{n}", seconds=3600.0 * n, deployment="icu") for n in range(25)]
    made[7] = msgspec.structs.replace(made[7], occurred_at=datetime(2199, 1, 1, tzinfo=UTC))
    file, rules = tmp_path / "decisions.jsonl", tmp_path / "policy.toml"
    file.write_bytes(b"\n".join(map(encode, [*made, made[0], *made])))
    rules.write_text("audit_rate = 1.0")
    words = ("policy", "simulate", str(rules), "--decisions", str(file))
    said = CliRunner().invoke(cli.app, (*words, "--json"))
    assert orjson.loads(said.output)["icu"]["days"] == 1.0
    table = CliRunner().invoke(cli.app, words, env={"COLUMNS": "200"})
    [proposed] = [line for line in table.output.splitlines() if "proposed" in line]
    assert proposed.split()[-2] == "25"


def test_names_in_tables_are_printed_as_they_stand(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    effect = Effect(tiers={"green": 1.0}, actions={"show": 1.0})
    facts: dict[str, Any] = {"before": 1, "after": 2, "cause": "labels", "labels": 1}
    found = Difference(
        deployment="d [/x]",
        parameters={"offset [site=north]": (1.0, 2.0)},
        cuts={"site=ward [/icu]": {"green": (1.0, 2.0), "red": (3.0, 4.0)}},
        effect_before=effect,
        effect_after=effect,
        **facts,
    )
    calibrator._show(found, json=False)
    out = capsys.readouterr().out
    names = ("d [/x]", "offset [site=north]", "green below, site=ward [/icu]", "red from, site=ward [/icu]")
    assert [name for name in names if name not in out] == []


@pytest.mark.parametrize(("versions", "said"), [(set[int](), ""), ({7, 3, 9}, "3 entries of versions 3 to 9")])
def test_entries_that_cannot_be_used_are_named_beside_what_is_shown(
    versions: set[int], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    history = History("icu", Policy(), log(30))
    history.passed_over |= versions
    monkeypatch.setattr(calibrator, "_history", lambda *_: history)
    monkeypatch.setattr(calibrator, "_compare", lambda *_: msgspec.json.decode(b"{}"))
    calibrator.diff("icu", 10, 20, json=True)
    shown = capsys.readouterr()
    assert shown.out == "{}\n"
    assert said in shown.err
    assert bool(shown.err) == bool(said)


def test_a_replay_waits_for_its_encoder_as_long_as_it_may(tmp_path: Path) -> None:
    """What a busy machine cannot score in two seconds would be red, and the bytes would differ by its speed."""
    settings = load(**cli._replay("127.0.0.1:9092", "m", tmp_path, None))
    with pytest.raises(SettingsError, match="DEMUR_DEADLINE_S"):
        load(deadline_s=settings.deadline_s + 1)


@pytest.mark.parametrize("bootstrap", ["127.0.0.1:9092", None])
def test_a_run_on_a_broker_of_yours_says_what_it_left_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bootstrap: str | None
) -> None:
    used: list[Settings] = []

    def run(settings: Settings, out: Path, **_: Any) -> runs.Finished:
        used.append(settings)
        return runs.Finished(out / "report.html", out / "summary.json", "0 differences", [])

    monkeypatch.setattr(runs, "demonstrate", run)
    monkeypatch.setattr(runs, "broker_for", lambda *_: nullcontext(("127.0.0.1:9092", "")))
    monkeypatch.setattr(cli, "_encoder", lambda *_, **__: "m")
    given = ("--bootstrap", bootstrap) if bootstrap else ()
    said = CliRunner().invoke(cli.app, ("demo", "--out", str(tmp_path), *given), env={"COLUMNS": "80"})
    assert said.exit_code == 0, said.output
    command = f"demur verify --replayed --bootstrap {bootstrap} --prefix {used[0].topic_prefix}\n"
    assert (command in said.output) == (bootstrap is not None)
    assert ("topics" in said.output) == (bootstrap is not None)


def test_a_check_of_nothing_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[datetime | None] = []

    def read(_: Settings, *, since: datetime | None, **__: bool) -> Logs:
        asked.append(since)
        return Logs({})

    monkeypatch.setattr("streams.verify.read", read)
    nothing = "nothing proven, for no decision, label or closure could be checked: 0 differences"
    for words, written in (((), ""), (("--from", "2026-01-31T08:00:00+01:00"), "2026-01-31 07:00:00")):
        said = CliRunner().invoke(cli.app, ("verify", *words))
        assert said.exit_code == 1
        period = f" in what was written since {written} UTC" if written else ""
        assert said.output == f"{nothing}{period}; checked: nothing\n"
    assert asked == [None, datetime(2026, 1, 31, 7, tzinfo=UTC)]


@pytest.mark.parametrize(
    "words",
    [
        ("policy", "simulate", "none.toml"),
        ("policy", "simulate", __file__, "--decisions", "none.jsonl"),
        ("policy", "simulate", __file__, "--calibrations", "none.jsonl"),
        ("score", "--calibrations", "none.jsonl"),
        ("replay", "--responses", "none.jsonl"),
        ("replay", "--responses", __file__, "--feedback", "none.jsonl"),
        ("verify", "--policy", "none.toml"),
    ],
)
def test_a_file_that_is_not_there_is_named_before_anything_starts(words: tuple[str, ...]) -> None:
    said = CliRunner().invoke(cli.app, words, env={"COLUMNS": "200"})
    assert said.exit_code == 2
    assert f"'{words[-1]}' does not exist" in said.output


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("evaluate", "--artifact", "a", "--data", "d", "--json", "no/out.json"), "the folder no is not there"),
        (("evaluate", "--artifact", "a", "--data", "d", "--html", "no/out.html"), "the folder no is not there"),
        (("readiness", "--labels", "l", "--json", "no/out.json"), "the folder no is not there"),
        (("readiness", "--labels", "l", "--json", "."), "file '.' is a directory"),
        (("demo", "--out", __file__), "is a file"),
        (("replay", "--responses", __file__, "--out", __file__), "is a file"),
        (("train", "--out", __file__), "is a file"),
        (("synth", "--out", __file__), "is a file"),
        (("demo", "--out", "/proc/nope"), "/proc"),
        (("replay", "--responses", __file__, "--out", f"{__file__}/nope"), f"can be written to {__file__} (Not"),
        (("synth", "--out", f"{__file__}/nope/nope"), f"can be written to {__file__} (Not"),
        (("report", "--out", f"{__file__}/nope"), f"can be written to {__file__} (Not"),
        (("readiness", "--labels", "/dev/null", "--json", "/proc/x.json"), "/proc"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_named_before_the_work(words: tuple[str, ...], sentence: str) -> None:
    said = CliRunner().invoke(cli.app, words, env={"COLUMNS": "400"})
    assert said.exit_code == 2
    assert sentence in said.output


def test_a_model_is_trained_though_words_alone_teach_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = measure([0, 1], [0.1, 0.9])
    monkeypatch.setattr("models.training.fit.train", lambda *_, **__: Report(found, found, 0.0))
    rows = [{"id": str(n), "query": f"q{n}", "response": f"a{n}a b{n}b", "label": n % 2} for n in range(40)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = ("train", "--data", str(tmp_path / "data.jsonl"), "--out", str(tmp_path / "out"))
    said = CliRunner().invoke(cli.app, asked, env={"COLUMNS": "400"})
    assert said.exit_code == 0, said.output
    assert "held-out AUROC 1.000 after the response, 1.000 before it; words alone: field `response`" in said.output


@pytest.mark.parametrize("days", ["inf", "nan", "100000"])
def test_a_week_of_more_days_than_dates_bear_is_refused(days: str, tmp_path: Path) -> None:
    said = CliRunner().invoke(cli.app, ("synth", "--out", str(tmp_path / "x"), "--days", days))
    assert said.exit_code == 2
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("words", [("demo",), ("replay", "--responses", __file__)])
def test_a_run_goes_to_the_broker_that_the_environment_names(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []

    def broker_for(bootstrap: str | None, _: Path) -> Any:
        asked.append(bootstrap)
        raise SettingsError("no broker here")

    monkeypatch.setattr(runs, "broker_for", broker_for)
    monkeypatch.setattr(cli, "_encoder", lambda *_, **__: "m")
    for more, names in (((), "127.0.0.1:1"), (("--bootstrap", "127.0.0.1:2"), "127.0.0.1:2")):
        env = {"DEMUR_BOOTSTRAP": "127.0.0.1:1"}
        CliRunner().invoke(cli.app, [*words, *more, "--out", str(tmp_path)], env=env)
        assert asked.pop() == names


@pytest.mark.parametrize(
    "day", ["0001-01-01", "0001-01-01T00:30", "0001-01-01T00:00:00+14:00", "9999-12-31T23:00-12:00", "1969-12-31"]
)
def test_a_date_in_which_no_event_can_lie_is_refused(day: str, tmp_path: Path) -> None:
    for words in (("report", "--out", str(tmp_path / "out")), ("export", "labels"), ("verify",)):
        said = CliRunner().invoke(cli.app, (*words, "--from", day), env={"COLUMNS": "200"})
        assert said.exit_code == 2
        assert "is out of range: write a date from 1970 to 2199" in said.output


def test_feedback_beside_judged_answers_is_refused(tmp_path: Path) -> None:
    """They hold their verdicts; what was given beside them would be left out without a word."""
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"id": "1", "query": "Dose?", "response": "5 mg", "label": 1}')
    how: Any = {"seed": 1, "console": Console(), "broker": ""}
    with pytest.raises(SettingsError, match="leave --feedback out"):
        runs.replay(load(), [answers], answers, tmp_path, **how)
