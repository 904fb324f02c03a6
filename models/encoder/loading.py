"""Open a model: a folder of our own, or anything that transformers loads as a classifier of one or two labels."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from models.encoder.artifact import verify
from models.encoder.base import Encoder
from models.encoder.cross import CrossEncoder
from models.encoder.template import VERSION
from models.encoder.tokens import KINDS, Framer
from models.errors import ArtifactError

MAX_LENGTH: Final = 512
"""Positions of BERT; longer texts keep their beginning and end."""


def load(path_or_hub_id: str, device: str = "cpu", *, threads: int | None = None) -> Encoder:
    """Load an encoder; nothing is printed. Raises `ArtifactError`, whose text names the model and the remedy.

    `threads`: processor threads of torch, for the whole process; one process a core scales best.
    """
    facts = verify(Path(path_or_hub_id))
    if threads is not None:
        torch.set_num_threads(threads)
    model, tokenizer = _open(path_or_hub_id)
    marks = bool(facts.get("marks")) and model.config.type_vocab_size >= KINDS
    framer = Framer(tokenizer, _limit(model, tokenizer), marks=marks)
    identity = facts.get("content_hash") or _identity(model, tokenizer)
    model = model.to(device).eval().requires_grad_(requires_grad=False)
    return CrossEncoder(model, framer, _named(identity, device), pad=tokenizer.pad_token_id or 0)


def _open(name: str) -> tuple[Any, Any]:
    try:
        with _silent():
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            model, report = AutoModelForSequenceClassification.from_pretrained(
                name, trust_remote_code=False, use_safetensors=True, output_loading_info=True, dtype=torch.float32
            )
    except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
        raise ArtifactError(_unopened(name, error)) from error
    _check(name, model, report, tokenizer)
    return model, tokenizer


def _unopened(name: str, error: Exception) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    remedy = "give a folder with safetensors weights and a tokenizer, or train one with `demur train`"
    return f"model {name!r} cannot be loaded ({reason}): {remedy}"


def _check(name: str, model: Any, report: dict[str, Any], tokenizer: Any) -> None:
    if missing := sorted(report["missing_keys"]):
        raise ArtifactError(
            f"model {name!r} has no trained head (`{missing[0]}` is missing): train one with `demur train`"
        )
    if (labels := model.config.num_labels) > 2:
        raise ArtifactError(
            f"model {name!r} has {labels} labels; rejection needs one or two: train it with `demur train`"
        )
    if not tokenizer.is_fast:
        raise ArtifactError(f"model {name!r} has no fast tokenizer (`tokenizer.json`): convert it or choose another")


def _limit(model: Any, tokenizer: Any) -> int:
    """The shortest of what tokenizer, position table and `MAX_LENGTH` allow."""
    offset = (
        2 if model.config.model_type in {"roberta", "xlm-roberta", "camembert"} else 0
    )  # their positions start at 2
    positions = getattr(model.config, "max_position_embeddings", MAX_LENGTH) - offset
    return int(min(MAX_LENGTH, positions, tokenizer.model_max_length))


def _identity(model: Any, tokenizer: Any) -> str:
    """Hash a foreign model by what it computes with: configuration, vocabulary, weights."""
    digest = hashlib.sha256(model.config.to_json_string().encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _named(identity: str, device: str) -> str:
    """The model hash: the identity, the template and the numeric mode."""
    mode = f"{identity}/template-{VERSION}/float32/{torch.device(device).type}"
    return hashlib.sha256(mode.encode()).hexdigest()


@contextmanager
def _silent() -> Iterator[None]:
    """Quiet transformers' logs and progress bars, and put back what was set."""
    logs: Any = transformers.utils.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity(logs.CRITICAL)
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()
