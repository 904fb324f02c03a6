import re
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import orjson
import pytest
from matplotlib.figure import Figure
from msgspec.structs import replace as changed

from models.accounts import Accounts, Drift, Selection, summary
from models.accounts.accounts import MAX_WORDS
from models.accounts.spans import spans
from models.accounts.tallies import Cell
from models.deciding import config_hash
from models.events import Alarm, Calibration, Decision
from models.policy import Policies, Policy
from streams import runs, survey
from streams.report import write_report
from streams.report.axes import EDGE, at, marks
from streams.report.charts import _stack
from streams.report.cuts import _lines
from streams.report.page import page
from streams.settings import Settings
from tests.stagecraft import decision
from tests.synthetic_week import CANARY, DRIFT, START, Record, Week

VOID = {"meta", "br", "link", "img", "hr", "input"}
HOSTILE = r'<script>alert("x")</script>& $\frac{$'


class Strict(HTMLParser):
    """Raises when tags do not nest; counts ids."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.tags: Counter[str] = Counter()

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.ids.update(value for name, value in attrs if name == "id")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.ids.update(value for name, value in attrs if name == "id")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()


def parsed(text: str) -> Strict:
    parser = Strict()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


def fed(records: list[Record]) -> Accounts:
    accounts = Accounts()
    for topic, event, at_ms in records:
        if event is None:
            accounts.observe_invalid(topic)
        else:
            accounts.observe(topic, event, at_ms)
    return accounts


@pytest.fixture(scope="module")
def week() -> Week:
    return Week(size=2000)


@pytest.fixture(scope="module")
def out(week, tmp_path_factory):
    return write_report(fed(week.records), week.run(), tmp_path_factory.mktemp("report") / "new").parent


@pytest.fixture(scope="module")
def html(out) -> str:
    return (out / "report.html").read_text()


def test_it_leaves_exactly_two_files(out):
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "summary.json"]


def test_it_is_small_and_needs_nothing_else(out, html):
    assert (out / "report.html").stat().st_size < 2_000_000
    assert re.findall(r"https?://|//[a-z]+\.|@import|<script|<link|<img|\bsrc=", html) == []


def test_it_is_well_formed_and_ids_are_unique(html):
    parser = parsed(html)
    assert parser.tags["svg"] == 4
    assert [i for i, n in parser.ids.items() if n > 1] == []


def test_what_is_referred_to_exists(html):
    referred = set(re.findall(r"url\(#([^)]+)\)", html)) | set(re.findall(r'href="#([^"]+)"', html))
    assert referred <= set(parsed(html).ids)


def test_every_colour_follows_the_page(html):
    body = html[html.index("</style>") :]
    assert set(re.findall(r"#[0-9a-f]{6}\b", body)) <= {"#ffffff", "#000000"}


def test_no_patient_text_reaches_it(out):
    for name in ("report.html", "summary.json"):
        assert CANARY.split(",", maxsplit=1)[0] not in (out / name).read_text()


def test_it_says_what_the_reader_asks_first(html):
    wanted = ("Nothing lost", "planted drift found after", "category dosing", "jump", "balances", "supports a review")
    assert [w for w in wanted if w not in html] == []
    assert "compliant" not in html


def test_the_summary_is_what_the_page_shows(out, html):
    figures = orjson.loads((out / "summary.json").read_bytes())
    assert figures["balanced"]
    assert f"{figures['responses_in']:,}" in html


def test_the_same_accounts_give_the_same_bytes(week, out, tmp_path):
    again = write_report(fed(week.records), week.run(), tmp_path)
    assert again.read_bytes() == (out / "report.html").read_bytes()


def test_a_loss_is_shown_where_it_cannot_be_missed(week, tmp_path):
    lost = next(r for r in week.records if isinstance(r[1], Decision))
    text = write_report(fed([r for r in week.records if r is not lost]), week.run(), tmp_path).read_text()
    assert "Something is missing" in text
    assert "responses: 1 without a decision" in text


def test_a_drift_that_was_not_found_is_said_to_be_missed(week, tmp_path):
    blind = [r for r in week.records if not isinstance(r[1], Alarm)]
    assert "not found" in write_report(fed(blind), week.run(), tmp_path).read_text()


def test_names_from_outside_are_escaped(week, tmp_path):
    groups = {"category": HOSTILE, "site": HOSTILE}
    hostile = [
        (t, changed(e, groups=groups, reasons=(HOSTILE,)) if isinstance(e, Decision) else e, at)
        for t, e, at in week.records[:400]
    ]
    run = replace(week.run(), title=HOSTILE, drift=Drift(START, f"category={HOSTILE}"))
    text = write_report(fed(hostile), run, tmp_path).read_text()
    parsed(text)
    assert "<script" not in text


@pytest.mark.parametrize("size", [0, 1, 3])
def test_a_run_of_almost_nothing_has_a_report(size, tmp_path):
    week = Week(size=size) if size else None
    run = (week or Week(size=1)).run()
    parsed(write_report(fed(week.records if week else []), run, tmp_path).read_text())


def test_a_drift_in_a_scope_without_responses_is_drawn_empty(week, tmp_path):
    run = replace(week.run(), drift=Drift(DRIFT.at, "category=nobody"))
    assert "not found" in write_report(fed(week.records), run, tmp_path).read_text()


def test_without_a_planted_drift_jumps_are_marked(week, tmp_path):
    run = replace(week.run(), drift=None)
    text = write_report(fed(week.records), run, tmp_path).read_text()
    assert "drift planted" not in text
    assert ">jump<" in text


def test_a_run_of_months_is_drawn_in_months(tmp_path):
    week = Week(size=300)
    long = [
        (t, changed(e, occurred_at=START + 20 * (e.occurred_at - START)) if isinstance(e, Decision) else e, at)
        for t, e, at in week.records
    ]
    accounts = fed(long)
    assert accounts.clock > START + timedelta(days=100)
    assert write_report(accounts, week.run(), tmp_path).stat().st_size < 500_000


def test_of_many_groups_the_busiest_are_shown_and_the_rest_counted(week, tmp_path):
    """Names come last in the alphabet when they are busiest: the first ones of the alphabet are no better."""
    decisions = [(t, e, at) for t, e, at in week.records if isinstance(e, Decision)]
    named = [
        (t, changed(e, groups={"site": f"site-{min(n, 69):02}"}), at) for n, (t, e, at) in enumerate(decisions[:200])
    ]
    text = write_report(fed(named), week.run(), tmp_path).read_text()
    shown = set(re.findall(r"site-\d\d", text))
    assert len(shown) == 60
    assert "site-69" in shown
    assert "And 10 more, with fewer decisions." in text


def test_an_outage_is_not_drawn_as_service():
    """Nothing was decided in the third hour, nor before the scope's first response and after its last."""
    cells = {"green": Cell(count=3), "yellow": Cell(count=1), "red": Cell(count=0)}
    axes = Figure().add_subplot()
    _stack(axes, spans(dict.fromkeys((1, 3, 4), cells), 0, 5, at_most=6))

    def drawn(hour: int) -> bool:
        point = at(hour + 0.5), 0.5
        return any(path.contains_point(point) for area in axes.collections for path in area.get_paths())

    assert [drawn(hour) for hour in range(6)] == [False, True, False, True, True, False]
    assert [text.get_text() for text in axes.texts] == ["green", "yellow"]


