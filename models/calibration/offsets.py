"""The offsets of one deployment's groups: made when a value is first seen, evicted when there are too many of them."""

from collections import Counter
from collections.abc import Mapping
from math import log, sqrt
from typing import Any, Final, cast

from models.calibration.belief import Offset
from models.calibration.serving import Groups, Key, Moments
from models.calibration.settings import FilterSettings
from models.calibration.state import GroupState, nest, unpack

MIN_RATERS: Final = 3
"""With fewer, the raters' severity cannot be told from the answers' risk: it counts as the latter."""


class Offsets:
    """What is learnt of each group.

    >>> offsets = Offsets(FilterSettings())
    >>> keys, _ = offsets.find((("site", "north"), ("clinician", "a")), clock=0)
    >>> keys  # one clinician alone: nobody to compare with
    [('site', 'north')]
    """

    __slots__ = ("_settings", "by_key", "raters")

    def __init__(self, settings: FilterSettings) -> None:
        self._settings = settings
        self.by_key: dict[Key, Offset] = {}
        self.raters = 0

    @property
    def compares(self) -> bool:
        """Whether there are raters enough to tell them apart."""
        return self.raters >= MIN_RATERS

    def find(self, groups: Groups, clock: int) -> tuple[list[Key], list[Offset]]:
        """Return the groups whose offsets a label informs, in order; raters only where there are enough to compare."""
        keys, by_key = sorted(groups), self.by_key
        blocks = [by_key.get(key) for key in keys]
        if all(blocks) and self.compares:
            return keys, cast("list[Offset]", blocks)
        for key in keys:
            if key not in by_key:
                self._add(key, clock)
        unserved = () if self.compares else self._settings.raters
        keys = [
            key for key in keys if key in by_key and key[0] not in unserved
        ]  # with little room they evict each other
        return keys, [by_key[key] for key in keys]

    def moments(self, key: Key, clock: int) -> Moments:
        """Return mean and variance as served; an unknown group's are its prior's."""
        block, settings = self.by_key.get(key), self._settings
        if block is None:
            return 0.0, self._prior(key[0])
        mean, var = block.at(clock)
        return (max(mean, settings.floor) if key[0] in settings.guarded else mean), var

    def served(self, clock: int) -> dict[Key, Moments]:
        """Return the moments of all groups but the raters."""
        return {key: self.moments(key, clock) for key in sorted(self.by_key) if key[0] not in self._settings.raters}

    def state(self) -> dict[str, dict[str, list[Any]]]:
        """Return the groups as JSON types, by name, then value."""
        return nest(self.by_key)

    def restore(self, groups: Mapping[str, Mapping[str, GroupState]], clock: int) -> None:
        """Set the groups to what `state` returned. Raises `StateError` for impossible numbers."""
        for name, values in groups.items():
            for value, group in values.items():
                self._put((name, value), unpack(group, self._new(name, clock)))

    def _add(self, key: Key, clock: int) -> None:
        """Make room for a group that is new."""
        if len(self.by_key) >= self._settings.max_groups:
            evicted = min(self._crowd(), key=self._rank)
            del self.by_key[evicted]
            self.raters -= evicted[0] in self._settings.raters
        self._put(key, self._new(key[0], clock))

    def _put(self, key: Key, block: Offset) -> None:
        self.by_key[key] = block
        self.raters += key[0] in self._settings.raters

    def _crowd(self) -> list[Key]:
        """Return the groups of the name that has most of them: a free text with a value a response evicts its own."""
        names = Counter(name for name, _ in self.by_key)
        most = max(names, key=lambda name: (names[name], name))
        return [key for key in self.by_key if key[0] == most]

    def _rank(self, key: Key) -> tuple[bool, bool, int, Key]:
        """Order of eviction: last the quarantined, then those known to be risky, for forgetting them would loosen."""
        block = self.by_key[key]
        return block.quarantined, block.mean > sqrt(block.var), block.clock, key

    def _prior(self, name: str) -> float:
        return self._settings.rater_variance if name in self._settings.raters else self._settings.group_variance

    def _new(self, name: str, clock: int) -> Offset:
        settings, prior = self._settings, self._prior(name)
        doubted = settings.rater_half_life if name in settings.raters else settings.half_life
        down = 1.0 if name in settings.guarded else settings.threshold / settings.threshold_down
        rate, doubt = log(2.0) / settings.half_life, log(2.0) / doubted
        block = Offset(0.0, prior, clock, prior, rate, doubt, (down, down, 1.0, 1.0))
        if name in settings.raters:
            block.make_rater()
        return block
