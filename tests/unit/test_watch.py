"""WATCH tells a deployment that is kept from green by doubts, whatever part of all responses it has."""

from collections.abc import Sequence

import msgspec
import pytest

from models.events import Alarm, decode
from models.policy import Policies
from models.tiers import DOUBTS
from streams.agents.watch import Watch
from tests.stagecraft import decision, record
from tests.unit.test_fold import theatre

GREEN = ("risk_below_green: 0.0300 < 0.05",)
HIGH = ("risk_between_cuts: 0.1200 < 0.2",)
COLD = ("calibration_missing", "warming_up: 300 labels missing")


def alarms(*told: tuple[int, Sequence[str]], restart: bool = False) -> list[Alarm]:
    """The alarms of decisions with such reasons, so many of each."""
    stage, n = theatre(Watch), 0
    for many, reasons in told:
        stage.run([record(decision(f"r{n + k}", n + k, reasons=tuple(reasons)), n + k) for k in range(many)])
        n += many
        if restart:
            stage.restart()
    told = dict.fromkeys(sent.value or b"" for sent in stage.sent if sent.topic == "alarms")  # a restart repeats them
    return [decode(Alarm, value) for value in told]


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("doubt", DOUBTS)
def test_a_deployment_kept_from_green_raises_one_alarm(doubt: str, *, restart: bool) -> None:
    [alarm] = alarms((200, GREEN), (150, (f"{doubt}: said",)), (150, (*HIGH, doubt)), restart=restart)
    assert (alarm.kind, alarm.deployment, alarm.threshold) == ("doubted", "ward", 0.2)
    assert alarm.evidence == {"reasons": doubt}


def test_a_few_doubts_are_none_and_it_tells_again_after_a_while_without() -> None:
    rare = [(1, GREEN), (9, HIGH), (1, ("truncated",))] * 30
    assert alarms(*rare) == []
    told = alarms((100, GREEN), (100, ("calibration_stale",)), (300, HIGH), (100, ("model_mismatch", "warming_up: 9")))
    assert [alarm.evidence["reasons"] for alarm in told] == ["calibration_stale", "model_mismatch, warming_up"]


def test_a_deployment_that_warms_up_for_the_first_time_is_no_alarm() -> None:
    assert alarms((400, COLD), (400, (*HIGH, "warming_up: 120 labels missing"))) == []
    [alarm] = alarms((400, COLD), (50, ("truncated", *COLD)))
    assert alarm.evidence == {"reasons": "truncated"}
    [alarm] = alarms((400, COLD), (1, HIGH), (50, COLD))
    assert alarm.evidence == {"reasons": "calibration_missing, warming_up"}


def test_what_has_no_score_is_told_once() -> None:
    stage = theatre(Watch)
    missed = decision(reasons=("score_missing", "deadline_missed"), logit=None, tier="red")
    records = [record(msgspec.structs.replace(missed, response_id=f"r{n}"), n) for n in range(50)]
    stage.run(records)
    assert [decode(Alarm, sent.value or b"").kind for sent in stage.sent] == ["unscored"]


def test_a_state_from_before_is_read() -> None:
    watch = Watch(Policies())
    state, _ = watch.create("ward").show()
    old = {**state, "shares": {name: share for name, share in state["shares"].items() if name != "doubted"}}
    restored = watch.restore("ward", {name: value for name, value in old.items() if name != "warm"})
    assert restored.show()[0] == state
