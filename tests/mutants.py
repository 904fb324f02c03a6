"""`python -m tests.mutants`: remove each safeguard in turn and show that a test catches it, by name.

Each mutant is one change of the source that brings back a known fault. It is made in a copy of the tree, and the tests
that guard it are run there: they must fail. `tests/unit/test_safeguards.py` does the same for the calibrator's parts
within the default run.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
COPIED = ("models", "streams", "tests", "pyproject.toml")


class Mutant(NamedTuple):
    """A fault that comes back when `old` becomes `new` in `file`, and the tests that must catch it."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = (
    Mutant(
        "F1 an exception acks the record and skips it",
        "streams/delivery.py",
        "await self._one_by_one(records, error)",
        "pass",
        "tests/unit/test_delivery.py",
    ),
    Mutant(
        "F3 a commit passes what is under way",
        "streams/consumer.py",
        "return self._processed[tp] if lowest_open is None else lowest_open",
        "return self._processed[tp]",
        "tests/unit/test_delivery.py",
    ),
    Mutant(
        "F4 a send is not awaited",
        "streams/producer.py",
        "await asyncio.gather(*(self._send(*part, rows) for part, rows in parts.items()))",
        "_ = [asyncio.ensure_future(self._send(*part, rows)) for part, rows in parts.items()]",
        "tests/agents/test_agents.py",
    ),
    Mutant(
        "F4 a row is not awaited",
        "streams/producer.py",
        "places = await asyncio.gather(*(done for done, _ in sent))",
        "places = [await done for done, _ in sent if done.done() and not done.exception()]",
        "tests/agents/test_agents.py",
    ),
    Mutant(
        "F5 an id counts again",
        "streams/agents/fold.py",
        "if id_ in taken.ids or id_ in held.recent or self.state.get(partition, key):",
        "if False:",
        "tests/unit/test_fold.py",
    ),
    Mutant(
        "F5 an id that a crash cut off counts again",
        "streams/agents/fold.py",
        "cut_off = [id_ for id_ in held.recent if not self.state.get(partition, _id(id_))]",
        "cut_off: list[str] = []",
        "tests/unit/test_fold.py",
    ),
    Mutant(
        "what a newer version wrote is set aside for good",
        "streams/agents/common.py",
        "if record.topic.removeprefix(self.prefix) in WRITTEN_BY_OTHERS:",
        "if True:",
        "tests/unit/test_upgrading.py",
    ),
    Mutant(
        "what ends a worker is taken for a fault of a record",
        "streams/delivery.py",
        "        except NO_FAULT:\n            raise\n        except Exception",
        "        except Exception",
        "tests/unit/test_delivery.py",
    ),
    Mutant(
        "what is written unsigned now is taken for what lay there before",
        "models/signing.py",
        "if self._until > taken_at > 0.0 and KEY_ID",
        "if self._until > 0.0 and KEY_ID",
        "tests/unit/test_signing.py",
    ),
    Mutant(
        "I4 what was copied into another partition is taken in again",
        "streams/agents/common.py",
        "if elsewhere := misplaced(event, record.partition, self.partitions):",
        "if elsewhere := None:",
        "tests/unit/test_partitions.py",
    ),
    Mutant(
        "I6 an older version serves where a newer one was taken away",
        "streams/calibrations.py",
        'self._note(deployment, self._heard.get(deployment, NOTHING)[0], b"")',
        "self._note(deployment, *NOTHING)",
        "tests/unit/test_calibrations.py",
    ),
    Mutant(
        "I6 LEARN puts back what was taken away when it starts",
        "streams/agents/fold.py",
        "not in self._held and not published.took_away(deployment):",
        "not in self._held:",
        "tests/unit/test_fold.py",
    ),
    Mutant(
        "I6 LEARN puts back what was taken away when a label comes twice",
        "streams/agents/fold.py",
        "if stands and await self._took_away(deployment):",
        "if False:",
        "tests/unit/test_fold.py",
    ),
    Mutant(
        "F14 a stop cuts a batch in half",
        "streams/delivery.py",
        "await asyncio.gather(*self._under_way, return_exceptions=True)",
        "pass",
        "tests/unit/test_delivery.py",
    ),
    Mutant(
        "a rebalance waits until rows are read",
        "streams/delivery.py",
        "opening.reschedule(0.0)",
        "pass",
        "tests/unit/test_delivery.py",
    ),
    Mutant(
        "F15 a failed commit counts",
        "streams/consumer.py",
        "if not committed:",
        "if False:",
        "tests/unit/test_delivery.py",
    ),
    Mutant(
        "I2 outcomes go before the state",
        "streams/delivery.py",
        "        if plan.rows:\n            await self._while_leased(self._stage.state.write(partition, plan.rows))\n"
        "        if plan.sends:\n            await self._while_leased(send_all(self._app, plan.sends))\n",
        "        if plan.sends:\n            await self._while_leased(send_all(self._app, plan.sends))\n"
        "        if plan.rows:\n            await self._while_leased(self._stage.state.write(partition, plan.rows))\n",
        "tests/agents/test_agents.py",
    ),
    Mutant(
        "I3 a repeat is decided anew",
        "streams/agents/score.py",
        "stored = (plan and plan.rows.get(key)) or self.state.get(partition, key)",
        "stored = None",
        "tests/unit/test_score.py",
    ),
    Mutant(
        "I6 a text is told what was decided on another one",
        "streams/agents/score.py",
        "is_on(first, response, self._parts.keys)",
        "first.response_id == response.response_id",
        "tests/unit/test_score.py",
    ),
    Mutant(
        "I6 a text is told what was decided on another one of its batch",
        "streams/agents/score.py",
        "subject(first) != subject(one)",
        "first.response_id != one.response_id",
        "tests/unit/test_score.py",
    ),
    Mutant(
        "I6 a text is told what was decided on it elsewhere",
        "models/deciding.py",
        "told == (input_digest(response, key), *where)",
        "told[0] == input_digest(response, key)",
        "tests/unit/test_score.py",
    ),
    Mutant(
        "I6 a gateway shows by a decision of long ago",
        "streams/answers.py",
        "elif self._is_stale(event, (record.timestamp or 0) / 1000):",
        "elif False:",
        "tests/unit/test_gateway.py",
    ),
    Mutant(
        "I4 a feedback id counts twice",
        "models/joining.py",
        "if old.feedback_id == new.feedback_id:",
        "if False:",
        "tests/unit/test_join.py tests/property/test_join.py",
    ),
    Mutant(
        "I1 feedback of a year to come waits for its response until then",
        "models/joining.py",
        "latest if latest < feedback.occurred_at else None,",
        "None,",
        "tests/unit/test_join.py",
    ),
    Mutant(
        "a report passes over the first hours of its period",
        "models/accounts/selection.py",
        "(self.since - MAX_SKEW - APART)",
        "(self.since + 18 * APART)",
        "tests/property/test_accounts.py",
    ),
    Mutant(
        "I5 event time is that of the faster input",
        "streams/agents/join.py",
        "self.timers.advance(min(self.reached.values()))",
        "self.timers.advance(max(self.reached.values()))",
        "tests/unit/test_join.py tests/property/test_join.py",
    ),
    Mutant(
        "I5 a verdict settles with whatever has arrived",
        "models/joining.py",
        "[h for h in parked if h.occurred_at <= parked[0].occurred_at + horizons.settle]",
        "parked",
        "tests/unit/test_join.py tests/property/test_join.py",
    ),
    Mutant(
        "where nothing is committed, what was fetched is dropped",
        "streams/start_offsets.py",
        "if new := [tp for tp in assigned if tp not in found]:",
        "if new := []:",
        "tests/unit/test_start_offsets.py",
    ),
    Mutant(
        "where a place was lost, all is read again",
        "streams/start_offsets.py",
        " and ends[changelogs[tp]]",
        " and not ends[changelogs[tp]]",
        "tests/unit/test_start_offsets.py",
    ),
    Mutant(
        "what was deleted unread is passed over in silence",
        "streams/start_offsets.py",
        "app.lost[tp.topic].inc(lost)",
        "pass",
        "tests/unit/test_start_offsets.py",
    ),
    Mutant(
        "what took the place of settled records is left out in silence",
        "streams/start_offsets.py",
        "if checkpoint(record) != at.last:",
        "if not at.last:",
        "tests/unit/test_start_offsets.py",
    ),
    Mutant(
        "places are committed without what they are known by",
        "streams/consumer.py",
        "self._commit_checkpoints(worker._consumer)",
        "pass",
        "tests/unit/test_delivery.py",
    ),
    Mutant(
        "a topic that loses rows passes",
        "streams/topics.py",
        'if planned := one.wrong.get("cleanup.policy"):',
        'if planned := {}.get("cleanup.policy"):',
        "tests/unit/test_topics.py",
    ),
    Mutant(
        "I11 a header's text goes on as a trace",
        "streams/wire.py",
        "if trace is None or not TRACES.fullmatch(trace):",
        "if trace is None:",
        "tests/unit/test_tracing.py",
    ),
    Mutant(
        "I13 a lost partition is worked on",
        "streams/consumer.py",
        "return [r for r in records if in_flight.get(r.offset) is r]",
        "return list(records)",
        "tests/unit/test_delivery.py",
    ),
    Mutant(
        "I13 a worker writes when its session may be over",
        "streams/delivery.py",
        "            write.close()\n            raise LeaseLost\n",
        "            pass\n",
        "tests/unit/test_delivery.py",
    ),
    Mutant(
        "I13 a worker writes when the group may have gone on without it",
        "streams/consumer.py",
        "lease.renew(at, rebalancing=coordinator._rejoin_needed_fut.done())",
        "lease.renew(at)",
        "tests/unit/test_delivery.py",
    ),
    Mutant(
        "I13 a worker writes when a commit was refused",
        "streams/consumer.py",
        "            lease.end()\n",
        "",
        "tests/unit/test_delivery.py",
    ),
    Mutant(
        "rows on disk go on with a changelog that is not theirs",
        "streams/checkpoint.py",
        "return None if Checkpoint.of(found) == self else ChangelogMismatch.OTHER",
        "return None",
        "tests/unit/test_state.py",
    ),
    Mutant(
        "a changelog goes back under a worker that goes on",
        "streams/state.py",
        "if opened.checkpoint and end - len(rows) < opened.checkpoint.offset:",
        "if False:",
        "tests/unit/test_state.py",
    ),
    Mutant(
        "a worker that stands still goes on",
        "streams/worker.py",
        "if dog.is_stuck(progress(b.app), now):",
        "if False:",
        "tests/unit/test_worker.py",
    ),
    Mutant(
        "messages that reached no agent are passed over",
        "streams/consumer.py",
        "return [r.offset for r in records] == list(islice(self._in_flight[tp], len(records)))",
        "return True",
        "tests/unit/test_delivery.py",
    ),
    Mutant(
        "what lies between a message that is read again and the next fetch is lost",
        "streams/consumer.py",
        "            self._in_flight[tp][lowest.offset] = lowest._replace()\n",
        "",
        "tests/unit/test_delivery.py",
    ),
    Mutant(
        "outcomes of an unfinished batch are not sent again",
        "streams/agents/join.py",
        "if row.sequence > sent:",
        "if False:",
        "tests/property/test_join.py",
    ),
    Mutant(
        "a row goes while what led to it may come again",
        "streams/timers.py",
        "until = self._clock.monotonic() - GRACE_S",
        "until = self._clock.monotonic()",
        "tests/unit/test_join.py tests/property/test_oracle.py",
    ),
    Mutant(
        "I6 a score that is not finite",
        "models/tiers.py",
        "if facts.upper is None or not isfinite(facts.upper):",
        "if facts.upper is None:",
        "tests/unit/test_tiers.py",
    ),
    Mutant(
        "I6 a deadline that is missed",
        "streams/scorer.py",
        "asyncio.timeout_at(until)",
        "asyncio.timeout_at(None)",
        "tests/unit/test_score.py",
    ),
    Mutant(
        "I6 a calibrator learnt for another policy",
        "models/deciding.py",
        "known is None or known.basis == context.policy.basis",
        "True",
        "tests/unit/test_score.py",
    ),
    Mutant(
        "I6 calibrations out of contact",
        "streams/calibrations.py",
        "return held if self.in_contact else held._replace(current=False)",
        "return held",
        "tests/unit/test_calibrations.py",
    ),
    Mutant(
        "I8 an instruction that was set aside is followed when it comes again",
        "streams/agents/fold.py",
        "            taken.news.append(self.context.letter(self.name, record, error))\n",
        "            taken.news.append(self.context.letter(self.name, record, error))\n            return\n",
        "tests/unit/test_fold.py",
    ),
    Mutant(
        "I9 an instruction brings parameters that stop LEARN",
        "models/calibration/ledger.py",
        "check_sound(read(by.parameters))",
        "pass",
        "tests/unit/test_control.py",
    ),
    Mutant(
        "I4 a label counts again when a group has lost its place",
        "streams/agents/fold.py",
        "if record.offset <= held.places.get(record.topic, -1) and self._expiry.is_expired(partition, at):",
        "if False:",
        "tests/unit/test_fold.py",
    ),
    Mutant(
        "I5 time runs over what is unread",
        "streams/consumer.py",
        "if fetched.position >= fetched.high_watermark and seen.answered is not None:",
        "if seen.answered is not None:",
        "tests/unit/test_delivery.py",
    ),
    Mutant(
        "I5 a clock that is ahead closes what is open",
        "streams/clock.py",
        "min(offset, offset if self._broker_offset is None else self._broker_offset)",
        "offset",
        "tests/unit/test_clock.py tests/unit/test_delivery.py",
    ),
    Mutant(
        "I6 by a clock that is behind a late response is green",
        "streams/agents/score.py",
        "parts.clock.latest()",
        "parts.clock.now()",
        "tests/unit/test_score.py",
    ),
    Mutant(
        "I6 a first batch is decided before anybody has told the time",
        "streams/delivery.py",
        "if not self._app.clock.is_synchronised:",
        "if False:",
        "tests/unit/test_delivery.py",
    ),
    Mutant(
        "I5 a clock that is behind has rows forgotten",
        "streams/clock.py",
        "return now if offset is None else max(",
        "return now if now else max(",
        "tests/unit/test_score.py tests/unit/test_clock.py",
    ),
    Mutant(
        "I6 a version is current though newer ones may lie where nobody reads",
        "streams/calibrations.py",
        "return found == read",
        "return True",
        "tests/unit/test_calibrations.py",
    ),
    Mutant(
        "I6 a version is current before all are read",
        "streams/calibrations.py",
        "if whole and self._contact != asked and await _passed(consumer, ends):",
        "if True:",
        "tests/unit/test_calibrations.py",
    ),
    Mutant(
        "I9 no jump is detected",
        "models/calibration/filter.py",
        "if best > settings.threshold:",
        "if False:",
        "tests/unit/test_calibrator.py",
    ),
    Mutant(
        "I9 what a quarantined clinician stamped is blamed on everybody",
        "models/calibration/filter.py",
        """jump = msgspec.structs.replace(jump, kind="quarantine")
        else:""",
        """restart(block)
            return msgspec.structs.replace(jump, kind="quarantine")
        else:""",
        "tests/unit/test_raters.py",
    ),
    Mutant(
        "I9 a quarantined site's risk is forgotten",
        "models/calibration/filter.py",
        "max(0.0, block.mean), True",
        "0.0, True",
        "tests/unit/test_calibrator.py",
    ),
    Mutant(
        "I9 a drift without audits goes to the bias",
        "models/calibration/filter.py",
        "(0.0, settings.bias_walk) if seen.forced else (1.0, 0.0)",
        "(0.0 if seen.forced else 1.0, settings.bias_walk)",
        "tests/unit/test_calibrator.py",
    ),
    Mutant(
        "I9 a lenient site has no floor",
        "models/calibration/offsets.py",
        "max(mean, settings.floor) if key[0] in settings.guarded else mean",
        "mean",
        "tests/unit/test_calibrator.py",
    ),
    Mutant(
        "I9 audits never contradict what is volunteered",
        "models/calibration/filter.py",
        "and not self._curve.biased",
        "and False",
        "tests/unit/test_calibrator.py",
    ),
    Mutant(
        "I8 one label of another model begins a calibrator anew",
        "models/calibration/succession.py",
        "if self.labels < MIN_LABELS and not first:",
        "if False:",
        "tests/unit/test_succession.py",
    ),
    Mutant(
        "I10 one clinician may carry all the evidence",
        "models/calibration/ledger.py",
        "self._influence.grant(label.clinician, label.weight)",
        "label.weight",
        "tests/unit/test_raters.py",
    ),
    Mutant(
        "I9 what all clinicians of a site find is put down to them",
        "models/calibration/filter.py",
        "step + pull(severity, eta, variance, weight) if severity else step",
        "step",
        "tests/unit/test_raters.py",
    ),
    Mutant(
        "I10 one severe clinician is their site's risk",
        "models/calibration/belief.py",
        "* clip(severity, COMMON)",
        "* severity",
        "tests/unit/test_raters.py",
    ),
    Mutant(
        "I9 a broken promise changes nothing",
        "models/calibration/ledger.py",
        "self._brake.tighten(scope, cuts, TIGHTENING)",
        "pass",
        "tests/unit/test_control.py",
    ),
    Mutant(
        "I9 who is in quarantine vouches for greens",
        "models/calibration/ledger.py",
        "self.filter.quarantined(seen.groups) if self.filter.clock == known else []",
        "[]",
        "tests/unit/test_control.py",
    ),
    Mutant(
        "I10 a flood of acceptances vouches for greens",
        "models/calibration/ledger.py",
        "self._tighten(msgspec.structs.replace(label, weight=weight), apart)",
        "self._tighten(label, apart)",
        "tests/unit/test_control.py",
    ),
    Mutant(
        "I9 a second allowance at midnight",
        "models/calibration/brake.py",
        "allocated(rises) if follows else {}",
        "{}",
        "tests/unit/test_control.py",
    ),
    Mutant(
        "I9 groups of one response loosen together",
        "models/calibration/brake.py",
        "max(most, value, most + value - general + spare)",
        "max(0.0, value)",
        "tests/property/test_brake.py",
    ),
    Mutant(
        "I9 a combination of groups loosens further than each",
        "models/calibration/serving.py",
        "max(combined_excess(self._brakes, scopes(groups)), self._combined.get(groups, 0.0))",
        "combined_excess(self._brakes, scopes(groups))",
        "tests/property/test_brake.py",
    ),
    Mutant(
        "I9 what is safe up to the end of the scale cannot be held back",
        "models/calibration/serving.py",
        "if logit + brake >= LIMIT:",
        "if False:",
        "tests/unit/test_serving.py",
    ),
    Mutant(
        "I9 a scope that is known no more is let go at once",
        "models/calibration/brake.py",
        "over = self._over(self.with_absent(cuts))",
        "over = self._over(cuts)",
        "tests/unit/test_control.py",
    ),
    Mutant(
        "I9 a scope that is known no more is let go with the next day",
        "models/calibration/brake.py",
        "self._forget(ceilings.keys() - known)",
        "self._ceilings = {scope: ceiling for scope, ceiling in ceilings.items() if scope in known}",
        "tests/property/test_brake.py",
    ),
    Mutant(
        "I9 scopes that are known no more fill the memory",
        "models/calibration/brake.py",
        "if ceiling >= general or place >= ABSENT:",
        "if ceiling >= general:",
        "tests/unit/test_control.py",
    ),
    Mutant(
        "I9 a combination is given the allowance anew each day, held back or not",
        "models/calibration/brake.py",
        "min(cut - combined_excess(over, scopes(groups)), before)",
        "cut - combined_excess(over, scopes(groups))",
        "tests/property/test_brake.py",
    ),
    Mutant(
        "I8 a rebuild loses the labels that came while it was computed",
        "models/calibration/learning.py",
        'if instruction.order == "rebuild" and instruction.last not in {None, self.last}:',
        "if False:",
        "tests/unit/test_history.py",
    ),
    Mutant(
        "I8 versions begun anew are counted from 1",
        "models/calibration/ledger.py",
        "above = self._go_above(label.decision.calibrator_version)",
        'above = ""',
        "tests/unit/test_history.py",
    ),
    Mutant(
        "plain text to another machine",
        "streams/settings.py",
        "if (host := far(s.bootstrap)) is not None and not (s.encrypted or s.allow_plaintext):",
        "if (host := None) is not None:",
        "tests/unit/test_settings.py",
    ),
    Mutant(
        "a crash before the first plan is sent forgets what was kept back",
        "streams/agents/join.py",
        "self.reached[Feedback.topic], self.sent)",
        "self.reached[Feedback.topic], self.sequence - 1)",
        "tests/unit/test_join.py",
    ),
    Mutant(
        "what a failed record had changed stays",
        "streams/delivery.py",
        "            self._stage.forget(record.partition)  # what it changed before it failed\n",
        "",
        "tests/unit/test_delivery.py",
    ),
    Mutant(
        "what was decided on one text answers for another",
        "streams/answers.py",
        "if not is_on(event, asked.response, self._digest_keys):",
        "if False:",
        "tests/unit/test_gateway.py",
    ),
    Mutant(
        "an error shows something",
        "streams/protocol.py",
        '"detail": detail, "action": "review"}',
        '"detail": detail}',
        "tests/unit/test_gateway.py",
    ),
    Mutant(
        "a gateway asks for no token",
        "streams/gateway.py",
        "            self._authenticate(request)\n",
        "",
        "tests/unit/test_gateway.py",
    ),
    Mutant(
        "a model that was changed",
        "models/encoder/artifact.py",
        "if recorded.get(name) != present.get(name):",
        "if False:",
        "tests/unit/test_encoder.py",
    ),
    Mutant(
        "a text is scored by rows that are none of its tokens",
        "models/encoder/sequences.py",
        "scaled_dot_product_attention(q, k, v, run.mask)",
        "scaled_dot_product_attention(q, k, v)",
        "tests/unit/test_encoder_packed.py",
    ),
    Mutant(
        "I3 one feedback that waited long enough takes all others on its response with it",
        "models/joining.py",
        "if h.orphaned(horizons) <= due)",
        ")",
        "tests/unit/test_join.py",
    ),
    Mutant(
        "I5 who said nothing takes a share of later verdicts' weight",
        "models/joining.py",
        "zip(row.settled, row.shares, strict=True) if _says(row, by_id[f])",
        "zip(row.settled, row.shares, strict=True)",
        "tests/unit/test_join.py",
    ),
    Mutant(
        "I5 a clinician's second verdict counts as well",
        "models/joining.py",
        "not any(_says(row, by_id[f]) for f in mine[:place])",
        "True",
        "tests/unit/test_join.py",
    ),
    Mutant(
        "I4 greens of before a cut was lowered break its promise",
        "models/monitors/guarantee.py",
        "or (scored.upper or 0.0) >= self.cut:",
        "or False:",
        "tests/unit/test_guarantee.py",
    ),
    Mutant(
        "I2 a restored state gives other bytes where senders write an offset",
        "models/events.py",
        "if at.tzinfo is not UTC and at.year in YEARS:",
        "if False:",
        "tests/unit/test_events.py",
    ),
)


