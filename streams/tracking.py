"""Experiment tracking: figures of a training go to Weights & Biases, and nothing else does.

Not the Trainer's own integration, which also sends arguments, code and console: here a number is the only thing that
fits through. Offline unless `WANDB_MODE` says otherwise; `wandb sync` sends later what is to be sent.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any

from models.errors import SettingsError


class Tracker(StrEnum):
    """Where figures go."""

    WANDB = "wandb"


@contextmanager
def tracked(
    tracker: Tracker | None, out: Path, facts: dict[str, float]
) -> Iterator[Callable[[dict[str, float]], None]]:
    """Yield what takes figures by name. The run's files lie beside `out`, not in it: an artifact takes no others."""
    if tracker is None:
        yield lambda _: None
        return
    folder = out.resolve().with_name(f"{out.resolve().name}-tracking")
    folder.mkdir(parents=True, exist_ok=True)
    run = _open(folder, facts)
    try:
        yield run.log
    finally:
        run.finish()


def _open(folder: Path, facts: dict[str, float]) -> Any:
    try:
        wandb: Any = import_module("wandb")
    except ImportError:
        raise SettingsError("--track wandb needs the package: `pip install wandb`") from None
    settings = wandb.Settings(
        console="off", disable_code=True, disable_git=True, save_code=False, x_disable_meta=True, x_disable_stats=True
    )
    return wandb.init(
        project="demur",
        dir=str(folder),
        config=facts,
        mode=os.environ.get("WANDB_MODE", "offline"),  # noqa: TID251 (wandb's own variable)
        settings=settings,
    )
