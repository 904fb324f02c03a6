"""Open a model: a folder of our own, or anything that transformers loads as a classifier of one or two labels."""

import hashlib
import json
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from safetensors import SafetensorError
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from models.encoder.artifact import CARD, exists, verify
from models.encoder.base import Encoder, Runtime, Wanted
from models.encoder.batches import BATCH_TOKENS
from models.encoder.cross import CrossEncoder
from models.encoder.embedder import Embedder
from models.encoder.forward import Layout, padding
from models.encoder.late import LateEncoder, load_weights
from models.encoder.quiet import quiet
from models.encoder.runtime import choose, probe
from models.encoder.template import VERSION
from models.encoder.tokens import MAX_LENGTH, READING, Framer
from models.errors import ArtifactError

_FAILURES: Final = (OSError, ValueError, ImportError, RuntimeError, KeyError, SafetensorError)
"""What transformers raises when a model is missing, damaged, unsafe or of an unknown kind."""


def load(
    path_or_hub_id: str,
    device: str = "cpu",
    *,
    threads: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    precision: Wanted = "auto",
) -> Encoder[Any]:
    """Load an encoder; nothing is printed. Raises `ArtifactError`, whose text names the model and the remedy.

    Args:
        path_or_hub_id: a folder, or a name on the hub, `org/name` or `org/name@revision` (a commit, tag or branch).
        device: where torch computes: `cpu`, `cuda` or, of several GPUs, `cuda:1`.
        threads: processor threads of torch, for the whole process; one process a core scales best.
        batch_tokens: tokens a forward pass. Batch mates move a logit by some 1e-6 in float32, and by some 1e-2 in
            bfloat16; with 1 every response is scored alone, and a replay is the same bit for bit.
        precision: `auto` is bfloat16 on a GPU and where the processor multiplies in it, else float32.
    """
    facts = verify(Path(path_or_hub_id))
    if threads is not None:
        torch.set_num_threads(threads)
    how = _How(_device(device), batch_tokens, precision)
    return (_late if facts.get("kind") == "late" else _cross)(path_or_hub_id, facts, how)


class _How(NamedTuple):
    device: torch.device
    batch_tokens: int
    precision: Wanted


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ArtifactError(
            f"DEMUR_DEVICE: torch sees no GPU {name!r}: install its driver and a CUDA build, or set cpu"
        )
    return device


def _cross(name: str, facts: dict[str, Any], how: _How) -> Encoder[Any]:
    model, tokenizer = open_model(name)
    if not facts and getattr(model.config, "vocab_size", 0) == 2 * len(tokenizer):
        raise ArtifactError(
            f"model {name!r} has ids for twins, and its `{CARD}` is missing: restore the original folder"
        )
    framer = Framer(tokenizer, limit(model, tokenizer), twins=bool(facts.get("twins")))
    identity = facts.get("content_hash") or _identity(model, tokenizer)
    model = model.to(how.device).eval().requires_grad_(requires_grad=False)
    ways, runtime = choose(model, layout(model, tokenizer), probe(framer), how.precision)
    encoder = CrossEncoder(ways, framer, _named(identity, how, runtime), runtime, batch_tokens=how.batch_tokens)
    encoder.commit = getattr(model.config, "_commit_hash", None)
    return encoder


def layout(model: Any, tokenizer: Any) -> Layout:
    """Return what a classifier wants."""
    typed = getattr(model.config, "type_vocab_size", 0) > 1
    return Layout(padding(model, tokenizer), typed=typed, first=True, limit=limit(model, tokenizer))


def _late(folder: str, facts: dict[str, Any], how: _How) -> Encoder[Any]:
    model, tokenizer = open_sentences(folder)
    embedder = Embedder(model.to(how.device), tokenizer, how.batch_tokens, how.precision)
    model_hash = _named(facts["content_hash"], how, embedder.runtime)
    return LateEncoder(embedder, load_weights(Path(folder)), model_hash)


def open_sentences(name: str) -> tuple[Any, Any]:
    """Return (model, tokenizer) of a sentence encoder: any BERT-like model without a head."""
    place, of = _place(name)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **of)
            model, report = AutoModel.from_pretrained(
                place, trust_remote_code=False, use_safetensors=True, output_loading_info=True, **of, **_dressed(None)
            )
    except _FAILURES as error:
        raise ArtifactError(_unopened(name, error)) from error
    _check_body(name, model, report)
    _check_fast(name, tokenizer)
    return model.eval().requires_grad_(requires_grad=False), tokenizer


