"""The realised rejection rate: its interval holds at all times, and a broken promise is found."""

import random

import orjson
import pytest

from models.errors import StateError
from models.events import encode
from models.monitors.confidence import excess, interval, most
from models.monitors.guarantee import Guarantee, alarm
from models.monitors.share import Share
from models.policy import Policies, Policy
from streams.agents.watch import Watch
from tests.unit.test_ledger import label


@pytest.mark.parametrize(("labelled", "rejected"), [(0, 0), (1, 0), (1, 1), (50, 0), (50, 50), (10**6, 3)])
def test_the_interval_holds_the_observed_rate(labelled, rejected):
    lower, upper = interval(labelled, rejected)
    rate = rejected / labelled if labelled else 0.5
    assert 0.0 <= lower <= rate <= upper <= 1.0


def test_it_narrows():
    widths = [upper - lower for n in (100, 1000, 10_000) for lower, upper in [interval(n, n // 20)]]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.015


def test_the_cheap_bound_misses_no_evidence():
    """What it lets the monitor skip could not have passed any threshold."""
    counts = [(n, r) for n in (1, 7, 60, 900, 20_000) for r in {1, n // 20 + 1, n // 8 + 1, n // 2 + 1, n}]
    assert all(
        0.0 <= excess(n, r, 0.05) <= most(n, r, 0.05) for n, r in counts if r > 0.05 * n and excess(n, r, 0.05) > 0
    )


def test_it_covers_a_changing_rate_at_all_times_at_once():
    rng, missed = random.Random(1), 0
    for _ in range(200):
        rejected, total, bad = 0, 0.0, False
        for n in range(1, 1001):
            rate = 0.02 if n % 200 < 100 else 0.08
            total += rate
            rejected += rng.random() < rate
            bad = bad or (
                n % 20 == 0 and max(excess(n, rejected, total / n), excess(n, n - rejected, 1 - total / n)) > 3.69
            )
        missed += bad
    assert missed <= 10  # alpha = .05 of 200; log(2 / .05) = 3.69


def counted(monitor, scope):
    cell = monitor.snapshot()["cells"].get(scope, {"labelled": 0, "rejected": 0})
    return cell["labelled"], cell["rejected"]


def greens(rates, seed):
    monitor, rng = Guarantee(0.05), random.Random(seed)
    found = [
        finding
        for i, rate in enumerate(rates)
        for finding in monitor.count(["all"], rejected=rng.random() < rate, at=float(i))
    ]
    return monitor, found


def test_a_kept_promise_raises_nothing():
    assert not any(greens([0.04] * 3000, seed)[1] for seed in range(10))


@pytest.mark.parametrize("seed", range(5))
def test_a_late_break_is_found_although_the_average_is_still_fine(seed):
    monitor, found = greens([0.02] * 3000 + [0.15] * 300, seed)
    assert [finding.kind for finding in found][:1] == ["excess"]
    assert 2900 <= found[0].since <= 3200
    assert interval(*counted(monitor, "all")).lower < 0.05


def test_a_breach_is_raised_once():
    _, found = greens([0.12] * 1500, seed=1)
    [breach] = [finding for finding in found if finding.kind == "breach"]
    assert breach.statistic == breach.rejected / breach.labelled > breach.threshold == 0.05


@pytest.mark.parametrize(("tier", "cut"), [("yellow", 0.05), ("red", 0.05), ("green", 0.04), ("green", 0.02)])
def test_only_greens_below_the_cut_are_promised_anything(tier, cut):
    """Where the cut is lowered, what was green above it breaks no promise: it was never given."""
    monitor = Guarantee(cut)
    assert [monitor.observe(label(n, rejected=True, tier=tier)) for n in range(100)] == [()] * 100
    assert monitor.snapshot()["cells"] == {}


def test_two_halves_of_a_verdict_are_one():
    whole, halves = Guarantee(0.05), Guarantee(0.05)
    whole.count(["all"], rejected=True, at=1.0)
    for _ in range(2):
        halves.count(["all"], rejected=True, at=1.0, weight=0.5)
    assert halves._cell("all").grown == pytest.approx(whole._cell("all").grown)
    assert counted(halves, "all") == counted(whole, "all")


def test_what_is_forgotten_is_its_scope_and_no_other():
    monitor = Guarantee(0.05)

    def count(at):
        monitor.count(["all", "site=a", "site=b"], rejected=True, at=at)
        return {scope: counted(monitor, scope)[0] for scope in ("all", "site=a", "site=b")}

    assert count(1.0) == {"all": 1, "site=a": 1, "site=b": 1}
    monitor.forget("site=a", 10.0)
    assert counted(monitor, "site=a") == (0, 0)
    assert count(5.0) == {"all": 2, "site=a": 0, "site=b": 2}
    assert count(15.0) == {"all": 3, "site=a": 1, "site=b": 3}
    monitor.forget("site=b", 30.0)
    monitor.forget("all", 20.0)
    assert monitor.snapshot()["cells"] == {}
    assert monitor.snapshot()["since"] == {"site=b": 30.0, "all": 20.0}
    assert count(25.0) == {"all": 1, "site=a": 1, "site=b": 0}
    monitor.forget("site=a", 26.0)
    assert monitor.snapshot()["since"] == {"site=b": 30.0, "all": 20.0, "site=a": 26.0}


def test_labels_count_under_their_groups_and_audit():
    monitor = Guarantee(0.05)
    for i in range(40):
        monitor.observe(label(i, rejected=i == 0))
    assert monitor.observe(label(40, rejected=True, weight=0.0)) == ()
    assert monitor.observe(label(41, rejected=True, kind="correction")) == ()
    assert counted(monitor, "all") == (40, 1)
    assert counted(monitor, "audit") == (2, 1)
    assert counted(monitor, "site=x") == (20, 1)
    scopes = {"all", "audit", "category=a", "category=b", "category=c", "site=x", "site=y"}
    assert set(monitor.snapshot()["cells"]) == scopes


def test_restore_is_exact_and_alarms_replay():
    whole, part, events = Guarantee(0.05), Guarantee(0.05), []
    for i in range(400):
        one = label(i, rejected=i % 5 == 0)
        for finding in whole.observe(one):
            event = alarm(finding, one)
            assert event.evidence == {"labelled": finding.labelled, "rejected": finding.rejected, "label": one.label_id}
            events.append(encode(event))
        part.observe(one)
        part = Guarantee.restore(orjson.loads(orjson.dumps(part.snapshot())), 0.05)
    assert events
    assert len(set(events)) == len(events)
    assert part.snapshot() == whole.snapshot()


def test_a_damaged_snapshot_is_refused():
    with pytest.raises(StateError, match=r"another version.*schema"):
        Guarantee.restore({**Guarantee(0.05).snapshot(), "schema": 2}, 0.05)


def test_where_there_are_too_many_scopes_the_smallest_makes_room(monkeypatch):
    """A free text with a value a response must not keep a real scope from being watched."""
    monkeypatch.setattr("models.monitors.guarantee.MAX_SCOPES", 3)
    monitor = Guarantee(0.05)
    for n in range(20):
        monitor.count(["all", "site=a", f"category={n}"], rejected=False, at=float(n))
    for n in range(200):
        found = monitor.count(["all", "site=b"], rejected=n % 2 == 0, at=100.0 + n)
        if any(one.scope == "site=b" for one in found):
            break
    assert "site=b" in [one.scope for one in found]
    assert counted(monitor, "site=a") == (20, 0)
    assert len(monitor.snapshot()["cells"]) == 3


def test_a_clock_behind_does_not_bring_back_what_was_forgotten():
    monitor = Guarantee(0.05)
    monitor.forget("site=a", 200.0)
    monitor.forget("all", 100.0)
    monitor.forget("all", 50.0)
    monitor.count(["all", "site=a"], rejected=True, at=99.0)
    monitor.count(["site=a"], rejected=True, at=199.0)
    monitor.count(["site=b"], rejected=True, at=99.0)
    assert monitor.snapshot()["cells"] == {}


@pytest.mark.parametrize("changed", [{"green": 0.02}, {"target": "deep"}])
def test_watch_counts_anew_what_a_changed_policy_promises(changed):
    before, after = Watch(Policies(Policy())), Watch(Policies(Policy(**changed)))
    watching = before.create("icu")
    for n in range(500):
        watching.apply(label(n, rejected=n % 33 == 0))
    state, _ = watching.show()
    fresh, _ = after.create("icu").show()
    assert after.restore("icu", orjson.loads(orjson.dumps(state))).show()[0] == fresh
    assert before.restore("icu", orjson.loads(orjson.dumps(state))).show()[0] == state


def test_a_share_is_told_once_until_it_has_fallen_below_half_its_limit():
    share, told = Share(limit=0.2), []
    for yes, count, mean in [
        (True, 60, 0.45),
        (False, 100, 0.17),
        (True, 40, 0.44),
        (False, 160, 0.09),
        (True, 40, 0.39),
    ]:
        told.append(sum(share.count(yes=yes) for _ in range(count)))
        assert share.mean == pytest.approx(mean, abs=0.005)
    assert told == [1, 0, 0, 0, 1]
