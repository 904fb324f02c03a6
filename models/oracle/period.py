"""How far back logs are read for a period, so that all that was written in it can be checked (see `retention`)."""

from datetime import datetime
from typing import Final

from models.events import WRITTEN_BY_OTHERS, Closure, DeadLetter, Decision, Label, Outcome
from models.joining import Horizons
from models.oracle.retention import CLOCKS, SKEW

IN_PART: Final = {*WRITTEN_BY_OTHERS, *(one.topic for one in (Decision, Label, Closure, Outcome, DeadLetter))}
"""What is written of each response. The rest is calibrators' and small: read whole."""


def reach(since: datetime, horizons: Horizons) -> datetime:
    """Return since when these topics are read: until its row is over, something may be written of a response."""
    return since - (horizons.response + horizons.settle + horizons.orphan + SKEW + CLOCKS)