def open_model(name: str, labels: int | None = None) -> tuple[Any, Any]:
    """Return (model, tokenizer). With `labels`, a checkpoint without a head gets a new one of so many labels."""
    place, of = _place(name)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **of)
            model, report = AutoModelForSequenceClassification.from_pretrained(
                place, trust_remote_code=False, use_safetensors=True, output_loading_info=True, **of, **_dressed(labels)
            )
    except _FAILURES as error:
        raise ArtifactError(_unopened(name, error)) from error
    _check_body(name, model, report)
    if labels is None:
        _check_head(name, model, report)
    _check_fast(name, tokenizer)
    return model, tokenizer


def _place(name: str) -> tuple[str, dict[str, str]]:
    """Return where transformers finds a model, and which revision of it; a folder has none."""
    place, at, revision = name.partition("@")
    if not at or exists(Path(name)):
        return name, {}
    if not revision:
        raise ArtifactError(f"model {name!r} names no revision behind the @: give a commit, tag or branch")
    return place, {"revision": revision}


def _check_fast(name: str, tokenizer: Any) -> None:
    if not tokenizer.is_fast:
        raise ArtifactError(f"model {name!r} has no fast tokenizer (`tokenizer.json`): convert it or choose another")


def _dressed(labels: int | None) -> dict[str, Any]:
    """Options of the model: single precision, and a new head where one is to be trained."""
    head = {} if labels is None else {"num_labels": labels, "ignore_mismatched_sizes": True}
    return {"dtype": torch.float32, **head}


def _unopened(name: str, error: Exception) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    remedy = "give a folder with safetensors weights and a tokenizer, or train one with `demur train`"
    return f"model {name!r} cannot be loaded ({reason}): {remedy}"


def _check_body(name: str, model: Any, report: dict[str, Any]) -> None:
    """Refuse random layers; head and pooler may be: they are trained, or not read, or `_check_head` asks for them."""
    body = "" if model.base_model is model else f"{model.base_model_prefix}."
    drawn = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    if lacking := sorted(key for key in drawn if key.startswith(body) and "pooler" not in key):
        raise ArtifactError(f"model {name!r} has no weights for `{lacking[0]}`: give a checkpoint that is complete")


def _check_head(name: str, model: Any, report: dict[str, Any]) -> None:
    remedy = "train one with `demur train`"
    if missing := sorted(report["missing_keys"]):
        raise ArtifactError(f"model {name!r} has no trained head (`{missing[0]}` is missing): {remedy}")
    if (labels := model.config.num_labels) > 2:
        raise ArtifactError(f"model {name!r} has {labels} labels, and rejection needs one or two: {remedy}")
    names = [str(model.config.id2label.get(label, "")).lower() for label in range(labels)]
    if names[-1].startswith("accept") or (labels == 2 and names[0].startswith("reject")):
        raise ArtifactError(f"model {name!r} has labels {names}, and the last label must be *reject*: {remedy}")


def limit(model: Any, tokenizer: Any) -> int:
    """The shortest of what tokenizer, position table and `MAX_LENGTH` allow."""
    reserved = 2 if "roberta" in model.config.model_type else 0  # its positions begin after two that are never used
    positions = (getattr(model.config, "max_position_embeddings", None) or 0) - reserved
    return int(min(MAX_LENGTH, tokenizer.model_max_length, *([positions] if positions > 0 else [])))  # XLNet says -1


def _identity(model: Any, tokenizer: Any) -> str:
    """Hash a foreign model by what it computes with: configuration, vocabulary, weights."""
    config = json.loads(model.config.to_json_string())
    config.pop("transformers_version", None)  # of the library that is here, not of the model
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _named(identity: str, how: _How, runtime: Runtime) -> str:
    """The model hash: the identity, the template and the numeric mode."""
    mode = f"{identity}/template-{VERSION}/reading-{READING}/{runtime.precision}/{how.device.type}"
    if runtime.path == "fused":
        mode += "/fused"
    return hashlib.sha256(mode.encode()).hexdigest()
