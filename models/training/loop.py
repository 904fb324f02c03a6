"""The training loop is Hugging Face Transformers' Trainer; this file only tells it about our rows."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from models.encoder.cross import padded
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


def run(model: Any, rows: Rows, settings: dict[str, Any], pad: int, tell: Callable[[float], None]) -> None:
    """Train `model` in place: AdamW, linear decay after a warm-up over a tenth, batches of similar length."""
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**_QUIET, **settings),
        train_dataset=rows,
        data_collator=lambda batch: _collate(batch, pad, typed=getattr(model.config, "type_vocab_size", 0) > 1),
        callbacks=[_Told(tell)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


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
