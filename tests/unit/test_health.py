"""Health and metrics as a prober and Prometheus see them."""

from datetime import UTC, datetime, timedelta
from typing import get_args, get_type_hints

import aiohttp
import msgspec
import pytest

from models.errors import Excessive, Forged, Invalid, Oversized, SettingsError, Undecodable, UnknownSchema
from models.events import KINDS, Alarm, Calibration, Closure, ClosureReason, Decision, Label, Scored
from models.monitors.guarantee import Finding
from streams.agents.common import Internal
from streams.formatting import SHARES
from streams.health import Health, serve
from streams.metrics import Metrics
from streams.settings import STAGES, load

SETTINGS = load(http_port=0)
NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)
CANARY = "patient-canary"


def decision() -> Decision:
    return Decision(
        response_id=f"{CANARY}-r",
        conversation_id=f"{CANARY}-c",
        deployment=f"{CANARY}-d",
        groups={"site": CANARY},
        tier="red",
        action="review",
        reasons=("truncated", f"unknown_group: {CANARY}"),
        occurred_at=NOW,
        decided_at=NOW,
    )


def label() -> Label:
    taken = Decision.__struct_fields__
    known = {field: getattr(decision(), field) for field in Scored.__struct_fields__ if field in taken}
    return Label(
        label_id=f"{CANARY}-l",
        feedback_id=f"{CANARY}-f",
        response_id=f"{CANARY}-r",
        deployment=f"{CANARY}-d",
        clinician=CANARY,
        action="edited",
        rejected=True,
        depth="deep",
        weight=1.0,
        delay_s=90.0,
        occurred_at=NOW,
        decision=Scored(**known),
    )


def sent() -> list[object]:
    closed = {"closure_id": CANARY, "response_id": CANARY, "closed_at": NOW}
    version = {"deployment": CANARY, "version": 1, "parameters": {}, "labels": 1, "missing_labels": 0}
    alarm = {"alarm_id": CANARY, "kind": "jump", "deployment": CANARY, "scope": CANARY, "statistic": 1.0}
    retracted = {"action": "retracted", "rejected": False, "depth": "none", "weight": 0.0}
    return [
        label(),
        msgspec.structs.replace(label(), action="abandoned", rejected=False, depth="none", weight=0.0),
        msgspec.structs.replace(label(), kind="correction"),
        msgspec.structs.replace(label(), kind="revocation", **retracted),
        Closure(reason="orphan", **closed),
        Calibration(cause=CANARY, as_of=NOW, **version),
        Alarm(threshold=1.0, since=NOW, raised_at=NOW + timedelta(1), **alarm),
    ]


async def get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


async def test_a_worker_is_healthy_only_when_every_check_holds() -> None:
    ready = {"model": True, "calibrations": False}
    checks = {name: (lambda name=name: ready[name]) for name in ready} | {"stage join": lambda: ready["no such key"]}
    async with serve(SETTINGS, Health(checks), Metrics()) as url:
        assert await get(f"{url}/healthz") == (503, '{"ready": false, "missing": ["calibrations", "stage join"]}')
        ready |= {"calibrations": True, "no such key": True}
        assert await get(f"{url}/healthz") == (200, '{"ready": true, "missing": []}')


async def test_metrics_count_what_happened_and_name_nobody() -> None:
    metrics = Metrics()
    metrics.decided([decision()])
    for event in sent():
        metrics.sent(event)
    metrics.dead_letters.labels(stage="score", code="invalid").inc()
    async with serve(SETTINGS, Health({}), metrics) as url:
        status, text = await get(f"{url}/metrics")
    assert status == 200
    assert CANARY not in text
    value = metrics.registry.get_sample_value
    assert value("demur_decisions_total", {"tier": "red", "action": "review"}) == 1
    assert value("demur_decision_reasons_total", {"reason": "truncated"}) == 1
    assert value("demur_decision_reasons_total", {"reason": "unknown_group"}) == 1
    assert value("demur_labels_total", {"tier": "red", "verdict": "rejected", "depth": "deep"}) == 1
    said_nothing = [{"tier": "red", "verdict": "none", "depth": depth} for depth in ("none", "deep")]
    assert [value("demur_labels_total", labels) for labels in said_nothing] == [2, 1]
    assert value("demur_label_delay_seconds_sum") == 4 * 90
    assert value("demur_closures_total", {"reason": "orphan"}) == 1
    assert value("demur_calibrations_total") == 1
    assert value("demur_alarms_total", {"kind": "jump"}) == 1
    assert value("demur_dead_letters_total", {"stage": "score", "code": "invalid"}) == 1


def test_what_happens_seldom_is_counted_from_nought() -> None:
    """Prometheus sees no increase in a series that begins at 1: the first alarm of its kind would be missed."""
    value = Metrics().registry.get_sample_value
    kinds = {*get_args(get_type_hints(Finding)["kind"]), *SHARES}
    assert {"jump", "quarantine", "bias"} | kinds == set(KINDS)
    assert [kind for kind in KINDS if value("demur_alarms_total", {"kind": kind}) != 0] == []
    assert [
        reason for reason in get_args(ClosureReason) if value("demur_closures_total", {"reason": reason}) != 0
    ] == []
    codes = (Undecodable, Oversized, UnknownSchema, Forged, Excessive, Invalid, Internal)
    letters = [{"stage": stage, "code": error.code} for stage in STAGES for error in codes]
    assert [one for one in letters if value("demur_dead_letters_total", one) != 0] == []
    assert [a for a in ("show", "review") if value("demur_decisions_total", {"tier": "green", "action": a}) != 0] == []
    assert value("demur_decisions_total", {"tier": "green", "action": "withhold"}) is None, "no policy does that"


def test_the_lag_is_asked_for_when_prometheus_asks_and_goes_with_the_partitions() -> None:
    metrics, known = Metrics(), {"responses": (7, 1.5), "outcomes": (0, 0.0)}
    metrics.lags.stages["score"] = lambda: known

    def value(name: str, topic: str) -> float | None:
        return metrics.registry.get_sample_value(f"demur_lag_{name}", {"stage": "score", "topic": topic})

    assert [(value("records", t), value("seconds", t)) for t in known] == [(7, 1.5), (0, 0)]
    del known["responses"]
    assert (value("records", "responses"), value("records", "outcomes")) == (None, 0)


async def test_two_workers_in_a_process_share_no_metric() -> None:
    one, other = Metrics(), Metrics()
    one.calibrations.inc()
    assert other.registry.get_sample_value("demur_calibrations_total") == 0


async def test_it_listens_on_loopback_and_a_taken_port_is_one_sentence() -> None:
    async with serve(SETTINGS, Health({}), Metrics()) as url:
        assert url.startswith("http://127.0.0.1:")
        taken = load(http_port=int(url.rsplit(":", 1)[1]))
        with pytest.raises(SettingsError, match="DEMUR_HTTP_PORT: cannot listen at 127"):
            async with serve(taken, Health({}), Metrics()):
                pass
