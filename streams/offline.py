"""`demur score`: decisions on a file of responses, before deployment, by the code that decides in the stream."""

import asyncio
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

from models.calibration.ledger import thresholds
from models.deciding import Calibrated, DecisionContext, Failed, History, decide, refuse, tier_is_rounding_sensitive
from models.encoder.base import Score
from models.errors import EventError, SettingsError
from models.events import Calibration, Decision, Response, build, decode, encode, parse
from models.policy import Policies, Policy
from models.training.lines import read_lines
from streams.clock import WallClock
from streams.scorer import Scorer

CHUNK: Final = 256
"""Responses scored at once; the encoder's own batches are cut from them."""


class Offline:
    """Decides on lines of JSON; without calibrations, by the prior, so that nothing is green."""

    def __init__(self, scorer: Scorer, policies: Policies, held: dict[str, Calibrated], key: bytes) -> None:
        self._scorer = scorer
        self._policies = policies
        self._held = held
        self._key = key
        self._clock = WallClock()

    def decide(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Yield one decision a line, in order. A line that breaks the contract is red if it says whose it is.

        Raises `SettingsError`, which names the line, for one that does not.
        """
        rest = (pair for pair in enumerate(lines, 1) if pair[1].strip())
        while chunk := list(islice(rest, CHUNK)):
            yield from asyncio.run(self._chunk(chunk))

    async def _chunk(self, lines: list[tuple[int, bytes]]) -> list[bytes]:
        return await asyncio.gather(*(self._line(number, line) for number, line in lines))

    async def _line(self, number: int, line: bytes) -> bytes:
        found: dict[str, Any] = {}
        try:
            found = parse(line)
            response: Response = build(Response, found)
        except EventError as error:
            refused = refuse(
                found, error, DecisionContext(Policy(), self._scorer.model_hash, self._key, self._clock.now())
            )
            if refused is None:
                raise SettingsError(f"line {number} of the input: {error}") from None
            return encode(refused)
        [decision] = await self._scorer.decide_all([response], self._decide, self._tier_is_rounding_sensitive)
        return encode(decision)

    def _decide(self, response: Response, score: Score | Failed) -> Decision:
        policy = self._policies.of(response.deployment)
        context = DecisionContext(policy, self._scorer.model_hash, self._key, self._clock.now(), is_live=False)
        return decide(response, score, self._by(response.deployment), History(), context)

    def _tier_is_rounding_sensitive(self, decision: Decision, tolerance: float) -> bool:
        return tier_is_rounding_sensitive(
            decision, self._by(decision.deployment), self._policies.of(decision.deployment), tolerance
        )

    def _by(self, deployment: str) -> Calibrated:
        return self._held.get(deployment, Calibrated())


def calibrations(path: Path | None) -> dict[str, Calibrated]:
    """Read the newest calibration of each deployment from a file of JSON lines (the topic's records).

    Raises `SettingsError` naming file, line and field, `StateError` for parameters that are damaged.
    """
    held: dict[str, Calibrated] = {}
    found: Calibration
    for found in read_lines(path, lambda line: decode(Calibration, line)) if path else ():
        known = held.get(found.deployment, Calibrated()).calibration
        if known is None or found.version >= known.version:
            held[found.deployment] = Calibrated(found, thresholds(found))
    return held