def test_a_cut_that_is_closed_is_not_drawn_as_open():
    """Nothing is green from the second hour on, and again until the fourth."""
    trail = {hour: {"category=x": {"green": cut}} for hour, cut in enumerate((-3.0, None, None, -4.0))}
    assert _lines(trail) == {"category=x": [(0, -3.0), (1, -EDGE), (2, -EDGE), (3, -4.0)]}


def decided(deployments: dict[str, int], policies: Policies = Policies()) -> Accounts:  # noqa: B008 (immutable)
    """So many decisions in each, by its policy."""
    accounts = Accounts(policies)
    for name, count in deployments.items():
        made = config_hash(policies.of(name))
        for n in range(count):
            accounts.observe("decisions", decision(f"{name}-{n}", deployment=name, config_hash=made), 0)
    return accounts


def surveyed(accounts: Accounts, **asked: Any) -> dict[str, Any]:
    """What the page of a running system says."""
    run = survey._run(Settings(), accounts, Selection(**asked))
    return page(accounts, run, summary(accounts, run))


@pytest.mark.parametrize("own", [{"green": 0.1}, {"target": "deep"}])
def test_a_deployment_that_means_another_thing_by_rejected_is_named(own, tmp_path):
    policies = Policies(deployments={"icu": Policy(**own)})
    accounts = decided({"icu": 2, "ward": 3}, policies)
    assert surveyed(accounts)["promised_otherwise"] == 1
    rows, _ = surveyed(accounts)["groups"]["deployment"]
    assert [row.says.endswith(f"of {policies.of(row.name).target} rejections") for row in rows] == [True, True]
    text = write_report(accounts, survey._run(Settings(), accounts, Selection()), tmp_path).read_text()
    assert "Promise and target shown: the default policy's (any rejection)." in text
    assert "against which each is held below: 1." in text


