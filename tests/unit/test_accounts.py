from datetime import timedelta

import pytest
from msgspec.structs import replace

from models.accounts import Accounts, Selection, balances, summary
from models.accounts.balance import followed
from models.accounts.changes import Changes, explained
from models.accounts.lags import quantiles
from models.calibration.ledger import LINEAGE
from models.events import Calibration, Change, Closure, DeadLetter, Feedback, Instruction, Label, Standing
from models.joining import MAX_SKEW
from tests.stagecraft import decision
from tests.synthetic_week import DRIFT, PLANTED, START, Record, Week
from tests.unit.test_history import begun_anew
from tests.unit.test_ledger import label


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
    return Week()


@pytest.fixture(scope="module")
def figures(week):
    return summary(fed(week.records), week.run())


ISSUE_KEYS = {
    *("responses_in", "decisions_out", "feedback_in", "labels", "duplicates", "orphans", "closures", "dead_letters"),
    *("dead_letters_planted", "drift_planted_at", "drift_alarm_at", "tiers", "label_to_threshold_ms"),
    *("broker", "seconds"),
}


def test_the_summary_has_the_agreed_keys(figures):
    assert figures.keys() >= ISSUE_KEYS
    assert figures["tiers"].keys() == {"green", "yellow", "red"}
    for tier in figures["tiers"].values():
        assert tier.keys() == {"count", "labelled", "rejected", "lower", "upper"}
    assert figures["label_to_threshold_ms"].keys() == {"p50", "p99"}


def test_the_accounts_of_a_whole_week_balance(week, figures):
    assert figures["imbalances"] == []
    assert figures["responses_in"] == figures["decisions_out"] == week.size
    assert figures["feedback_in"] == figures["labels"] + figures["duplicates"] + figures["orphans"]
    assert figures["dead_letters"] == PLANTED


def test_tiers_add_up_to_the_decisions_and_their_intervals_hold_the_rate(figures):
    tiers = figures["tiers"].values()
    assert sum(t["count"] for t in tiers) == figures["decisions_out"]
    assert all(t["lower"] <= t["rejected"] / t["labelled"] <= t["upper"] for t in tiers)


def test_the_drift_alarm_is_the_first_in_its_scope_after_the_drift(figures):
    assert figures["drift_planted_at"] == DRIFT.at.isoformat()
    assert figures["drift_alarm_at"] > figures["drift_planted_at"]


def test_a_label_reaches_the_threshold_with_the_first_calibration_that_contains_it(week):
    accounts = fed([r for r in week.records if isinstance(r[1], Label | Calibration)])
    stamps = [(e, at) for _, e, at in week.records if isinstance(e, Label | Calibration)]
    since = [at for e, at in stamps if isinstance(e, Label)]
    until = {e.version: at for e, at in reversed(stamps) if isinstance(e, Calibration)}
    assert accounts.lags.to_threshold().tolist() == [until[i] - at for i, at in enumerate(since, 1)]
    assert quantiles(Accounts().lags.to_threshold()) == {"p50": None, "p99": None}


def test_an_order_of_a_person_is_a_version_of_its_own(week):
    labels = [e for _, e, _ in week.records if isinstance(e, Label)][:2]
    [first, *_] = [e for _, e, _ in week.records if isinstance(e, Calibration)]
    order = Instruction(
        instruction_id="i", deployment=first.deployment, order="rollback", version=0, by="dr.who", occurred_at=START
    )
    accounts = Accounts()
    for n, event in enumerate((labels[0], order, order, labels[1])):
        accounts.observe("labels", event, 100 * n)
    for version, at_ms in ((1, 30), (2, 130), (3, 350)):
        accounts.observe("calibrations", replace(first, version=version), at_ms)
    assert accounts.labels == 2
    assert accounts.lags.to_threshold().tolist() == [30, 30, 50]


def without(records: list[Record], kind: type, count: int = 1) -> list[Record]:
    lost = [r for r in records if isinstance(r[1], kind)][:count]
    return [r for r in records if r not in lost]


def test_a_second_copy_of_a_feedback_is_a_record_that_needs_an_outcome(week):
    feedback = next(r for r in week.records if isinstance(r[1], Feedback))
    assert balances(fed([*week.records, feedback])) == ["feedback records: 1 without an outcome"]


