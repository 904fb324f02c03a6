"""What a scorer knows of the calibrators, without a broker."""

from typing import Any

import pytest

from models.calibration.ledger import Ledger
from models.events import Calibration, encode
from models.policy import Policy
from streams import calibrations
from streams.calibrations import Calibrations
from streams.settings import load
from tests.unit.test_fold import label


def version(labels: int) -> Calibration:
    """A calibrator's version after so many labels."""
    ledger = Ledger("ward", Policy())
    for n in range(1, labels + 1):
        ledger.apply(label(n))
    found = ledger.calibration()
    assert found
    return found


async def test_the_newest_version_serves_and_a_damaged_one_does_not() -> None:
    known = Calibrations(load())
    for value in (encode(version(2)), encode(version(3)), encode(version(1)), b"{}", b"\xff"):
        known.take(value)
    held = known.of("ward").calibration
    assert held
    assert held.version == 3


async def test_without_word_from_the_broker_no_version_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    known: Any = Calibrations(load())
    known.take(encode(version(2)))
    assert not known.of("ward").current, "before the first contact"
    known._contact = 0.0
    monkeypatch.setattr(calibrations, "LOST_S", float("inf"))
    assert known.of("ward").current
    monkeypatch.setattr(calibrations, "LOST_S", 0.0)
    assert not known.of("ward").current, "too long ago"
