"""The label log folded anew, against every version that was published or that a decision cites, and the changes' log.

The fold itself, `Ledger`, is shared with LEARN: a second implementation of the filter would be a second filter, to be
held against the first by the same numbers. What is independent is everything around it: which labels count, in which
order, under which version, what an instruction may do, which entries that makes (`changes`), and the reading of a
version by the scorers (`risk`).
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final
from zlib import compress, decompress

import msgspec

from models.calibration.ledger import Ledger, alarm
from models.errors import StateError
from models.events import Alarm, Calibration, Change, Decision, Instruction, Label, decode, digest, encode
from models.oracle.changes import ChangeLog, superfluous
from models.oracle.logs import Entry, Found, Report, Rules, Topics, fields_that_differ, folded_as
from models.policy import Policy

LEARNT: Final = frozenset({"jump", "quarantine", "bias", "tightening"})
"""Alarms that the fold raises."""
OVERTAKEN: Final = "field `last` is not the newest of the log: what came since would be lost; order it anew"
IN_A_ROW: Final = 20
"""Labels of newer responses that another model alone scored, with which its calibrator begins."""
Key = tuple[str, int]


class Calibrator:
    """One deployment's calibrator. It holds for one model: it starts anew where another alone scores what is newer."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._model = self._last = ""
        self._newest: float | None = None
        """When the newest response was given of those that the model scored and that were judged."""
        self._others: list[str] = []
        """The models that scored newer ones, by label: one and the same."""
        self._change_log = ChangeLog(ledger.policy)
        self.alarms: dict[str, bytes] = {}
        self.changes: dict[str, bytes] = {}
        """Compressed, by the id of the event that made the entry."""

    @property
    def state(self) -> tuple[int, str]:
        """Version and model: what tells two publications apart."""
        return self._ledger.version, self._model

    def fold(self, event: Label | Instruction) -> str | None:
        """Take in the next event of the log. Returns why an instruction cannot be followed, or None."""
        if isinstance(event, Instruction):
            if (refusal := self._apply_instruction(event)) is None:
                self._last = event.instruction_id
            return refusal
        self._last = event.label_id
        self._learn(event)
        return None

    @property
    def policy(self) -> Policy:
        """By which it folds."""
        return self._ledger.policy

    def set_policy(self, policy: Policy) -> None:
        """Fold by a policy from now on; what the calibrator is learnt for stays until it is rebuilt."""
        if policy.learning != self.policy.learning:
            self._ledger = self._ledger.with_policy(policy)
            self._change_log.policy = policy

    def filter(self) -> str:
        """Return the digest of the parameters that a rollback to now would take, for the scores of its model alone."""
        return _digest([self._model, self._ledger.filter.state()])

    def _learn(self, label: Label) -> None:
        scored = label.decision
        anew = label.kind == "verdict" and label.weight > 0 and scored.logit is not None and self._is_followed(label)
        if anew:
            ledger, self._model = self._ledger, scored.model_hash
            self._ledger = Ledger(ledger.deployment, ledger.policy)
            self._ledger.version, self._ledger.as_of = ledger.version, ledger.as_of
        if scored.model_hash != self._model:
            return
        jumps = self._ledger.apply(label)
        self.alarms |= {one.alarm_id: encode(one) for one in (alarm(jump, label) for jump in jumps)}
        over = self._change_log.is_over(self._ledger.as_of, self._ledger.version)
        if (anew or jumps or over) and (now := self.calibration()):
            self._keep(self._change_log.learnt(label, jumps, anew=anew, now=now, state=self._state()))

    def _is_followed(self, label: Label) -> bool:
        """Whether with this evidence another model has shown that it alone scores by now; the first needs no more."""
        model, given = label.decision.model_hash, min(label.decision.occurred_at, label.occurred_at).timestamp()
        if self._newest is not None and given <= self._newest:
            return False
        others = [] if model == self._model else [*(one for one in self._others if one == model), model]
        anew = len(others) == IN_A_ROW or (self._newest is None and bool(others))
        if anew or not others:
            self._newest, others = given, []
        self._others = others
        return anew

    def _state(self) -> dict[str, Any]:
        """Return LEARN's state as an entry holds it, but for the entry itself."""
        other = {"other": self._others[-1] if self._others else "", "labels": len(self._others)}
        return {"ledger": self._ledger.snapshot(), "succession": {"newest": self._newest, **other}}

    def _apply_instruction(self, by: Instruction) -> str | None:
        if self._ledger.as_of is None:
            return "an instruction before the first label: there is nothing to change"
        if by.model_hash != self._model:
            return "field `model_hash` names another model than the calibrator's: its parameters do not fit"
        if by.order == "rebuild" and by.last is not None and by.last != self._last:
            return OVERTAKEN
        try:
            self._ledger.apply_instruction(by)
        except StateError as error:
            return f"the instruction cannot be followed: {error}"
        now = self.calibration()
        assert now is not None
        self._keep(self._change_log.instructed(by, now, self._state()))
        return None

    def _keep(self, change: Change) -> None:
        self.changes[change.last] = compress(encode(change), 1)

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
        """Each needed version, compressed; where none can be recomputed, all that stand in the topic."""
        self._alarms: dict[str, bytes] = {}
        self._changes: dict[tuple[str, str], bytes] = {}
        self._last: dict[str, Found[Any]] = {}
        """The last event of each deployment that LEARN has committed, and with it the version that must stand."""
        self._due: dict[str, int] = {}
        self._passed: dict[Key, list[str]] = {}
        """Versions that a rollback names, and the digests of what they were."""
        self.unfollowed: list[tuple[Entry, str]] = []
        """Instructions that cannot be followed, and why, as far as the label log is whole."""
        self._told = topics.first_by(Change, lambda event: (event.deployment, event.last))
        self._homes = {found.event.deployment: found.entry.partition for found in topics.found[Label.topic]}
        self._fold()
        self._stand()

    def cited(self, decision: Decision) -> list[Calibration | None] | None:
        """Return what a decision's version may stand for (None among them: the prior); None if it does not exist.

        Empty: it can be neither recomputed nor read any more.
        """
        if decision.calibrator_version == 0:
            return [None]
        made = _versions(*self._made.get((decision.deployment, decision.calibrator_version), []))
        return [*made] if made or self.is_beyond(decision.deployment) else None

    def check(self) -> None:
        """Hold the published versions and alarms against the fold."""
        newest: dict[str, int] = {}
        for found in self._topics.found[Calibration.topic]:
            self._check_published(found)
            deployment, version = found.event.deployment, found.event.version
            newest[deployment] = max(version, newest.get(deployment, 0))
        self._check_withdrawn()
        for deployment, due in self._due.items():
            self._check_newest(deployment, due, newest.get(deployment, 0))
        self._check_alarms()
        self._check_changes()

    def is_beyond(self, deployment: str) -> bool:
        """Whether versions cannot be recomputed: their labels have expired, or what says when the policy changed."""
        logs, policies = self._topics.logs, {_learnt_by(policies.of(deployment)) for policies in self._rules.policies}
        dated = len(policies) == 1 or not logs.is_truncated(Change.topic)
        return logs.is_truncated(Label.topic, self._homes.get(deployment)) or not dated

    def _stand(self) -> None:
        """Take the versions that stand in their topic for what they say, where they cannot be recomputed."""
        for entry, published in self._topics.found[Calibration.topic]:
            if self.is_beyond(published.deployment):
                self._made[published.deployment, published.version].append(compress(entry.value, 1))

    def _folded(self) -> list[Found[Any]]:
        beyond = {deployment for deployment in self._homes if self.is_beyond(deployment)}
        mine = (found for found in self._topics.folded if found.event.deployment not in beyond)
        return [found for found in mine if folded_as(found.event) not in self._topics.older]

    def _log(self) -> Iterator[Found[Any]]:
        """Yield what calibrators fold, from the beginning on."""
        for found in self._topics.before():
            self._homes[found.event.deployment] = found.entry.partition
            if not self.is_beyond(found.event.deployment):
                yield found
        yield from self._folded()

    def _fold(self) -> None:
        cited = {(d.event.deployment, d.event.calibrator_version) for d in self._topics.decisions.values()}
        published = {(c.deployment, c.version) for _, c in self._topics.found[Calibration.topic]}
        needed = cited | published
        self._passed = {(by.deployment, by.version): [] for by in self._instructions() if by.order == "rollback"}
        running: dict[str, Calibrator] = {}
        for found in self._log():
            deployment = found.event.deployment
            if (calibrator := running.get(deployment)) is None:
                calibrator = running[deployment] = self._begin(deployment)
            self._fold_one(calibrator, found, needed)
        for deployment, calibrator in running.items():
            self._alarms |= calibrator.alarms
            self._changes |= {(deployment, last): change for last, change in calibrator.changes.items()}

    def _begin(self, deployment: str) -> Calibrator:
        policy = self._rules.policies[-1].of(deployment)
        told = next((found for (name, _), found in self._told.items() if name == deployment), None)
        return Calibrator(Ledger(deployment, policy if told is None else self._policy(deployment, told, policy)))

    def _policy(self, deployment: str, told: Found[Change], now: Policy) -> Policy:
        """Return the policy by which LEARN made an entry; `now`, if it is none that was given."""
        after, given = told.event.after, [policies.of(deployment) for policies in reversed(self._rules.policies)]
        fitting = [policy for policy in (now, *given) if policy.learning == after.policy]
        if not fitting:
            what = "LEARN went by no policy that was given: pass every policy that was in force"
            self._report.differ("I8", told.entry, what)
        return max(fitting, key=lambda policy: policy.basis == after.basis, default=now)

    def _fold_one(self, calibrator: Calibrator, found: Found[Any], needed: set[Key]) -> None:
        before, event = calibrator.state, found.event
        if isinstance(event, Label) and event.decision.calibrator_version > before[0]:
            what = f"its decision cites version {event.decision.calibrator_version}, which did not exist before it"
            self._report.differ("I8", found.entry, what)
        if (told := self._told.get((event.deployment, folded_as(event)))) is not None:
            calibrator.set_policy(self._policy(event.deployment, told, calibrator.policy))
        refusal = calibrator.fold(event)
        key = event.deployment, calibrator.state[0]
        if calibrator.state != before:
            if key in needed:
                self._keep(calibrator, key)
            if key in self._passed:
                self._passed[key].append(calibrator.filter())
        if self._topics.logs.consumed("learn", found.entry):
            self._due[event.deployment], self._last[event.deployment] = key[1], found
        if refusal is not None:
            self.unfollowed.append((found.entry, refusal))
        elif isinstance(event, Instruction) and event.instruction_id not in self._topics.older:
            self._check_instruction(found.entry, event)
        kind = "instructions" if isinstance(event, Instruction) else "labels folded"
        self._report.note(self._report.checked, kind, found.entry)

    def _instructions(self) -> list[Instruction]:
        return [found.event for found in self._topics.folded if isinstance(found.event, Instruction)]

    def _check_instruction(self, entry: Entry, by: Instruction) -> None:
        """What a person said must be what it claims to be: a rollback takes what its version was, and nothing else."""
        if names := superfluous(by):
            self._report.differ("I8", entry, f"carries what {by.order} does not need: {', '.join(names)}")
        if (
            by.order == "rollback"
            and _digest([by.model_hash, by.parameters]) not in self._passed[by.deployment, by.version]
        ):
            self._report.differ("I8", entry, f"a rollback to other parameters than version {by.version} had")

    def _keep(self, calibrator: Calibrator, key: Key) -> None:
        if (made := calibrator.calibration()) is not None:
            self._made[key].append(compress(encode(made), 1))

    def _check_published(self, found: Found[Calibration]) -> None:
        entry, published = found
        if self.is_beyond(published.deployment):
            self._report.note(self._report.beyond, "calibrations", entry)
            return
        if not self._topics.logs.judged(entry):
            self._report.note(self._report.pending, "calibrations", entry)
            return
        self._report.note(self._report.checked, "calibrations", entry)
        made = self._made.get((published.deployment, published.version), [])
        if not made:
            self._report.differ("I8", entry, f"version {published.version}: no beginning of the label log leads to it")
        elif all(decompress(one) != entry.value for one in made):
            whole: Calibration = decode(Calibration, entry.value)
            names = min((fields_that_differ(whole, one) for one in _versions(*made)), key=len)
            what = f"version {published.version} is not the fold of the labels before it: {', '.join(names)}"
            self._report.differ("I8", entry, what)

    def _check_withdrawn(self) -> None:
        """What was taken away, or an older one, must not stand again: scorers that begin then would take it."""
        before: dict[str, int] = {}
        for entry, published in self._topics.found[Calibration.topic]:
            partition, offset = self._topics.withdrawn.get(entry.key, entry.place)
            if partition != entry.partition or entry.offset <= offset:
                before[published.deployment] = max(published.version, before.get(published.deployment, 0))
            elif published.version <= before.get(published.deployment, 0):
                self._report.differ("I6", entry, f"version {published.version} was put back after it was taken away")

    def _check_newest(self, deployment: str, due: int, newest: int) -> None:
        if newest < due and deployment.encode() in self._topics.withdrawn:
            self._report.note(self._report.beyond, "calibrations", self._last[deployment].entry)
        elif newest < due:
            what = f"the log up to here leads to version {due}; the newest that was published is {newest}"
            self._report.differ("I8", self._last[deployment].entry, what)

    def _check_alarms(self) -> None:
        raised = {found.event.alarm_id for found in self._topics.found[Alarm.topic]}
        for entry, found in self._topics.found[Alarm.topic]:
            if found.kind in LEARNT and not self.is_beyond(found.deployment) and self._topics.logs.judged(entry):
                self._report.note(self._report.checked, "alarms of LEARN", entry)
                if self._alarms.get(found.alarm_id) != entry.value:
                    self._report.differ("I8", entry, "an alarm that the fold of the labels does not raise")
        for id_ in self._alarms.keys() - raised:
            self._missing_alarm(id_)

    def _check_changes(self) -> None:
        for key, (entry, event) in self._told.items():
            if self.is_beyond(event.deployment):
                self._report.note(self._report.beyond, "changes", entry)
            elif self._topics.logs.judged(entry):
                self._report.note(self._report.checked, "changes", entry)
                self._check_change(entry, self._changes.get(key))
            else:
                self._report.note(self._report.pending, "changes", entry)
        for found in self._folded() if not self._topics.logs.is_truncated(Change.topic) else ():
            key = found.event.deployment, folded_as(found.event)
            if key in self._changes and key not in self._told:
                self._missing_change(found.entry)

    def _check_change(self, entry: Entry, made: bytes | None) -> None:
        if made is None:
            self._report.differ("I8", entry, "an entry that the log of labels and instructions does not make")
        elif (value := decompress(made)) != entry.value:
            names = fields_that_differ(decode(Change, entry.value), decode(Change, value))
            self._report.differ("I8", entry, f"not the entry that its event makes: {', '.join(names) or 'its bytes'}")

    def _missing_change(self, entry: Entry) -> None:
        if self._topics.logs.consumed("learn", entry):
            self._report.differ("I8", entry, "makes an entry of the calibrator's log, and it is not there")
        else:
            self._report.note(self._report.pending, "changes", entry)

    def _missing_alarm(self, id_: str) -> None:
        label_id = msgspec.json.decode(self._alarms[id_], type=Alarm).evidence["label"]
        if (label := self._topics.labels.get(str(label_id))) is None:
            return  # it lies before what is read
        entry = label.entry
        if self._topics.logs.is_truncated(Alarm.topic, entry.partition):
            self._report.note(self._report.beyond, "alarms of LEARN", entry)
        elif self._topics.logs.consumed("learn", entry):
            self._report.differ("I8", entry, "this label raises an alarm that was not published")
        else:
            self._report.note(self._report.pending, "alarms of LEARN", entry)


@lru_cache(maxsize=256)
def _learnt_by(policy: Policy) -> Policy:
    """The part of a policy that a calibrator depends on."""
    shown = ("plan", "audit_rate", "audit_key", "max_calibration_age_s")
    return msgspec.structs.replace(policy, **{name: getattr(Policy(), name) for name in shown})


def _digest(parameters: Any) -> str:
    return digest(msgspec.json.encode(parameters, order="deterministic"))


@lru_cache(maxsize=256)
def _versions(*made: bytes) -> tuple[Calibration, ...]:
    """Decisions that cite one version stand close to one another."""
    return tuple(decode(Calibration, decompress(one)) for one in made)