def test_a_deployment_that_is_alone_is_held_against_its_own_promise_too():
    accounts = decided({"icu": 2}, Policies(deployments={"icu": Policy(green=0.1)}))
    rows, _ = surveyed(accounts)["groups"]["deployment"]
    assert ["promise ≤ 10 %" in row.says for row in rows] == [True]
    assert surveyed(decided({"icu": 2}))["groups"]["deployment"] == ([], 0)


def test_a_response_without_a_score_was_decided_on_and_not_scored():
    accounts = Accounts()
    accounts.observe("decisions", decision("r", logit=None, risk=None, upper=None, tier="red"), 0)
    assert surveyed(accounts)["tiles"][0][:2] == ("responses decided on", "1")


def test_many_deployments_are_not_taken_for_others_policies():
    accounts = decided(dict.fromkeys(map(str, range(MAX_WORDS + 50)), 1))
    assert "under another" not in surveyed(accounts)["run"].note
    accounts.observe("decisions", decision("r", deployment="late", config_hash="x"), 0)
    assert surveyed(accounts)["run"].note.endswith("under another: 1.")


def test_one_response_with_a_wrong_clock_does_not_stretch_the_time_that_is_shown(monkeypatch):
    """Two weeks and an hour, though decisions were made in three of the hours."""
    came = [START + timedelta(weeks=n) for n in range(3)]
    made = [decision(f"r{n}", occurred_at=when.replace(year=2199 if n == 1 else 2026)) for n, when in enumerate(came)]
    records = [(one, int(when.timestamp() * 1000)) for one, when in zip(made, came, strict=True)]
    monkeypatch.setattr(survey, "read_each", lambda _, topic, __: topic)
    monkeypatch.setattr(survey, "judged", lambda _, topic: records if topic == "decisions" else [])
    accounts, run = survey.survey(Settings(), Selection())
    period = page(accounts, run, summary(accounts, run))["period"]
    assert period == "337 hours of event time, until Mon 19 Jan 2026 00:00"


def test_the_newest_alarms_and_changes_are_shown(week, tmp_path):
    alarm = next(e for _, e, _ in week.records if isinstance(e, Alarm))
    accounts, days = Accounts(), range(30)
    calibration = next(e for _, e, _ in week.records if isinstance(e, Calibration))
    for day in days:
        when = START + timedelta(days=day)
        accounts.observe("alarms", changed(alarm, alarm_id=f"a{day}", raised_at=when), 0)
        known = changed(calibration, version=day, as_of=when, cause=f"jump: {day}")
        accounts.observe("calibrations", known, 0)
    shown = surveyed(accounts)
    assert (shown["alarms"][0].when, shown["alarms"][-1].when) == ("Sun 11 Jan 00:00", "Tue 3 Feb 00:00")
    assert (shown["changes"][0].cause, shown["changes"][-1].cause) == ("jump: 6", "jump: 29")
    text = write_report(accounts, survey._run(Settings(), accounts, Selection()), tmp_path).read_text()
    assert [text.count(f"And {number} earlier.") for number in (5, 6)] == [1, 1]


def test_the_newest_jumps_are_marked(week):
    alarm = next(e for _, e, _ in week.records if isinstance(e, Alarm))
    accounts = decided({"ward": 1})
    for hour in range(12):
        when = START + timedelta(hours=8 + hour)
        accounts.observe("alarms", changed(alarm, alarm_id=f"a{hour}", raised_at=when), 0)
    accounts.observe("decisions", decision("late", seconds=86_400.0), 0)
    began = START.timestamp() / 3600
    found = [mark.x for mark in marks(accounts, replace(week.run(), drift=None))]
    assert found == [at(began + hour) for hour in range(10, 20)]


def test_what_was_passed_over_is_of_the_period_and_of_any_deployment(tmp_path):
    accounts = decided({"ward": 1})
    accounts.observe_invalid("labels")
    text = write_report(accounts, survey._run(Settings(), accounts, Selection()), tmp_path).read_text()
    assert "that came in the period, for any deployment" in text
    assert "of any time" not in text


def test_orphans_are_of_no_deployment():
    accounts = decided({"ward": 1})
    orphans = [surveyed(accounts, deployment=name)["figures"]["orphans"] for name in (None, "ward")]
    assert orphans == [0, None]


def test_a_small_audit_sample_is_not_said_to_be_none(tmp_path):
    (rules := tmp_path / "policy.toml").write_text("audit_rate = 0.004")
    accounts = Accounts(Policies(Policy(audit_rate=0.004)))
    found = (survey._run(Settings(), accounts, Selection()), runs._run(Settings(policy=rules), title="", broker=""))
    assert [run.settings["audit sample"] for run in found] == ["0.4 %", "0.4 %"]