def test_dead_letters_other_than_those_planted_are_named(week):
    assert balances(fed(week.records), PLANTED + 1) == ["planted broken messages: 4 planted, 3 dead letters"]
    assert balances(fed(without(week.records, DeadLetter)), PLANTED) == [
        "undecodable messages: 1 without a dead letter",
        "planted broken messages: 3 planted, 2 dead letters",
    ]


def test_a_broken_response_that_names_itself_is_one_decision():
    letter = DeadLetter(
        source_topic="responses",
        partition=0,
        offset=1,
        stage="score",
        code="invalid",
        detail="",
        digest="",
        size_bytes=1,
        response_id="r1",
    )
    accounts = fed([("responses", None, 0), ("dead-letters", letter, 0)])
    assert balances(accounts) == ["responses: 1 without a decision"]


def test_a_feedback_that_is_too_much_ends_as_a_dead_letter(week):
    [feedback, other] = [r for r in week.records if isinstance(r[1], Feedback)][:2]
    letter = next(e for _, e, _ in week.records if isinstance(e, DeadLetter))
    letter = replace(letter, source_topic="feedback", stage="join", code="excessive")
    told = [*week.records, feedback, ("dead-letters", letter, 0)]
    assert balances(fed(told)) == []
    assert balances(fed([*told, other])) == ["feedback records: 1 without an outcome"]
    assert balances(fed([*told, ("feedback", None, 0)])) == ["feedback records: 1 without an outcome"]


def test_corrections_are_counted_as_labels_and_kept_out_of_the_rates(week):
    accounts = fed(week.records)
    first = next(e for _, e, _ in week.records if isinstance(e, Label))
    judged = sum(c.labelled for c in accounts.tallies.total().values())
    changed = {"label_id": "x", "feedback_id": "fx", "kind": "correction", "revises": first.label_id}
    fields = {name: getattr(first, name) for name in Label.__struct_fields__} | changed
    accounts.observe("labels", Label(**fields), 0)
    assert accounts.labels == accounts.kinds["verdict"] + 1
    assert sum(c.labelled for c in accounts.tallies.total().values()) == judged


def test_the_change_log_shows_warm_up_and_the_jump_and_leaves_out_routine(week):
    changes = fed(week.records).changes
    assert [c.cause for c in changes.shown] == ["warm-up over", "jump: category=dosing +1.6"]
    jump = changes.shown[1].moves[0]
    assert (jump.scope, round(jump.size, 1)) == ("category=dosing", 1.5)
    assert changes.versions == week.labels + 1


def test_a_jump_in_the_middle_of_a_batch_is_explained_by_its_alarm(week):
    batched = [r for n, r in enumerate(week.records) if not isinstance(r[1], Calibration) or n % 7 == 0]
    quiet = [(t, replace(e, cause="labels") if isinstance(e, Calibration) else e, at) for t, e, at in batched]
    accounts = fed(quiet)
    assert [c.cause for c in accounts.changes.shown] == ["warm-up over", "a batch of labels"]
    causes = [c.cause for c in explained(accounts.changes.shown, accounts.alarms.values())]
    assert causes == ["warm-up over", "jump: category=dosing"]


def logged(week: Week, every: int) -> list[Change]:
    """The calibrator's log: each version with a cause of its own, and every so many of the rest."""
    made = [e for _, e, _ in week.records if isinstance(e, Calibration)]
    kept = [e for n, e in enumerate(made) if n % every == 0 or e.cause != "labels"]
    names = [name for name in Standing.__struct_fields__ if hasattr(made[0], name) and name != "parameters"]
    stood = [Standing(parameters={}, **{name: getattr(one, name) for name in names}) for one in kept]
    return [
        Change(deployment=one.deployment, cause=one.cause, before=before, after=after, last="l")
        for one, before, after in zip(kept, [None, *stood], stood, strict=False)
    ]


def test_what_a_person_ordered_counts_when_it_was_ordered(week):
    """It was reported, dated too, by the last label: just when labels have dried up a person steps in."""
    entry = logged(week, 50)[-1]
    came, later = 10**15, entry.after.as_of + timedelta(days=20)
    ordered = replace(entry, ordered_at=later)
    asked = Selection(since=later - timedelta(days=1), until=later + timedelta(days=1))
    assert [asked.holds(one, came, Accounts().lives) for one in (entry, ordered)] == [False, True]
    changes = Changes()
    for one in (*logged(week, 50)[:-1], replace(ordered, cause="rollback: version 1")):
        changes.observe(one)
    assert changes.shown[-1].at == later


