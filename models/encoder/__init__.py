"""Text to logit: template, tokens, batches, forward pass, artifact."""

from models.encoder.base import Encoder, Score
from models.encoder.loading import load

__all__ = ["Encoder", "Score", "load"]
