"""When a calibrator gives way to one for another model: not before the other alone scores what is new.

A calibrator holds for the scores of one model. Another follows it after `MIN_LABELS` labels in a row, each of a
response newer than any that is known to be scored by the calibrator's own, and all scored by the same other one. In a
row by the time of the responses: verdicts on what the old model scored come for days after it is gone, and say nothing
of now.

>>> succession = Succession()
>>> succession.follows("", "a", 1.0)
True
>>> [succession.follows("a", "b", 2.0 + n) for n in range(MIN_LABELS)].index(True) + 1
20
"""

from typing import Final

from msgspec import Struct

MIN_LABELS: Final = 20
"""Labels that a swap costs beside the warm-up of 300. A stray worker with a share p of the responses has so many in a
row once in about (p^-20 - 1) / (1 - p) labels: at .3 in 4e10, and at a half still in two million."""


class Succession(Struct, forbid_unknown_fields=True):
    """What tells whether another model follows. `newest`: event time, in seconds, of the newest judged response that
    the calibrator's own scored; `labels`: how many of the model `other` came in a row since.
    """

    newest: float | None = None
    other: str = ""
    labels: int = 0

    def follows(self, own: str, model: str, shown: float) -> bool:
        """Take in the evidence of a label: `model` scored a response that was given at `shown`, in seconds.

        Returns whether the calibrator of the model `own` is to begin anew for `model`; the first one begins at once.
        """
        first = self.newest is None
        if self.newest is not None and shown <= self.newest:
            return False
        if model != own:
            self.labels = self.labels + 1 if model == self.other else 1
            self.other = model
            if self.labels < MIN_LABELS and not first:
                return False
        self.newest, self.other, self.labels = shown, "", 0
        return model != own