def test_the_log_of_a_calibrator_tells_what_its_versions_did(week):
    entries = logged(week, 50)
    whole, later = Accounts(), Accounts()
    for entry in entries:
        whole.observe("changes", entry, 0)
    for entry in entries[-3:]:
        later.observe("changes", entry, 0)
    assert [c.cause for c in whole.changes.shown] == ["warm-up over by then", "jump: category=dosing +1.6"]
    assert [c.cause for c in later.changes.shown] == ["jump: category=dosing +1.6"]
    assert whole.changes.versions == entries[-1].after.version
    assert later.changes.versions == entries[-1].after.version - entries[-4].after.version
    [scope, *_] = [move.scope for move in later.changes.shown[0].moves]
    assert scope == "category=dosing"
    assert later.changes.trail(entries[0].deployment)


def test_what_waits_is_what_has_neither_verdict_nor_closure(week):
    accounts = fed(week.records)
    assert accounts.waiting == 0
    assert fed(without(week.records, Closure, 10_000)).waiting == accounts.endings["unlabelled"]


def test_only_what_a_clinician_judged_is_called_judged(week):
    """Who gives up, or takes a verdict back, has said nothing of the response."""
    labels = [r for r in week.records if isinstance(r[1], Label)]
    silent = {"action": "abandoned", "rejected": False, "depth": "none", "weight": 0.0}
    kept = [
        (t, replace(e, **silent) if isinstance(e, Label) and e is labels[0][1] else e, at) for t, e, at in week.records
    ]
    before, after = (followed(fed(records)).parts for records in (week.records, kept))
    assert after["judged"] == before["judged"] - 1 == len(labels) - 1
    assert (before["abandoned or retracted"], after["abandoned or retracted"]) == (0, 1)
    assert sum(after.values()) == sum(before.values()) == week.size


def test_the_hours_of_a_scope_add_up_to_its_total(week):
    tallies = fed(week.records).tallies
    for scope in ("", *tallies.scopes("category"), *tallies.scopes("site")):
        total = sum(cell.count for hour in tallies.hours(scope).values() for cell in hour.values())
        assert total == sum(cell.count for cell in tallies.total(scope).values())
    assert min(tallies.hours()) == START.timestamp() // 3600


def test_the_calibrated_risk_is_closer_to_the_truth_than_the_raw_score():
    accounts = fed(Week(size=3000).records)
    assert accounts.calibrated.error() < accounts.raw.error()
    assert accounts.calibrated.brier < accounts.raw.brier


def test_versions_that_are_counted_anew_are_as_many_as_were_gone_through():
    """LEARN lost its state when its log had begun to expire: its next version is a thousand million and one."""
    _, _, entries = begun_anew()
    found = Changes()
    for one in entries:
        found.observe(one)
    old = [one.after.version for one in entries if one.after.version < LINEAGE]
    assert found.versions == max(old) + entries[-1].after.version - LINEAGE


def test_what_is_dated_long_after_it_came_counts_when_it_came():
    """So does its verdict, though that came later: at the hour of the decision."""
    accounts, asked, hour = Accounts(), Selection(), 3_600_000
    came = int(START.timestamp() * 1000)
    for n in range(3):
        known = decision(f"r{n}", occurred_at=START.replace(year=2199) if n == 2 else START)
        accounts.observe("decisions", known, came + n * hour, asked.when(known, came + n * hour))
    verdict = label(2, rejected=True)
    scored = replace(verdict.decision, occurred_at=START.replace(year=2199))
    verdict = replace(verdict, response_id="r2", decision=scored)
    accounts.observe("labels", verdict, came + 9 * hour, asked.when(verdict, came + 9 * hour))
    first = int(START.timestamp()) // 3600
    judged = {h: sum(c.labelled for c in tiers.values()) for h, tiers in accounts.tallies.hours().items()}
    assert judged == {first: 0.0, first + 2: 1.0}
    assert accounts.clock == START + timedelta(hours=2) + MAX_SKEW
