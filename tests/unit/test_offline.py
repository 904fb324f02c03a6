"""`demur score`: lines in, decisions out, and a line that cannot be decided on is named."""

from pathlib import Path
from typing import Any

import pytest

from models.errors import SettingsError
from models.events import Calibration, encode
from models.policy import Policies
from streams.offline import Offline, calibrations
from tests.rehearsal import Reader
from tests.unit.test_calibrations import version
from tests.unit.test_score import response


def offline() -> Offline:
    reader: Any = Reader()
    return Offline(reader, Policies(), {}, b"")


def test_a_line_that_says_not_whose_it_is_is_named() -> None:
    good = encode(response())
    lines = [good, b"", b'{"query": "Zebulon"}', b"Zebulon"]
    with pytest.raises(SettingsError, match=r"line 3 of the input: .*missing") as raised:
        list(offline().decide(lines))
    assert "Zebulon" not in str(raised.value)
    many = [good] * 300 + [b"Zebulon"]
    with pytest.raises(SettingsError, match="line 301 of the input: not JSON"):
        list(offline().decide(many))


def test_a_file_of_calibrations_may_have_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "calibrations.jsonl"
    one: Calibration = version(3)
    file.write_bytes(b"\n".join([encode(version(2)), b"", encode(one), b"", b""]))
    assert [held.calibration for held in calibrations(file).values()] == [one]
    file.write_bytes(encode(one) + b"\n\n{}\n")
    with pytest.raises(SettingsError, match="line 3: "):
        calibrations(file)