def main() -> int:
    """Try every mutant, or those whose name holds one of the arguments."""
    wanted = [m for m in MUTANTS if not sys.argv[1:] or any(word in m.name for word in sys.argv[1:])]
    survivors = [m.name for m in wanted if not caught(m)]
    sys.stdout.write(f"{len(wanted) - len(survivors)} of {len(wanted)} caught\n")
    return int(bool(survivors))


def caught(mutant: Mutant) -> bool:
    """Whether a guarding test fails with the fault, and say by which."""
    with TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in COPIED:
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tree / name)
        infect(tree / mutant.file, mutant)
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *mutant.tests.split()]
        done = subprocess.run(
            ["env", f"PYTHONPATH={folder}", *command], cwd=tree, capture_output=True, text=True, check=False
        )
    failed = [line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    sys.stdout.write(f"{mutant.name}: {failed[0].lower() if failed else f'NOT CAUGHT (pytest: {done.returncode})'}\n")
    sys.stdout.flush()
    return done.returncode == 1 and bool(failed)


def infect(file: Path, mutant: Mutant) -> None:
    """Make the change, which must have exactly one place."""
    text = file.read_text()
    assert text.count(mutant.old) == 1, f"{mutant.name}: `{mutant.old}` is not in {mutant.file} once"
    file.write_text(text.replace(mutant.old, mutant.new))


if __name__ == "__main__":
    sys.exit(main())
