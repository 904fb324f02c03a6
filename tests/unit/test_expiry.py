"""Rows that expire: none while what led to it may come again, each soon after."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from streams.agents.expiry import MAX_DELETIONS, MIN_BUCKETS, Expiry, ExpiryQueue
from streams.timers import EPOCH, GRACE_S, DeletionQueue, Timers
from tests.stagecraft import FakeState, Stopwatch, at

KEEP = timedelta(seconds=2 * MIN_BUCKETS)
STEPS = st.one_of(
    st.tuples(
        st.just("keep"), st.sampled_from("abcdef"), st.sampled_from([-700, -513, -512, -1, 0, 0, 1, 2, 3, 300, 600])
    ),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 1.0, GRACE_S / 2, GRACE_S])),
    st.just(("clear",)),
)


class Told:
    """What is to hold of a queue, said without its buckets."""

    def __init__(self) -> None:
        self.clock = Stopwatch()
        self.queue = ExpiryQueue(KEEP, self.clock)
        self.kept: dict[bytes, datetime] = {}
        """From when each row lives on."""
        self.over: dict[bytes, float] = {}
        self.long_over: dict[bytes, float] = {}
        """Since when it is seen to be over, and by as much as a bucket spans."""
        self.latest = at(0)

    def keep(self, key: bytes, when: datetime) -> None:
        self.latest = max(self.latest, when)
        assert self.queue.add(key, when, again=key in self.kept) == self.latest
        self.kept[key] = self.latest
        self.over.pop(key, None)
        self.long_over.pop(key, None)

    def clear(self) -> None:
        now, gone = self.clock.seconds, set(self.queue.take_expired())
        for key in gone:
            assert self.queue.is_expired(self.kept[key])
            assert self.kept.pop(key) + KEEP <= self.latest
            assert self.over.pop(key) <= now - GRACE_S
            self.long_over.pop(key, None)
        assert all(since > now - GRACE_S for since in self.long_over.values())
        for key, when in self.kept.items():
            if when + KEEP <= self.latest:
                self.over.setdefault(key, now)
            if when + KEEP + KEEP / MIN_BUCKETS <= self.latest:
                self.long_over.setdefault(key, now)


@example([("keep", "a", 1), ("keep", "b", 511), ("clear",), ("wait", GRACE_S), ("clear",)])
@given(st.lists(STEPS, max_size=60))
def test_a_row_goes_when_its_time_and_the_grace_are_over_and_not_before(steps: list[Any]) -> None:
    told = Told()
    told.keep(b"first", at(0))
    for what, *how in steps:
        match what:
            case "keep":
                told.keep(how[0].encode(), told.latest + timedelta(seconds=how[1]))
            case "wait":
                told.clock.seconds += how[0]
            case _:
                told.clear()
    told.keep(b"last", told.latest + 2 * KEEP)
    for _ in range(3):
        told.clear()
        told.clock.seconds += GRACE_S
    assert list(told.kept) == [b"last"]
    assert told.queue._latest.keys() <= {b"last"}


def test_after_a_restart_rows_go_in_the_order_of_their_times_whatever_that_of_their_keys() -> None:
    clock, state = Stopwatch(), FakeState()
    state.rows = {(0, b"%d" % n): b"" for n in range(4)} | {(0, b"d/ward"): b""}
    days = {b"%d" % n: at(86_400 * (3 - n)) for n in range(4)}
    expiry = Expiry(timedelta(days=1), lambda key, _: days.get(key), clock)
    assert asyncio.run(expiry.take(0, state)) == {}
    clock.seconds += GRACE_S
    assert asyncio.run(expiry.take(0, state)) == dict.fromkeys([b"3", b"2", b"1"])
    assert [expiry.is_expired(0, when) for when in days.values()] == [False, True, True, True]


def test_no_plan_is_held_up_by_all_that_is_over_after_a_long_pause() -> None:
    clock = Stopwatch()
    queue = ExpiryQueue(timedelta(days=1), clock)
    for n in range(2 * MAX_DELETIONS + 1):
        queue.add(b"%d" % n, at(0), again=False)
    queue.add(b"last", at(2 * 86_400), again=False)
    assert queue.take_expired() == []
    clock.seconds += GRACE_S
    assert [len(queue.take_expired()) for _ in range(4)] == [MAX_DELETIONS, MAX_DELETIONS, 1, 0]


def test_each_partition_has_its_time_until_it_is_no_longer_ours() -> None:
    expiry = Expiry(timedelta(days=1), lambda *_: None, Stopwatch())
    assert (expiry.watermark, expiry.set(0, b"a", at(7))) == (EPOCH, at(7))
    assert not expiry.is_expired(0, EPOCH), "of a partition that is not ours nothing is known"
    for partition in (0, 1):
        asyncio.run(expiry.take(partition, FakeState()))
    assert expiry.set(0, b"a", at(200_000)) == at(200_000)
    assert expiry.set(0, b"b", at(0)) == at(200_000)
    assert expiry.set(1, b"c", at(0)) == at(0)
    assert [expiry.is_expired(partition, at(0)) for partition in (0, 1)] == [True, False]
    assert expiry.watermark == at(200_000)
    expiry.forget()
    assert expiry.watermark == EPOCH


def test_time_never_goes_back_and_what_is_due_now_is_due() -> None:
    timers = Timers(at(10))
    timers.advance(at(5))
    timers.set("r1", at(10))
    assert (timers.watermark, timers.has_due, list(timers.due())) == (at(10), True, [(at(10), "r1")])


def test_a_row_that_is_over_again_stays_as_long_again() -> None:
    clock = Stopwatch()
    deletions = DeletionQueue(clock)
    deletions.add(["a", "b"])
    clock.seconds += GRACE_S - 1
    deletions.add(["a"])
    clock.seconds += 1
    assert deletions.take_expired(9) == ["b"]
    clock.seconds += GRACE_S
    assert (deletions.take_expired(0), deletions.take_expired(9), deletions.take_expired(9)) == ([], ["a"], [])
