"""A worker that makes no progress ends, so that another takes over."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from streams import watchdog, worker
from streams.stages import Built


def stage(*progress: Any, rebalancing: bool = False) -> tuple[Built, list[str]]:
    """A stage that shows each progress in turn, the last one for ever, and says when it is ended."""
    crashes: list[str] = []
    left = list(progress)

    async def crash(reason: Exception) -> None:
        crashes.append(str(reason))

    def under_way() -> Any:
        return left.pop(0) if len(left) > 1 else left[0]

    recovery = SimpleNamespace(active_offsets={"a": 7})
    app: Any = SimpleNamespace(
        rebalancing=rebalancing, in_recovery=False, crash=crash, consumer=SimpleNamespace(under_way=under_way),
        tables=SimpleNamespace(recovery=recovery),
    )  # fmt: skip
    return Built(app, {}), crashes


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience for one look, and no waiting between two."""
    monkeypatch.setattr(watchdog, "PATIENCE_S", 0.0)
    sleep = asyncio.sleep
    monkeypatch.setattr(worker.asyncio, "sleep", lambda _: sleep(0.001))


@pytest.mark.parametrize("rebalancing", [True, False])
async def test_a_stage_that_stands_still_is_ended(*, rebalancing: bool) -> None:
    built, crashes = stage("offset 3", rebalancing=rebalancing)
    await worker._watch([built])
    assert crashes == ["no progress for 60 s"]


async def test_a_stage_that_works_or_has_nothing_to_do_goes_on() -> None:
    working, idle = stage(*range(1000)), stage(None)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(worker._watch([working[0], idle[0]]), 0.1)
    assert working[1] == idle[1] == []
