"""The time of live operation: from the broker and this machine, of which either may be wrong."""

from datetime import datetime, timedelta

import pytest
from structlog.testing import capture_logs

from models.joining import MAX_SKEW
from streams.clock import LiveClock
from tests.stagecraft import HospitalClock, at

DAY = 86_400.0
WINK = timedelta(milliseconds=1)
"""By which the sum of two clocks may be off."""


def live(clock: LiveClock) -> datetime | None:
    return clock.wall_time_at(clock.monotonic())


def epoch(seconds: float) -> float:
    return at(seconds).timestamp()


def test_no_time_passes_before_anybody_told() -> None:
    clock = HospitalClock()
    assert (clock.is_synchronised, live(clock)) == (False, None)
    clock.synchronise(None)
    assert (clock.is_synchronised, live(clock)) == (True, at(0)), "where the broker dates nothing, this machine must do"
    clock.wait(7.0)
    assert (live(clock), clock.wall_time_at(clock.monotonic() - 2.0)) == (at(7), at(5))


@pytest.mark.parametrize("wall", [-2000 * DAY, 0.0, 2.5, 400 * DAY])
def test_the_slower_clock_counts(wall: float) -> None:
    clock = HospitalClock(at(wall))
    clock.synchronise(epoch(0))
    clock.wait(60.0)
    assert live(clock) == at(60 + min(wall, 0.0))


def test_a_machine_that_slept_is_late_until_the_next_record() -> None:
    clock = HospitalClock()
    clock.synchronise(epoch(0))
    clock.at = at(3 * DAY)  # `monotonic` stood still
    assert live(clock) == at(0)
    clock.observe_broker_time(epoch(3 * DAY))
    assert live(clock) == at(3 * DAY)


def test_what_the_broker_took_long_ago_is_no_word_of_how_late_it_is() -> None:
    """A stage that starts again reads first what it had settled on Friday, or a backlog."""
    clock = HospitalClock()
    clock.observe_broker_time(epoch(-3 * DAY))
    assert (clock.is_synchronised, clock.skew_s) == (False, 0.0)
    clock.synchronise(epoch(0))
    assert (clock.is_synchronised, clock.skew_s, live(clock)) == (True, 0.0, at(0))


def test_what_the_broker_took_long_ago_neither_sets_time_back_nor_holds_it_up() -> None:
    clock = HospitalClock()
    clock.observe_broker_time(epoch(-30 * DAY))
    assert live(clock) == at(-30 * DAY)
    for old in (0.0, -DAY, -5.0):
        clock.observe_broker_time(epoch(old))
    assert live(clock) == at(0)


def test_clocks_that_differ_are_named_once_until_they_agree() -> None:
    clock = HospitalClock(at(400 * DAY))
    with capture_logs() as said:
        clock.observe_broker_time(epoch(-DAY))
        assert said == [], "a backlog is no wrong clock"
        for wall in (400 * DAY, 400 * DAY + 1, 1.0, -61.0, -62.0):
            clock.at = at(wall)
            clock.synchronise(epoch(0))
    assert [entry["ahead_s"] for entry in said] == [400 * DAY, -61]
    assert clock.skew_s == -62.0


def test_a_broker_whose_clock_was_ahead_is_believed_again_when_it_is_right() -> None:
    clock = HospitalClock()
    clock.synchronise(epoch(400 * DAY))
    assert (live(clock), clock.skew_s) == (at(0), -400 * DAY)
    clock.synchronise(epoch(0))
    clock.at = at(400 * DAY)
    assert live(clock) == at(0)


@pytest.mark.parametrize("wall", [-2000 * DAY, 0.0, 400 * DAY])
def test_what_an_event_moves_is_bounded_by_when_it_came(wall: float) -> None:
    """Whatever this machine's clock says: one that is behind would have younger rows forgotten."""
    clock = HospitalClock(at(wall))
    clock.observe_broker_time(epoch(0))
    for dated, moved in ((-DAY, at(-DAY)), (0.0, at(0)), (DAY, at(0) + MAX_SKEW)):
        assert clock.clamped(at(dated), epoch(0)) == moved
    assert clock.clamped(at(-30 * DAY)) == at(-30 * DAY)
    assert clock.clamped(at(4000 * DAY)) == at(max(0.0, wall)) + MAX_SKEW


def test_the_time_of_this_machine_is_that_of_its_own_clock() -> None:
    clock = LiveClock()
    clock.synchronise(None)
    before, told, after = clock.now(), live(clock), clock.now()
    assert told is not None
    assert before - WINK <= told <= after + WINK
