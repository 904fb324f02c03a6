"""Run one method over one stream: predict, tier, wait for the label, learn. Then measure against the truth."""

import heapq
import math
from collections import deque
from statistics import fmean
from time import process_time

import numpy as np
from numpy.typing import NDArray

from benchmarks.calibration.method import Groups, Method, Row
from benchmarks.calibration.streams import EVENTS, FEEDBACK, SHIFT_AT, SHIFTED_CATEGORY, STARTS, WARM_UP, Stream

GREEN, RED = 0.05, 0.20
WINDOW = 1_000
"""Consecutive greens over which the true risk is averaged."""

MIN_CELL = 50
"""Greens that a category or site needs before its rate is read."""

TIMED = 10_000
"""Calls over which a method's speed is taken."""

PROBES, PROBE_EVERY, PROBE_UNTIL, HELD = 400, 100, 12_000, 5
RECOVERED = {"intercept": 0.010, "slope": 0.010, "category": 0.020}
"""Recovered: the divergence from the truth on 400 later responses is below this (nats), now and over five readings."""


class Run:
    """One pass; `risk`, `tier` by event, the last labels, and how the method did on the probes after the shift."""

    def __init__(self, method: Method, stream: Stream) -> None:
        self.method, self.stream = method, stream
        self.logits = stream.logit.tolist()
        self.groups: list[Groups] = [
            (("category", f"c{c}"), ("site", f"s{s}")) for c, s in zip(stream.category, stream.site, strict=True)
        ]
        self.risk, self.tier = np.empty(EVENTS), np.empty(EVENTS, int)
        self.waiting: list[tuple[float, int, int]] = []
        self.labels = self.fresh_labels = self.labels_before = 0
        self.told: deque[tuple[Row, int]] = deque(maxlen=TIMED)
        self.readings: list[tuple[int, float]] = []
        self.probes = self._probes()

    def go(self) -> "Run":
        """Warm up, then stream."""
        warm = slice(0, WARM_UP)
        self.method.warm_up(
            list(zip(self.logits[warm], self.groups[warm], self.stream.verdict[warm].tolist(), strict=True))
        )
        for now in range(EVENTS):
            self._learn_until(now)
            self._predict(now)
            if len(self.probes) and SHIFT_AT <= now < SHIFT_AT + PROBE_UNTIL and now % PROBE_EVERY == 0:
                self.readings.append((self.fresh_labels, self._divergence()))
        return self

    def _learn_until(self, now: int) -> None:
        count = self.labels
        while self.waiting and self.waiting[0][0] <= now:
            _, i, tier = heapq.heappop(self.waiting)
            row: Row = (self.logits[i], self.groups[i], int(self.stream.told[i]))
            self.method.learn(row, float(i - WARM_UP), float(now), tier, audit=bool(self.stream.audit[i]))
            self.told.append((row, tier))
            self.labels += 1
            self.fresh_labels += self._is_fresh(i)
        if now < STARTS.get(self.stream.name, EVENTS):
            self.labels_before += self.labels - count

    def _is_fresh(self, i: int) -> bool:
        concerned = self.stream.name != "category" or self.stream.category[i] == SHIFTED_CATEGORY
        return bool(concerned and i - WARM_UP >= SHIFT_AT)

    def _predict(self, now: int) -> None:
        i = now + WARM_UP
        risk, upper = self.method.predict(self.logits[i], self.groups[i])
        tier = 0 if upper < GREEN else 1 if upper < RED else 2
        self.risk[now], self.tier[now] = risk, tier
        stream = self.stream
        if stream.audit[i] or stream.luck[i] < FEEDBACK[tier] * stream.reported[i]:
            heapq.heappush(self.waiting, (now + float(stream.delay[i]), i, tier))

    def _probes(self) -> NDArray[np.int64]:
        if self.stream.name not in RECOVERED:
            return np.empty(0, int)
        later = np.arange(WARM_UP + SHIFT_AT, WARM_UP + EVENTS)
        if self.stream.name == "category":
            later = later[self.stream.category[later] == SHIFTED_CATEGORY]
        return later[:: max(1, len(later) // PROBES)][:PROBES]

    def _divergence(self) -> float:
        risks = np.array([self.method.predict(self.logits[i], self.groups[i])[0] for i in self.probes])
        return float(divergence(self.stream.risk[self.probes], risks).mean())


def divergence(truth: NDArray[np.float64], risk: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kullback-Leibler divergence of Bernoulli rates, in nats: the log-loss above the oracle's."""
    q = risk.clip(1e-5, 1.0 - 1e-5)
    return truth * np.log(truth / q) + (1.0 - truth) * np.log((1.0 - truth) / (1.0 - q))


def measure(run: Run) -> dict[str, float | None]:
    """Return the figures of a run. Rates are fractions; `None` where a figure does not apply."""
    events = slice(WARM_UP, WARM_UP + EVENTS)
    truth, green = run.stream.risk[events], run.tier == 0
    windows = moving_mean(truth[green], WINDOW)
    return {
        "regret_mnat": 1e3 * float(divergence(truth, run.risk).mean()),
        "ece": calibration_error(truth, run.risk),
        "worst_group": worst_group(run, truth, green),
        "worst_window": float(windows.max()) if len(windows) else None,
        "windows_over": float((windows > GREEN).mean()) if len(windows) else None,
        "coverage": float(green.sum() / (truth < GREEN).sum()),
        "recovery_labels": recovery(run),
        "false_jumps": false_jumps(run),
        "state_bytes": run.method.state_bytes(),
        **speed(run),
    }


def speed(run: Run) -> dict[str, float]:
    """Microseconds of processor time per call: the last labels learnt again, as of now; the last events predicted."""
    events = list(zip(run.logits, run.groups, strict=True))[-TIMED:]
    begun = process_time()
    for now, (row, tier) in enumerate(run.told, EVENTS):
        run.method.learn(row, now, now, tier, audit=False)
    learnt = process_time()
    for logit, groups in events:
        run.method.predict(logit, groups)
    done = process_time()
    return {"learn_us": 1e6 * (learnt - begun) / max(len(run.told), 1), "predict_us": 1e6 * (done - learnt) / TIMED}


def moving_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Mean of every run of `width` values; empty if there are fewer."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    return (sums[width:] - sums[:-width]) / width if len(values) >= width else np.empty(0)


def calibration_error(truth: NDArray[np.float64], risk: NDArray[np.float64]) -> float:
    """Mean |mean risk - mean truth| over 15 equal-count bins of each 5,000 consecutive events."""
    gaps = []
    for start in range(0, EVENTS, 5_000):
        p, t = risk[start : start + 5_000], truth[start : start + 5_000]
        gaps += [abs(p[chunk].mean() - t[chunk].mean()) for chunk in np.array_split(np.argsort(p, kind="stable"), 15)]
    return float(np.mean(gaps))


def worst_group(run: Run, truth: NDArray[np.float64], green: NDArray[np.bool_]) -> float:
    """Highest true risk among the greens of one category or site, over the whole stream."""
    worst = 0.0
    for kind in (run.stream.category[WARM_UP:], run.stream.site[WARM_UP:]):
        for value in np.unique(kind):
            chosen = green & (kind == value)
            if chosen.sum() >= MIN_CELL:
                worst = max(worst, float(truth[chosen].mean()))
    return worst


def recovery(run: Run) -> float | None:
    """Labels born after the shift (of the shifted category) until the probes are read well again; inf: never."""
    if not run.readings:
        return None
    bound, values = RECOVERED[run.stream.name], [value for _, value in run.readings]
    for k in range(len(values) - HELD):
        if values[k] <= bound and fmean(values[k : k + HELD]) <= bound:
            return float(run.readings[k][0])
    return math.inf


def false_jumps(run: Run) -> float:
    """Jumps announced before anything changed, per 30,000 labels."""
    early = sum(at < STARTS.get(run.stream.name, EVENTS) for at in run.method.jumps)
    return 30_000 * early / max(run.labels_before, 1)
