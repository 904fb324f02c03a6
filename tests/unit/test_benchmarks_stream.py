"""The pure parts of the stream's benchmarks: what they feed, what must come out, how samples are judged."""

import doctest
import re
import subprocess
import sys
from datetime import timedelta
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.utils import canonicalize_name

from benchmarks.soak.judging import Sample, complaints
from benchmarks.stream import feed
from benchmarks.stream.engines.ours import Free
from benchmarks.stream.jobs import ENGINES, Found, lags_of, row
from benchmarks.stream.peers import REQUIREMENTS
from benchmarks.stream.rule import OUTCOMES, decided, expected
from benchmarks.stream.runs import Bench, Work
from models.deciding import Calibrated
from models.events import Calibration, Decision, Feedback, Label, Response, decode
from models.policy import Policies
from streams.agents.expiry import Expiry
from streams.agents.join import Join
from streams.agents.score import Parts, Score, read_time
from streams.metrics import Metrics
from streams.scorer import Scorer
from streams.wire import Record
from tests.stagecraft import Stopwatch, Theatre, context


@pytest.mark.parametrize("name", ["stream.feed", "stream.meter", "stream.runs", "soak.judging"])
def test_examples(name: str) -> None:
    found = doctest.testmod(import_module(f"benchmarks.{name}"), optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0
    assert found.failed == 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 20), size=st.integers(1, 300))
def test_our_stage_and_the_rule_of_the_peers_come_to_the_same(seed: int, size: int) -> None:
    items = feed.join(300, seed)
    sent: set[bytes] = set()
    for partition in range(feed.PARTITIONS):
        stage = Theatre(lambda state: Join(context(feed.PARTITIONS), state, feed.HORIZONS, Stopwatch(), (b"",)))
        records = [
            Record(i.topic, partition, at, i.key, i.value, {}, 0.0)
            for i, at in feed.by_place(items)
            if i.partition == partition
        ]
        for batch in chunks(records, size):
            stage.run(batch)
        sent |= {value for values in stage.outcomes(*OUTCOMES).values() for value in values}
    assert sent == expected(items)


class Unknown:
    """Calibrations of nobody."""

    def of(self, _: str) -> Calibrated:
        return Calibrated()

    async def ready(self) -> None:
        return


def test_our_score_and_the_rule_of_the_peers_decide_alike() -> None:
    asked = [item for item in feed.responses(100, feedback=True) if item.topic == Response.topic]
    clock = Stopwatch()
    parts = Parts(Scorer(Free(), Metrics()), Unknown(), Policies(), clock, (b"",))
    expiry = Expiry(timedelta(days=1), read_time, clock)
    stage = Theatre(lambda state: Score(context(), state, expiry, parts))
    stage.run([Record(item.topic, 0, at, item.key, item.value, {}, 0.0) for at, item in enumerate(asked)])
    sent = {value for values in stage.outcomes(Decision.topic).values() for value in values}
    assert sent == {item.value for item in decided(asked)}


def test_every_ending_is_among_what_is_fed() -> None:
    found = [orjson.loads(value) for value in expected(feed.join(4000))]
    kinds = {each.get("reason") or each.get("kind", each["type"]) for each in found}
    assert kinds >= {"label", "correction", "revocation", "outcome", "unlabelled", "duplicate", "superseded", "orphan"}


def test_what_waits_is_never_due() -> None:
    assert expected(feed.pending(50)) == set()


def test_events_are_of_the_contract_and_joined_inputs_lie_together() -> None:
    places: dict[str, set[int]] = {}
    types: dict[str, Any] = {t.topic: t for t in (Decision, Feedback, Response, Label)}
    told = feed.responses(100, feedback=True)
    for item in [*feed.join(100, ends=False), *told, *decided(told), *feed.labels(20)]:
        event = decode(types[item.topic], item.value)
        if not isinstance(event, Label | Response):
            places.setdefault(event.response_id, set()).add(item.partition)
    assert {len(found) for found in places.values()} == {1}


def test_a_label_lags_until_the_first_version_that_has_it() -> None:
    def label(deployment: str) -> bytes:
        return orjson.dumps({"deployment": deployment})

    def version(deployment: str, number: int) -> bytes:
        return orjson.dumps({"deployment": deployment, "version": number})

    written = [
        ("labels", 0, 1.0, label("a")),
        ("labels", 0, 2.0, label("a")),
        ("labels", 1, 2.5, label("b")),
        (Calibration.topic, 0, 3.0, version("a", 1)),
        (Calibration.topic, 1, 3.5, version("b", 1)),
        (Calibration.topic, 0, 5.0, version("a", 2)),
    ]
    assert lags_of(written) == [2.0, 3.0, 1.0]
    assert lags_of(written, since=2.5) == [1.0]


def test_an_engine_that_cannot_is_a_row_with_the_reason() -> None:
    bench, work = Bench("kafka", "127.0.0.1:1", Path()), Work("join", [], OUTCOMES)
    found = row(bench, ENGINES["quix"], work, Found(failed="no wheel for this platform"))
    assert found["events_per_s"] is None
    assert found["note"] == "failed: no wheel for this platform"


def samples(minutes: float, grows: float = 0.0, lag: int = 0) -> list[Sample]:
    return [Sample(s, lag, {"join": 100.0 + grows * s / 60}) for s in range(0, int(minutes * 60) + 1, 10)]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (samples(30), []),
        (samples(30, grows=0.2), []),
        (samples(30, grows=1.0), ["memory"]),
        (samples(30, lag=1001), ["lag"]),
        (samples(30, lag=1000), []),
        (samples(29, grows=20.0), []),  # too short to tell
    ],
)
def test_a_soak_complains_of_growth_and_of_lag(what: list[Sample], said: list[str]) -> None:
    assert [each.partition(":")[0] for each in complaints(what, rate=100.0)] == said


def chunks(records: list[Record], size: int) -> list[list[Record]]:
    return [records[n : n + size] for n in range(0, len(records), size)]


def test_the_environment_of_the_peers_has_all_that_the_rule_imports() -> None:
    """They run it in an environment of their own, in which nothing of ours is installed."""
    said = (
        "import sys; before = {*sys.modules}; import benchmarks.stream.rule, benchmarks.stream.log; "
        "print(*sys.modules.keys() - before)"
    )
    root = REQUIREMENTS.parents[2]
    done = subprocess.run([sys.executable, "-c", said], cwd=root, capture_output=True, text=True, check=True)
    imported, of = {name.partition(".")[0] for name in done.stdout.split()}, packages_distributions()
    needed = {canonicalize_name(one) for name in imported for one in of.get(name, ())} - {"demur"}
    assert needed <= set(re.findall(r"^([\w-]+)==", REQUIREMENTS.read_text(), re.MULTILINE))
