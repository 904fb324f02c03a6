from io import StringIO

import pytest
from msgspec.structs import replace
from rich.console import Console

from models.accounts import Accounts
from models.events import Alarm, Decision
from streams.live import LiveView
from streams.live.screen import Screen
from tests.synthetic_week import CANARY, Week


def console(width: int, height: int, *, terminal: bool = True) -> Console:
    return Console(file=StringIO(), width=width, height=height, force_terminal=terminal, color_system=None)


def fed(week: Week, share: float = 1.0) -> Accounts:
    accounts = Accounts()
    for topic, event, at_ms in week.records[: int(len(week.records) * share)]:
        if event is None:
            accounts.observe_invalid(topic)
        else:
            accounts.observe(topic, event, at_ms)
    return accounts


@pytest.fixture(scope="module")
def week() -> Week:
    return Week(size=1200)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.6, 1.0])
def test_the_screen_fits_the_terminal_at_every_moment(week, width, height, share):
    out = console(width, height)
    out.print(Screen(fed(week, share), week.run(), 10.0))
    lines = out.file.getvalue().splitlines()
    assert len(lines) < height
    assert max(map(len, lines)) <= width


def test_long_names_and_many_groups_and_alarms_do_not_push_anything_out(week):
    accounts = fed(week)
    for n, (topic, event, at_ms) in enumerate(week.records):
        if isinstance(event, Decision):
            groups = {"category": f"a category whose name is long {n % 20}", "site": "s" * 60}
            accounts.observe(topic, replace(event, response_id=f"x{n}", groups=groups), at_ms)
        if isinstance(event, Alarm):
            for copy in range(30):
                accounts.observe(topic, replace(event, alarm_id=f"a{copy}", scope="category=" + "x" * 90), at_ms)
    out = console(80, 24)
    out.print(Screen(accounts, week.run(), 10.0))
    lines = out.file.getvalue().splitlines()
    assert len(lines) < 24
    assert "label to threshold" in lines[-1]
    assert "(7 of 26)" in out.file.getvalue()


def test_names_are_shown_as_they_stand(week):
    accounts = fed(week)
    decision = next(event for _, event, _ in week.records if isinstance(event, Decision))
    groups = {"category": "dosing [/adult]", "site": "ward [icu]"}
    accounts.observe("decisions", replace(decision, response_id="x", groups=groups), 0)
    out = console(120, 60)
    out.print(Screen(accounts, week.run(), 10.0))
    assert [name for name in groups.values() if name not in out.file.getvalue()] == []


def test_no_name_steers_the_terminal(week):
    """Topics may hold what an older version wrote, or another."""
    accounts, steering = fed(week), "dosing\x1b]52;c;eA==\x07"
    decision, alarm = (
        next(event for _, event, _ in week.records if isinstance(event, kind)) for kind in (Decision, Alarm)
    )
    for n in range(500):
        accounts.observe("decisions", replace(decision, response_id=f"x{n}", groups={"category": steering}), 0)
    late = max(one.raised_at for one in accounts.alarms.values()).replace(year=2100)
    accounts.observe("alarms", replace(alarm, alarm_id="x", scope=f"category={steering}", raised_at=late), 0)
    out = console(120, 60, terminal=False)
    out.print(Screen(accounts, week.run(), 10.0))
    shown = out.file.getvalue()
    assert shown.count("dosing]52;c;eA==") == 2
    assert "\x1b" not in shown


def test_the_screen_shows_tiers_cuts_alarm_lag_and_no_patient_text(week):
    out = console(120, 40)
    out.print(Screen(fed(week), week.run(), 10.0))
    shown = out.file.getvalue()
    wanted = ("green", "≤ 5 %", "category", "dosing", "jump category=dosing", "label to threshold", "dead letters")
    assert [w for w in wanted if w not in shown] == []
    assert CANARY not in shown


def test_without_a_terminal_it_says_a_plain_line_every_few_seconds(week):
    out = console(80, 24, terminal=False)
    with LiveView(fed(week), week.run(), out) as view:
        for tenth in range(101):
            view.refresh(tenth / 10)
    lines = out.file.getvalue().splitlines()
    assert len(lines) == 3
    assert "1,200 decisions" in lines[0]
    assert "\x1b" not in out.file.getvalue()


def test_on_a_terminal_it_draws_no_more_often_than_it_should(week):
    out = console(80, 24)
    with LiveView(fed(week, 0.5), week.run(), out) as view:
        view.refresh(0.0)
        drawn = len(out.file.getvalue())
        view.refresh(0.1)
        assert len(out.file.getvalue()) == drawn
        view.refresh(0.1, force=True)
        assert len(out.file.getvalue()) > drawn


def test_pace_is_the_mean_of_the_last_seconds():
    week, accounts = Week(size=100), Accounts()
    view = LiveView(accounts, week.run(), console(80, 24, terminal=False))
    paces = []
    for second, (topic, event, at_ms) in enumerate(week.records[:20]):
        accounts.observe(topic, event, at_ms)
        paces.append(view._pace(float(second)))
    assert paces[0] == 0.0
    assert paces[-1] == pytest.approx(1.0)
