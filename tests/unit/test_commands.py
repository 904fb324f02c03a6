"""What the commands print: names and words of people as they stand, and one sentence when something is wrong."""

from pathlib import Path
from typing import Any

import pytest

from models.calibration.control import Difference, Effect
from models.errors import SettingsError, StateError
from streams import cli
from streams.commands import calibrator, say
from streams.settings import load

HOSTILE = "ward [icu], see [/wiki] :warning:"


def printed(capsys: pytest.CaptureFixture[str], text: str) -> bool:
    out, err = capsys.readouterr()
    return text in (out + err)


def test_what_people_wrote_is_printed_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    assert printed(capsys, HOSTILE)


def test_an_error_is_printed_as_it_stands(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise StateError(HOSTILE)

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert printed(capsys, f"demur: {HOSTILE}")


def test_names_in_tables_are_printed_as_they_stand(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    effect = Effect(tiers={"green": 1.0}, actions={"show": 1.0})
    facts: dict[str, Any] = {"before": 1, "after": 2, "cause": "labels", "labels": 1}
    found = Difference(
        deployment="d [/x]",
        parameters={"offset [site=north]": (1.0, 2.0)},
        cuts={"site=ward [/icu]": {"green": (1.0, 2.0)}},
        effect_before=effect,
        effect_after=effect,
        **facts,
    )
    calibrator._show(found, json=False)
    out = capsys.readouterr().out
    assert [name for name in ("d [/x]", "offset [site=north]", "site=ward [/icu]") if name not in out] == []


def test_a_replay_waits_for_its_encoder_as_long_as_it_may(tmp_path: Path) -> None:
    """What a busy machine cannot score in two seconds would be red, and the bytes would differ by its speed."""
    settings = load(**cli._replay("127.0.0.1:9092", "m", tmp_path, None))
    with pytest.raises(SettingsError, match="DEMUR_DEADLINE_S"):
        load(deadline_s=settings.deadline_s + 1)
