"""The label log folded anew, against every version that was published and every version that a decision cites.

The fold itself, `Ledger`, is shared with LEARN: a second implementation of the filter would be a second filter, to be
held against the first by the same numbers. What is independent is everything around it: which labels count, in which
order, under which version, and the reading of a version by the scorers (`risk`).
"""

from collections import defaultdict
from functools import lru_cache
from typing import Final
from zlib import compress, decompress

import msgspec

from models.calibration.ledger import Ledger, alarm
from models.events import Alarm, Calibration, Decision, Label, decode, encode
from models.oracle.logs import Found, Report, Rules, Topics, fields_that_differ

LEARNT: Final = frozenset({"jump", "quarantine", "bias"})
"""Alarms that the fold raises."""
Key = tuple[str, int]


class Calibrator:
    """One deployment's calibrator. It holds for one encoder: a newer response scored by another starts it anew."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._model = ""
        self.alarms: dict[str, bytes] = {}

    @property
    def state(self) -> tuple[int, str]:
        """Version and model: what tells two publications apart."""
        return self._ledger.version, self._model

    def fold(self, label: Label) -> None:
        """Take in the next label of the log."""
        scored, ledger = label.decision, self._ledger
        newer = ledger.as_of is None or scored.occurred_at > ledger.as_of
        if scored.model_hash != self._model and scored.logit is not None and newer:
            self._ledger, self._model = Ledger(ledger.deployment, ledger.policy), scored.model_hash
            self._ledger.version, self._ledger.as_of = ledger.version, ledger.as_of
        if scored.model_hash == self._model:
            raised = [alarm(jump, label) for jump in self._ledger.apply(label)]
            self.alarms |= {one.alarm_id: encode(one) for one in raised}

    def calibration(self) -> Calibration | None:
        """Return the version as it stands."""
        found = self._ledger.calibration()
        return None if found is None else msgspec.structs.replace(found, model_hash=self._model)


class Versions:
    """Every version that is needed, recomputed."""

    def __init__(self, topics: Topics, rules: Rules, report: Report) -> None:
        self._topics = topics
        self._rules = rules
        self._report = report
        self._made: dict[Key, list[bytes]] = defaultdict(list)
        """Each needed version, compressed; more than one where a calibrator started anew without a change."""
        self._alarms: dict[str, bytes] = {}
        self._last: dict[str, Found[Label]] = {}
        """The last label of each deployment that LEARN has committed, and with it the version that must stand."""
        self._due: dict[str, int] = {}
        self.unknown = topics.logs.is_cut(Label.topic)
        """Whether the label log is beyond retention, so that no version can be recomputed."""
        if not self.unknown:
            self._fold()

    def cited(self, decision: Decision) -> list[Calibration | None] | None:
        """Return what a decision's version may stand for (None among them: the prior); None if it does not exist."""
        if decision.calibrator_version == 0:
            return [None]
        return [*_versions(*self._made.get((decision.deployment, decision.calibrator_version), []))] or None

    def check(self) -> None:
        """Hold the published versions and alarms against the fold."""
        if self.unknown:
            self._report.beyond["calibrations"] += len(self._topics.found[Calibration.topic])
            return
        newest: dict[str, int] = {}
        for found in self._topics.found[Calibration.topic]:
            self._check_published(found)
            deployment, version = found.event.deployment, found.event.version
            newest[deployment] = max(version, newest.get(deployment, 0))
        for deployment, due in self._due.items():
            self._check_newest(deployment, due, newest.get(deployment, 0))
        self._check_alarms()

    def _fold(self) -> None:
        cited = {(d.event.deployment, d.event.calibrator_version) for d in self._topics.decisions.values()}
        published = {(c.deployment, c.version) for _, c in self._topics.found[Calibration.topic]}
        needed = cited | published
        running: dict[str, Calibrator] = {}
        for label in self._topics.labels.values():
            deployment = label.event.deployment
            if (calibrator := running.get(deployment)) is None:
                policy = self._rules.policies[-1].of(deployment)
                calibrator = running[deployment] = Calibrator(Ledger(deployment, policy))
            before = calibrator.state
            calibrator.fold(label.event)
            version, _ = calibrator.state
            if calibrator.state != before and (deployment, version) in needed:
                self._keep(calibrator, (deployment, version))
            if self._topics.logs.consumed("learn", label.entry):
                self._due[deployment], self._last[deployment] = version, label
            self._report.checked["labels folded"] += 1
        for calibrator in running.values():
            self._alarms |= calibrator.alarms

    def _keep(self, calibrator: Calibrator, key: Key) -> None:
        if (made := calibrator.calibration()) is not None:
            self._made[key].append(compress(encode(made), 1))

    def _check_published(self, found: Found[Calibration]) -> None:
        entry, published = found
        if not self._topics.logs.judged(entry):
            self._report.pending["calibrations"] += 1
            return
        self._report.checked["calibrations"] += 1
        made = self._made.get((published.deployment, published.version), [])
        if not made:
            self._report.differ("I8", entry, f"version {published.version}: no beginning of the label log leads to it")
        elif all(decompress(one) != entry.value for one in made):
            whole: Calibration = decode(Calibration, entry.value)
            names = min((fields_that_differ(whole, one) for one in _versions(*made)), key=len)
            what = f"version {published.version} is not the fold of the labels before it: {', '.join(names)}"
            self._report.differ("I8", entry, what)

    def _check_newest(self, deployment: str, due: int, newest: int) -> None:
        if newest < due:
            what = f"the labels up to here lead to version {due}; the newest that was published is {newest}"
            self._report.differ("I8", self._last[deployment].entry, what)

    def _check_alarms(self) -> None:
        raised = {found.event.alarm_id for found in self._topics.found[Alarm.topic]}
        for entry, found in self._topics.found[Alarm.topic]:
            if found.kind in LEARNT and self._topics.logs.judged(entry):
                self._report.checked["alarms of LEARN"] += 1
                if self._alarms.get(found.alarm_id) != entry.value:
                    self._report.differ("I8", entry, "an alarm that the fold of the labels does not raise")
        if self._topics.logs.until_ms is None:
            for id_ in self._alarms.keys() - raised:
                self._missing_alarm(id_)

    def _missing_alarm(self, id_: str) -> None:
        label_id = msgspec.json.decode(self._alarms[id_], type=Alarm).evidence["label"]
        entry = self._topics.labels[str(label_id)].entry
        self._report.differ("I8", entry, "this label raises an alarm that was not published")


@lru_cache(maxsize=256)
def _versions(*made: bytes) -> tuple[Calibration, ...]:
    """Decisions that cite one version stand close to one another."""
    return tuple(decode(Calibration, decompress(one)) for one in made)
