"""Text to logit: template, tokens, batches, forward pass, artifact.

Only `load` needs torch and transformers, and imports them when it is called: they take seconds.
"""

from typing import Any

from models.encoder.base import Encoder, Score, Wanted
from models.encoder.batches import BATCH_TOKENS

__all__ = ["Encoder", "Score", "Wanted", "load"]


def load(
    path_or_hub_id: str,
    device: str = "cpu",
    *,
    threads: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    precision: Wanted = "auto",
) -> Encoder[Any]:
    """Load an encoder; see `models.encoder.loading.load`. Raises `ArtifactError`."""
    from models.encoder import loading  # noqa: PLC0415 (see above)

    return loading.load(path_or_hub_id, device, threads=threads, batch_tokens=batch_tokens, precision=precision)
