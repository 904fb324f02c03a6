import random
from collections import defaultdict
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from models.accounts import Accounts, Selection, balances, summary
from models.accounts.selection import moment
from models.events import Closure, Decision, Feedback, Label, Response
from tests.synthetic_week import PLANTED, Record, Week

WEEK = Week(size=120)
RUN = WEEK.run()


def fed(records: list[Record]) -> Accounts:
    accounts = Accounts()
    for topic, event, at_ms in records:
        if event is None:
            accounts.observe_invalid(topic)
        else:
            accounts.observe(topic, event, at_ms)
    return accounts


def interleaved(seed: int) -> list[Record]:
    """Each topic keeps its order; the topics mix at random."""
    topics = defaultdict(list)
    for record in reversed(WEEK.records):
        topics[record[0]].append(record)
    turns = [name for name, records in topics.items() for _ in records]
    random.Random(seed).shuffle(turns)
    return [topics[name].pop() for name in turns]


@given(st.integers())
@settings(max_examples=25, deadline=None)
def test_the_interleaving_of_the_topics_does_not_matter(seed):
    assert summary(fed(interleaved(seed)), RUN) == summary(fed(WEEK.records), RUN)


@given(st.sets(st.integers(0, len(WEEK.records) - 1), max_size=60))
@settings(max_examples=25, deadline=None)
def test_redelivered_outcomes_do_not_matter(chosen):
    again = [WEEK.records[i] for i in chosen]
    outcomes = [r for r in again if r[1] is not None and not isinstance(r[1], Feedback)]
    assert summary(fed(WEEK.records + outcomes), RUN) == summary(fed(WEEK.records), RUN)


@given(st.integers(0, len(WEEK.records) - 1))
@settings(max_examples=60, deadline=None)
def test_any_single_loss_is_named(place):
    kept = WEEK.records[:place] + WEEK.records[place + 1 :]
    lost = WEEK.records[place][1]
    matters = isinstance(lost, Response | Decision | Feedback | Label)
    matters |= isinstance(lost, Closure) and lost.feedback_id is not None
    if matters:
        assert balances(fed(kept), PLANTED)


HOURS = st.integers(-400, 400).map(lambda n: timedelta(hours=n) / 4)


@given(st.sampled_from([record for record in WEEK.records if record[1] is not None]), HOURS, HOURS)
@settings(max_examples=300, deadline=None)
def test_what_belongs_to_a_period_came_no_earlier_than_it_is_read(record, began, came):
    _, event, at_ms = record
    since = moment(at_ms) + began
    asked, at_ms = Selection(since=since), at_ms + came // timedelta(milliseconds=1)
    assert at_ms >= asked.first_ms or not asked.within(asked.when(event, at_ms))
