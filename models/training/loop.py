"""The training loop is Hugging Face Transformers' Trainer; this file only tells it about our rows."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments

from models.encoder.forward import padded
from models.encoder.quiet import quiet
from models.encoder.tokens import Tokens
from models.training.losses import Lessons

Row = dict[str, Any]

Track = Callable[[dict[str, float]], None]
"""Called with figures of the training: numbers only, so that no text can leave by this door."""


class Rows(torch.utils.data.Dataset[Row]):
    """Tokenised answers with what the loss is told of them; `input_ids` is what the Trainer groups by length."""

    def __init__(self, rows: Sequence[Tokens], told: Lessons) -> None:
        self._rows = [{"input_ids": row.ids, "row": row, "told": each} for row, each in zip(rows, told, strict=True)]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        return self._rows[index]


class Stop(NamedTuple):
    """Stop once the watched loss has not fallen for `patience` epochs, or after `until` epochs."""

    patience: int
    until: int | None

    def reached(self, epoch: float) -> bool:
        """Whether these were the epochs asked for."""
        return self.until is not None and round(epoch) >= self.until

    def tired(self, losses: Sequence[float]) -> bool:
        """Whether the watched loss has not fallen for long enough."""
        return bool(losses) and len(losses) - 1 - int(np.argmin(losses)) >= self.patience


class Lesson(NamedTuple):
    """What is trained on and, if anything, what is watched meanwhile."""

    rows: Rows
    watched: Rows | None
    stop: Stop
    pad: int
    loss: Callable[..., Tensor]


class _Told(TrainerCallback):
    """Passes on how far the training is, and its figures; and stops it."""

    def __init__(self, stop: Stop, tell: Callable[[float], None], track: Track) -> None:
        self._stop = stop
        self._tell = tell
        self._track = track

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ARG002 - the Trainer's signature
        self._track({name: float(value) for name, value in {**given["logs"], "step": state.global_step}.items()})

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - the Trainer's signature
        self._tell(min(1.0, state.epoch / (self._stop.until or args.num_train_epochs)))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - the Trainer's signature
        if self._stop.reached(state.epoch):
            control.should_training_stop = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - the Trainer's signature
        if self._stop.tired(_watched(state)):
            control.should_training_stop = True


def _watched(state: Any) -> list[float]:
    """Return the watched loss of each epoch so far; a checkpoint carries them."""
    return [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]


def run(
    model: Any, lesson: Lesson, settings: dict[str, Any], tell: Callable[[float], None], track: Track
) -> list[float]:
    """Train `model` in place: AdamW, linear decay after a warm-up over a tenth, batches of similar length.

    Where `output_dir` has checkpoints, the newest goes on, unless it had ended. Returns the watched losses by epoch.
    """
    newest = _newest(Path(settings["output_dir"]))
    typed = getattr(model.config, "type_vocab_size", 0) > 1
    watching = {"eval_strategy": "epoch"} if lesson.watched else {}
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**{**_QUIET, **watching, **settings, **_no_more(newest, lesson.stop)}),
        train_dataset=lesson.rows,
        eval_dataset=lesson.watched,
        data_collator=lambda batch: _collate(batch, lesson.pad, typed=typed),
        compute_loss_func=lesson.loss,
        callbacks=[_Told(lesson.stop, tell, track)],
    )
    trainer.remove_callback(PrinterCallback)
    with quiet():
        trainer.train(resume_from_checkpoint=None if newest is None else str(newest.folder))
    return _watched(trainer.state)


class _Checkpoint(NamedTuple):
    folder: Path
    state: TrainerState


def _newest(folder: Path) -> _Checkpoint | None:
    """Find the newest whole checkpoint: one that was being written when the process ended has no readable state."""
    found = sorted(folder.glob("checkpoint-[0-9]*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    states = ((path, _state(path / "trainer_state.json")) for path in found)
    return next((_Checkpoint(path, state) for path, state in states if state), None)


def _state(path: Path) -> TrainerState | None:
    try:
        found: TrainerState = TrainerState.load_from_json(str(path))
    except (OSError, ValueError):
        return None
    return found


def _no_more(newest: _Checkpoint | None, stop: Stop) -> dict[str, float]:
    """Of a training that had ended: as many epochs as it took, so that its weights are read and no step is made."""
    if newest is None:
        return {}
    ended = stop.reached(newest.state.epoch) or stop.tired(_watched(newest.state))
    return {"num_train_epochs": round(newest.state.epoch)} if ended else {}


_QUIET: dict[str, Any] = {
    "warmup_steps": 0.1,  # below one it is a share of all steps
    "weight_decay": 0.01,
    "train_sampling_strategy": "group_by_length",
    "remove_unused_columns": False,
    "save_strategy": "no",
    "logging_steps": 0.05,
    "report_to": "none",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}


def _collate(batch: Sequence[Row], pad: int, *, typed: bool) -> dict[str, Tensor]:
    inputs = padded([row["row"] for row in batch], pad)
    if not typed:
        inputs.pop("token_type_ids")
    return {**inputs, "labels": torch.tensor([row["told"] for row in batch])}
