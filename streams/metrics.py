"""What Prometheus sees of a worker. Labels are words of this code: never patients' text, never an id.

Counters count what was sent, so a redelivery counts again: these are prompt, the accounts in `models/accounts` exact.
What happens seldom is there from the start, at nought: Prometheus sees no increase in a series that begins at one.
"""

from collections import Counter as Counts
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from models.errors import EventError
from models.events import KINDS, TIERS, Alarm, Calibration, Closure, ClosureReason, Decision, Event, Label
from models.labels import is_evidence
from models.policy import ACTIONS, act
from streams.settings import STAGES

LATENCIES_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
DELAYS_S: Final = (1, 10, 60, 600, 3600, 6 * 3600, 86_400, 3 * 86_400, 7 * 86_400)
"""Feedback comes within seconds or within days."""
ENDS: Final = tuple(product(TIERS, ACTIONS, (True, False)))
"""Tier, plan, and whether a response is audited: what its action follows from."""
SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Lags(Collector):
    """What stages have not settled, asked of them whenever Prometheus asks: a partition that went leaves no figure."""

    def __init__(self) -> None:
        self.stages: Final[dict[str, Callable[[], Mapping[str, tuple[int, float]]]]] = {}
        """By stage what gives, by topic, how many records, and for how many seconds the oldest has waited."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the figures of all stages."""
        by = ["stage", "topic"]
        records = GaugeMetricFamily("demur_lag_records", "Records that are not settled.", labels=by)
        seconds = GaugeMetricFamily("demur_lag_seconds", "For how long the oldest of them has waited.", labels=by)
        for stage, lags in self.stages.items():
            for topic, (number, age) in lags().items():
                records.add_metric([stage, topic], number)
                seconds.add_metric([stage, topic], age)
        yield from (records, seconds)


class Metrics:
    """The metrics of one worker, in a registry of their own. Each is set in one line, where it happens."""

    def __init__(self) -> None:
        self.registry: Final = CollectorRegistry(auto_describe=True)
        self._of_process()
        self._of_score()
        self._of_stages()
        self._of_gateway()
        self.lags: Final = Lags()
        self.registry.register(self.lags)

    def decided(self, decisions: Sequence[Decision]) -> None:
        """Count decisions and their reasons, without their details: those may name a group."""
        endings = Counts((d.tier, d.action) for d in decisions)
        reasons = Counts(reason.partition(":")[0] for d in decisions for reason in d.reasons)
        for (tier, action), number in endings.items():
            self.decisions.labels(tier=tier, action=action).inc(number)
        for reason, number in reasons.items():
            self.reasons.labels(reason=reason).inc(number)

    def sent(self, event: Event) -> None:
        """Count what JOIN, LEARN and WATCH send."""
        match event:
            case Label():
                verdict = "none" if not is_evidence(event) else "rejected" if event.rejected else "accepted"
                self.labels.labels(tier=event.decision.tier, verdict=verdict, depth=event.depth).inc()
                self.label_delay.observe(event.delay_s)
            case Closure():
                self.closures.labels(reason=event.reason).inc()
            case Calibration():
                self.calibrations.inc()
            case Alarm():
                self.alarms.labels(kind=event.kind).inc()

    def _of_process(self) -> None:
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def _of_score(self) -> None:
        self.decisions = self._counter("demur_decisions", "Decisions.", "tier", "action")
        for tier, action in {(tier, act(tier, plan, audit=audit)) for tier, plan, audit in ENDS}:
            self.decisions.labels(tier=tier, action=action)
        self.reasons = self._counter("demur_decision_reasons", "Reasons of decisions; one may have several.", "reason")
        self.scoring_seconds = self._histogram("demur_scoring_seconds", "Time of a batch in the encoder.", LATENCIES_S)
        self.queue = Gauge("demur_scoring_queue", "Responses that wait for the encoder.", registry=self.registry)
        self.batch_responses = self._histogram(
            "demur_scoring_batch_responses", "Responses of a batch in the encoder.", SIZES
        )

    def _of_stages(self) -> None:
        self.labels = self._counter("demur_labels", "Settled verdicts; none: no evidence.", "tier", "verdict", "depth")
        self.label_delay = self._histogram("demur_label_delay_seconds", "From response to feedback.", DELAYS_S)
        self.closures = self._counter("demur_closures", "Endings that are not labels.", "reason")
        for reason in get_args(ClosureReason):
            self.closures.labels(reason=reason)
        self.clock = Gauge(
            "demur_clock_ahead_seconds",
            "By how much this machine's clock is ahead of the broker's.",
            ["stage"],
            registry=self.registry,
        )
        self.open_rows = Gauge(
            "demur_join_open_rows", "Rows that JOIN waits for.", ["partition"], registry=self.registry
        )
        self.calibrations = self._counter("demur_calibrations", "Calibrations published: a batch of labels is one.")
        self.threshold_seconds = self._histogram(
            "demur_label_to_threshold_seconds", "From a label in its topic to the version that holds it.", LATENCIES_S
        )
        self.alarms = self._counter("demur_alarms", "Alarms.", "kind")
        for kind in KINDS:
            self.alarms.labels(kind=kind)
        self.dead_letters = self._counter("demur_dead_letters", "Messages set aside.", "stage", "code")
        for stage, code in product(STAGES, set(_codes(EventError))):
            self.dead_letters.labels(stage=stage, code=code)
        self.lost = self._counter("demur_records_lost", "Records deleted before they were read.", "stage", "topic")

    def _of_gateway(self) -> None:
        self.answers = self._counter("demur_http_answers", "Answers of the gateway.", "path", "status")
        self.answer_seconds = self._histogram(
            "demur_http_decision_seconds", "From a response at the gateway to its decision.", LATENCIES_S
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self.registry)


def _codes(error: type[EventError]) -> Iterator[str]:
    """Yield the code of an error and of all that are of its kind, ours in the shell too."""
    yield error.code
    for kind in error.__subclasses__():
        yield from _codes(kind)
