"""The model card that lies in each artifact as `README.md`: what it is, how good, and what it is not."""

from pathlib import Path
from typing import Any, Final

from models.training.metrics import Metrics
from models.training.vocabulary import FEWEST

_KINDS: Final = {
    "cross": "A transformers classifier over (context and query, response).",
    "late": "A frozen sentence encoder with a trained head over the relation of query and response.",
}
_TEXT: Final = """---
library_name: transformers
tags: [rejection-risk]
---
# Rejection risk of a clinical language model's answer

{kind} It returns the log odds that a clinician rejects the answer; they become a probability only through demur's
calibrator, which learns each deployment's own rate.

| held-out questions | answers | rejected | AUROC | average precision | Brier | ECE |
|---|---|---|---|---|---|---|
| after the answer | {after} |
| before the answer | {before} |

Of {truncated:.1%} of the answers a part was cut: beginning and end are kept, and the decision says so.

Text template {template}, seed {seed}, {libraries}. Training data (BLAKE2b): `{data_digest}`.

**Not for** deciding about patients, ranking clinicians, or use without a calibrator and a human in charge. The
verdicts it learnt from are opinions: who judges weighs as much as what is judged. Silence is no verdict.

**Patients' words.** A vocabulary that was learnt from the training texts has only words of {fewest} conversations or
more. That is no anonymity: weights may remember texts, so pass the model on as you would pass on what it learnt from.
"""


def write_card(folder: Path, facts: dict[str, Any], after: Metrics, before: Metrics, truncated: float) -> None:
    """Write `README.md`; call it before the artifact is sealed."""
    libraries = ", ".join(f"{name} {number}" for name, number in facts["libraries"].items())
    known = {
        "kind": _KINDS[facts["kind"]],
        "libraries": libraries,
        "after": _row(after),
        "before": _row(before),
        "truncated": truncated,
        "fewest": facts.get("recipe", {}).get("fewest", FEWEST),
    }
    (folder / "README.md").write_text(_TEXT.format_map({**facts, **known}), encoding="utf-8")


def _row(found: Metrics) -> str:
    shown = (found.rate, found.auroc, found.average_precision, found.brier, found.ece)
    return " | ".join([str(found.count), *(f"{value:.3f}" for value in shown)])
