"""The training loop is Hugging Face Transformers' Trainer; this file only tells it about our rows."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from models.encoder.cross import padded
from models.encoder.quiet import quiet
from models.encoder.tokens import Tokens

Row = dict[str, Any]


class Rows(torch.utils.data.Dataset[Row]):
    """Tokenised answers with their verdicts; `input_ids` is what the Trainer groups by length."""

    def __init__(self, rows: Sequence[Tokens], rejected: Sequence[bool]) -> None:
        self._rows = [
            {"input_ids": row.ids, "row": row, "label": int(no)} for row, no in zip(rows, rejected, strict=True)
        ]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        return self._rows[index]


class _Told(TrainerCallback):
    """Passes on how far the training is."""

    def __init__(self, tell: Callable[[float], None]) -> None:
        self._tell = tell

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - the Trainer's signature
        self._tell(state.global_step / max(1, state.max_steps))


class Lesson(NamedTuple):
    """What is trained on; with `watched`, training stops once its loss has not fallen for `patience` epochs."""

    rows: Rows
    watched: Rows | None
    patience: int
    pad: int


def run(model: Any, lesson: Lesson, settings: dict[str, Any], tell: Callable[[float], None]) -> None:
    """Train `model` in place: AdamW, linear decay after a warm-up over a tenth, batches of similar length.

    With early stopping the weights of the best epoch are kept.
    """
    typed = getattr(model.config, "type_vocab_size", 0) > 1
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**{**_QUIET, **(_WATCHING if lesson.watched else {}), **settings}),
        train_dataset=lesson.rows,
        eval_dataset=lesson.watched,
        data_collator=lambda batch: _collate(batch, lesson.pad, typed=typed),
        callbacks=[_Told(tell), *([EarlyStoppingCallback(lesson.patience)] if lesson.watched else [])],
    )
    trainer.remove_callback(PrinterCallback)
    with quiet():
        trainer.train()


_WATCHING: dict[str, Any] = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_loss",
    "greater_is_better": False,
}


_QUIET: dict[str, Any] = {
    "warmup_steps": 0.1,  # below one it is a share of all steps
    "weight_decay": 0.01,
    "train_sampling_strategy": "group_by_length",
    "remove_unused_columns": False,
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}


def _collate(batch: Sequence[Row], pad: int, *, typed: bool) -> dict[str, Tensor]:
    inputs = padded([row["row"] for row in batch], pad)
    if not typed:
        inputs.pop("token_type_ids")
    return {**inputs, "labels": torch.tensor([row["label"] for row in batch])}
