"""The test bed: a stream of responses whose true rejection risk is known, and how its labels come back.

Warm-up (2,000 labelled responses at time < 0), then 50,000 responses of 8 categories and 5 sites, one per unit of
time. The true log-odds are

    0.8 s - 0.3 + 0.25 max(0, s + 1) + category + site + drift(t),    s ~ N(-2.6, 1.8) the encoder's raw logit

(the hinge is outside every calibrator's family). A label comes with probability .3 / .6 / 1 for green / yellow / red,
after an exponential delay of mean 500. `stress` breaks one assumption at a time.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EVENTS, WARM_UP, SHIFT_AT = 50_000, 2_000, 20_000
CATEGORY_SHARES = np.array([0.30, 0.20, 0.15, 0.11, 0.09, 0.07, 0.05, 0.03])
SITE_SHARES = np.array([0.35, 0.25, 0.20, 0.12, 0.08])
CATEGORY_OFFSETS = np.array([0.0, -0.3, 0.3, 0.15, -0.2, -1.0, 0.4, -0.4])
SITE_OFFSETS = np.array([0.0, 0.2, -0.2, 0.3, -0.3])
SHIFTED_CATEGORY = 5
BAD_SITE = 2
FEEDBACK = (0.3, 0.6, 1.0)
AUDIT_RATE = 0.03
CATEGORY_FACTOR = 1.9
"""One category is 7 % of the stream: its shift is larger (2.3 logits where all shift by 1.2)."""

STREAMS = {
    "stationary": "nothing changes",
    "intercept": "all log-odds rise at 20,000",
    "slope": "the raw logit says less from 20,000 on",
    "gradual": "all log-odds rise from 10,000 to 40,000",
    "recurring": "all log-odds rise and fall every 7,000",
    "category": "one category's log-odds rise at 20,000",
}
STARTS = {"intercept": SHIFT_AT, "slope": SHIFT_AT, "category": SHIFT_AT, "gradual": 10_000, "recurring": 7_000}
"""When each stream begins to change; a jump announced earlier is false."""

STRESSES = {
    "none": "labels are true, on time, and missing by tier only",
    "rubber": "from 10,000 on one site accepts everything",
    "rubberslow": "one site slides into accepting everything, from 10,000 to 30,000",
    "badsite": "from 10,000 on 30 % of one site's labels are flipped",
    "noise5": "5 % of all labels are flipped at random",
    "sparse": "a tenth of the feedback",
    "longdelay": "half of the delays have mean 200, half 6,000",
    "ydelay": "rejections arrive after 150 on average, acceptances after 1,500",
    "mnar": "only 40 % of the acceptances are reported",
    "mnar2": "only half of the rejections are reported",
}
"""Each may end in `+a`: an audit sample of 3 %, whose verdicts are forced and true."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Arrays over warm-up and events. `risk` is the truth; `told` the verdict as it will be reported."""

    name: str
    logit: NDArray[np.float64]
    category: NDArray[np.int64]
    site: NDArray[np.int64]
    risk: NDArray[np.float64]
    verdict: NDArray[np.int64]
    told: NDArray[np.int64]
    delay: NDArray[np.float64]
    luck: NDArray[np.float64]
    reported: NDArray[np.float64]
    audit: NDArray[np.bool_]


def make(name: str, stress: str, seed: int, shift: tuple[float, float] = (1.2, 1.2)) -> Stream:
    """Draw one stream. The size of its shift is uniform in `shift` (logits)."""
    rng = np.random.default_rng([seed, *name.encode()])
    total = WARM_UP + EVENTS
    time = np.arange(total) - WARM_UP
    category = rng.choice(len(CATEGORY_SHARES), total, p=CATEGORY_SHARES)
    site = rng.choice(len(SITE_SHARES), total, p=SITE_SHARES)
    logit = rng.normal(-2.6, 1.8, total)
    size = rng.uniform(*shift)
    offsets = CATEGORY_OFFSETS[category] + SITE_OFFSETS[site]
    eta = 0.8 * logit - 0.3 + 0.25 * np.maximum(0.0, logit + 1.0) + offsets
    eta += drift(name, size, time, logit, category)
    risk = 1.0 / (1.0 + np.exp(-eta))
    verdict = (rng.random(total) < risk).astype(np.int64)
    base, _, suffix = stress.partition("+")
    told, delay, reported = _disturb(base, rng, time, site, verdict)
    audit = (rng.random(total) < AUDIT_RATE) & (suffix == "a")
    return Stream(
        name=name,
        logit=logit,
        category=category,
        site=site,
        risk=risk,
        verdict=verdict,
        told=np.where(audit, verdict, told),
        delay=delay,
        luck=rng.random(total),
        reported=reported,
        audit=audit,
    )


def drift(name: str, size: float, time: NDArray, logit: NDArray, category: NDArray) -> NDArray[np.float64]:
    """Return what a stream's change adds to the log-odds at each response."""
    after = (time >= SHIFT_AT).astype(float)
    match name:
        case "intercept":
            return size * after
        case "slope":  # pivots at a raw logit of -0.5
            return (0.8 * math.exp(-size / 3.2) - 0.8) * (logit + 0.5) * after
        case "gradual":
            return 1.25 * size * np.clip((time - 10_000) / 30_000, 0.0, 1.0)
        case "recurring":
            return size * ((time // 7_000) % 2 == 1) * (time >= 0)
        case "category":
            return CATEGORY_FACTOR * size * after * (category == SHIFTED_CATEGORY)
        case "stationary":
            return np.zeros(len(time))
    raise ValueError(f"no stream {name!r}; there are {', '.join(STREAMS)}")


def _disturb(
    stress: str, rng: np.random.Generator, time: NDArray, site: NDArray, verdict: NDArray
) -> tuple[NDArray, NDArray, NDArray]:
    """Return verdicts as told, delays, and the share of verdicts that is reported at all."""
    if stress not in STRESSES:
        raise ValueError(f"no stress {stress!r}; there are {', '.join(STRESSES)}")
    delay, chance = rng.exponential(500.0, len(time)), rng.random(len(time))
    told = _told(stress, time, site == BAD_SITE, verdict, chance)
    return told, delay * _slowness(stress, verdict, chance), _reported(stress, verdict)


def _told(stress: str, time: NDArray, bad: NDArray, verdict: NDArray, chance: NDArray) -> NDArray[np.int64]:
    match stress:
        case "rubber":
            return np.where(bad & (time >= 10_000), 0, verdict)
        case "rubberslow":
            return np.where(bad & (chance < np.clip((time - 10_000) / 20_000, 0.0, 1.0)), 0, verdict)
        case "badsite":
            return verdict ^ (bad & (time >= 10_000) & (chance < 0.3))
        case "noise5":
            return verdict ^ ((time >= 0) & (chance < 0.05))
        case _:
            return verdict.copy()


def _slowness(stress: str, verdict: NDArray, chance: NDArray) -> NDArray[np.float64]:
    match stress:
        case "longdelay":
            return np.where(chance < 0.5, 0.4, 12.0)
        case "ydelay":
            return np.where(verdict == 1, 0.3, 3.0)
        case _:
            return np.ones(len(verdict))


def _reported(stress: str, verdict: NDArray) -> NDArray[np.float64]:
    accepted, rejected = {"sparse": (0.1, 0.1), "mnar": (0.4, 1.0), "mnar2": (1.0, 0.5)}.get(stress, (1.0, 1.0))
    return np.where(verdict == 1, rejected, accepted)
