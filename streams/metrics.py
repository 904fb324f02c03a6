"""What Prometheus sees of a worker. Labels are words of this code: never patients' text, never an id.

Counters count what was sent, so a redelivery counts again: these are prompt, the accounts in `models/accounts` exact.
What happens seldom is there from the start, at nought: Prometheus sees no increase in a series that begins at one.
"""

from collections import Counter as Counts
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

from models.errors import EventError
from models.events import KINDS, Alarm, Calibration, Closure, Decision, Ending, Event, Label
from streams.settings import STAGES

LATENCIES_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
DELAYS_S: Final = (1, 10, 60, 600, 3600, 6 * 3600, 86_400, 3 * 86_400, 7 * 86_400)
"""Feedback comes within seconds or within days."""
SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one worker, in a registry of their own. Each is set in one line, where it happens."""

    def __init__(self) -> None:
        self.registry: Final = CollectorRegistry(auto_describe=True)
        self._of_process()
        self._of_score()
        self._of_stages()

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
                verdict = "rejected" if event.rejected else "accepted"
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
        self.reasons = self._counter("demur_decision_reasons", "Reasons of decisions; one may have several.", "reason")
        self.scoring_seconds = self._histogram("demur_scoring_seconds", "Time of a batch in the encoder.", LATENCIES_S)
        self.queue = Gauge("demur_scoring_queue", "Responses that wait for the encoder.", registry=self.registry)
        self.batch_size = self._histogram("demur_batch_size", "Responses of a batch in the encoder.", SIZES)

    def _of_stages(self) -> None:
        self.labels = self._counter("demur_labels", "Settled verdicts.", "tier", "verdict", "depth")
        self.label_delay = self._histogram("demur_label_delay_seconds", "From response to feedback.", DELAYS_S)
        self.closures = self._counter("demur_closures", "Endings that are not labels.", "reason")
        for reason in get_args(Ending):
            self.closures.labels(reason=reason)
        self.pending = Gauge("demur_pending", "Rows that JOIN waits for.", ["partition"], registry=self.registry)
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

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self.registry)


def _codes(error: type[EventError]) -> Iterator[str]:
    """Yield the code of an error and of all that are of its kind, ours in the shell too."""
    yield error.code
    for kind in error.__subclasses__():
        yield from _codes(kind)
