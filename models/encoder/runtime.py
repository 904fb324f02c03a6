"""Which way an encoder computes: chosen at the start, by what the processor has and by a test of exactness.

Not by a race: a choice that hung on the load of the machine would change the model hash from start to start, and with
it the calibrators. Dynamic int8 is left out: it moves single probabilities by up to .8 and flips one tier in a hundred.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from models.encoder.base import Precision, Route, Runtime, Wanted
from models.encoder.cross import log_odds
from models.encoder.forward import Forward, Layout, Packed, Plain, Ways, packed
from models.encoder.gpu import GraphedModel
from models.encoder.kernels import Numerics
from models.encoder.template import PENDING
from models.encoder.tokens import Framer, Tokens
from models.errors import ArtifactError

BOUNDS: Final[dict[Precision, float]] = {"float32": 1e-5, "bfloat16": 0.03}
"""Probability that a way may differ from the plain float32 forward, at most. Measured in float32: some 1e-7; in
bfloat16: .012 to .026, and no tier moves."""

SHARES: Final[dict[Precision, float]] = {"float32": 1e-4, "bfloat16": 0.05}
"""And of the logits' spread, or of one logit where they spread less: of a head that is sure of itself no probability
moves, whatever is computed. Measured: 1e-6; .001 of the reference encoder's, up to .02 of random weights'."""

_FAILURES: Final = (ValueError, TypeError, RuntimeError, AttributeError, IndexError)
"""What a model of an unforeseen kind raises."""

PROBES: Final = (
    ("Dose?", "Daily."),
    ("When?", "Daily."),
    ("May she take amlodipine?", "Take two tablets of amlodipine 5 mg every day with water. " * 2),
    ("What if a dose of warfarin was missed? " * 4, "Never take twice as much; tell us at the next visit. " * 6),
    ("Is it safe with her kidneys?", PENDING),
    ("Is it safe with her kidneys?", "No. Stop it at once, and go to the emergency department."),
    ("Is it safe with her kidneys?", "Yes, 500 mg of metformin twice a day is safe."),
    ("triage | - | - | - | turn 0 | How long does a rash last?", "I am a language model, and cannot say. " * 3),
)
"""Of equal and of different lengths, about three hundred tokens; the reference encoder's logits spread over five."""


LONG: Final = " ".join(chain.from_iterable(PROBES)) * 8
"""Longer than any model reads: the last positions are tried as well."""


class Probe(NamedTuple):
    """A test's texts, a list a pass; what is compared, and a function to what is bounded by one."""

    passes: Sequence[Sequence[Tokens]]
    read: Callable[[Forward, Sequence[Sequence[Tokens]]], Tensor]
    bounded: Callable[[Tensor], Tensor] = torch.sigmoid

    def by(self, way: Forward) -> Tensor:
        """Return what is compared."""
        return self.read(way, self.passes)

    def alone(self, way: Forward) -> Tensor:
        """Return the same of each text by itself."""
        return self.read(way, [[row] for rows in self.passes for row in rows])


def odds(way: Forward, passes: Sequence[Sequence[Tokens]]) -> Tensor:
    """(N,): the log odds of rejection."""
    return torch.cat([log_odds(way.logits(rows)) for rows in passes])


def probe(framer: Framer) -> Probe:
    """Return the test of a classifier."""
    return Probe([framer(PROBES), framer([(LONG, LONG)])], odds)


def choose(model: Any, layout: Layout, test: Probe, wanted: Wanted) -> tuple[Ways, Runtime]:
    """Return the fastest way through a model that agrees with the plain one, and the plain one.

    Raises `ArtifactError` if `wanted` names a precision that it cannot have.
    """
    plain, expected, alone = _plain(model, layout, test)
    reason = ""
    for path, precision in _candidates(model, wanted):
        how = Numerics(getattr(torch, precision), fused=path == "fused")
        try:
            way = packed(model, layout, how, GraphedModel if _on_gpu(model) else Packed)
            found = test.by(way)
        except _FAILURES as error:
            reason = f"it cannot be {path}, for {_line(error)}"
            continue
        deviation, off = _furthest(test.bounded(found), test.bounded(expected)), (found - expected).abs()
        if deviation <= BOUNDS[precision] and float(off.max()) <= SHARES[precision] * _spread(expected):
            return Ways(way, plain), Runtime(path, precision, deviation, reason, float(off.mean()))
        reason = f"{path} in {precision} a probability differs by {deviation:.1g}, a logit by {float(off.max()):.1g}"
    if wanted == "bfloat16":
        raise ArtifactError(f"DEMUR_PRECISION: this model cannot compute in bfloat16 ({reason}): choose float32")
    return Ways(plain, plain), Runtime("plain", "float32", 0.0, f"{alone}{reason}")


def _plain(model: Any, layout: Layout, test: Probe) -> tuple[Plain, Tensor, str]:
    """Return transformers' own way, what it computes, and why it takes each text alone, if it does."""
    padded, alone = Plain(model, layout), Plain(model, layout, alone=True)
    try:
        together, expected = test.by(padded), test.alone(alone)
    except _FAILURES as error:
        raise ArtifactError(f"this model cannot score texts ({_line(error)}): choose another") from None
    if not expected.isfinite().all():
        raise ArtifactError("this model computes no finite numbers: restore the original, or choose another")
    apart = _furthest(together, expected)
    if apart <= SHARES["float32"] * _spread(expected):
        return padded, expected, ""
    return alone, expected, f"each text is computed alone, since padding moves a logit by {apart:.1g}; "


def _furthest(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max())


def _spread(logits: Tensor) -> float:
    return max(1.0, float(logits.max() - logits.min()))


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _candidates(model: Any, wanted: Wanted) -> Iterator[tuple[Route, Precision]]:
    if wanted == "bfloat16" or (wanted == "auto" and has_bfloat16(model.device)):
        if _on_gpu(model):
            yield "fused", "bfloat16"
        yield "packed", "bfloat16"
    if wanted != "bfloat16" and not _on_gpu(model):  # whose kernel for texts of all lengths has no float32
        yield "packed", "float32"


def has_bfloat16(device: torch.device) -> bool:
    """Whether matrices are multiplied in bfloat16: by a GPU since Ampere, by a processor with AVX512_BF16 or AMX.

    Whoever has AMX has both. Other processors are slower in it than in float32.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def _on_gpu(model: Any) -> bool:
    return bool(model.device.type == "cuda")
