"""The oracle: from the topics' full logs, what every decision, label, closure and calibrator version must be.

    logs.py         what it is given and returns
    wire.py         each record of ours: contract, canonical bytes, digest, key, identical repeats
    decisions.py    responses against decisions;  tiering.py, risk.py: tier, reasons, action and risk anew
    verdicts.py     feedback and decisions against labels and closures;  join_rules.py the join anew,
                    watermarks.py its clock
    outcomes.py     labels against outcomes;  retention.py since when each log is whole;  period.py what a period needs
    calibrators.py  labels and instructions against every published or cited version;  changes.py the calibrator's log
    dead_letters.py dead letters against the records that they point at

Nothing here runs the stages' code: not `joining`, `tiers`, `policy.act`, `deciding`, nor the scorers' reading of a
calibration. Shared, because a second one would be absurd: the wire types and their decoding (the contract itself), the
calibrator's fold `Ledger` (see `calibrators`), the tokens of doses and drugs (`salience`: a vocabulary), the
partition of a key (`partitions`: Kafka's), and the normal form of text (`template.clean`: Unicode's).

**What it decides.** Whatever the interleaving of topics, batches, crashes and redeliveries was, and at any speed:

- I1, I2: each response, feedback and broken message has its one end if its offset is committed and its time has come;
- I3, I4: one decision per response and one label per verdict, repeats byte for byte, no feedback id counted twice;
  a decision is on one text, and each other text under its id has its dead letter;
- I5: labels, weights, corrections and closures are what the rules give for *some* moment at which the settle window may
  have closed: in a replay, where the watermark follows from the logs, a moment that it can have reached, and live one
  that the clock had when they were written; what lies in another partition than its key's has its dead letter;
- I6, I7: risk (to 1e-9), tier, reasons, action, audit draw and digests of every decision; no calibrator that was taken
  away from the scorers is put back;
- I8: version n is the fold of the first n changes of the label log, labels and instructions, bit for bit, published or
  cited; a rollback takes what its version was; the calibrator's log has its entries, bit for bit, and no other;
- I12: each record of ours has canonical bytes and the digest that its `ce_id` header says.

**What it cannot decide**, because no log holds it:

- the raw logit (it runs no encoder), `model_hash` before the first label, `decided_at` in live operation, and the two
  doubts that are in `reasons` alone (see `tiering`);
- how far a conversation's outcomes or the calibrations had come when a response was scored: any beginning will do;
- what an input would have said: of a field on which nothing depends (a comment, the action of a superseded verdict), an
  edit leaves no trace; nor does a swap of two labels that carry no evidence;
- the alarms of WATCH; who a person was that gave an instruction, and what a rebuild honoured (corrections up to some
  moment before it); versions that a worker published, died before it had committed, and that one under another policy
  published again: its calibrator's log says under which policy only the second went;
- the parameters that a rebuild brings: any are taken;
- the course of a response on which very many verdicts came late: counted as beyond;
- what is beyond retention: counted as such, if it can be as old as what its log has lost (`retention`). Calibrations
  that Kafka has compacted away are recomputed if cited; where the label log has begun to expire, those that still stand
  are believed, and of a decision under another version all is checked that does not depend on it.

Of a period (`Logs.period`) all is checked that was written since it began. What was not read before it is as if it had
expired, but for the labels: calibrators are folded from their beginning, and no id may count on both sides.

On a live system inputs that are not committed or not due, and whatever was written in the last moments, are pending.
"""

from models.oracle.calibrators import Versions
from models.oracle.dead_letters import check_dead_letters
from models.oracle.decisions import Decisions
from models.oracle.logs import Difference, Entry, Logs, Period, Report, Rules, Topics
from models.oracle.outcomes import check_labels
from models.oracle.retention import Retention
from models.oracle.verdicts import Verdicts
from models.oracle.wire import check_wire

__all__ = ["Difference", "Entry", "Logs", "Period", "Report", "Rules", "check"]


def check(logs: Logs, rules: Rules) -> Report:
    """Recompute everything and return what differs; pure, and the same for the same logs."""
    topics, report = Topics(logs, rules.keys), Report(logs.period.since_ms if logs.period else 0)
    check_wire(topics, report)
    versions = Versions(topics, rules, report)
    versions.check()
    retention = Retention(topics, rules)
    decisions = Decisions(topics, rules, versions, retention, report)
    check_dead_letters(topics, versions, retention, decisions.reused, report)
    decisions.check()
    Verdicts(topics, rules, retention, report).check()
    check_labels(topics, retention, report)
    return report
