"""Each safeguard is removed in turn, and its test must fail: a harness that cannot fail proves nothing."""

from itertools import count

import pytest

from models import tiers
from models.calibration import history
from models.calibration.belief import Curve
from models.calibration.brake import Brake
from models.calibration.delays import Delays
from models.calibration.filter import Filter
from models.calibration.influence import Influence
from models.calibration.ledger import Ledger
from models.calibration.offsets import Offsets
from streams.agents.learn import Learn
from tests.mutants import MUTANTS, ROOT, Mutant
from tests.unit import test_calibrator, test_control, test_fold, test_history, test_ledger, test_raters, test_tiers

FRESH = count()

CASES = {
    "jump detector": (
        (Filter, "_judge", lambda *_, **__: None),
        lambda: test_calibrator.test_a_jump_is_found_where_it_is_and_since_when(None, "all", 1.2),
    ),
    "stale labels ignored": (
        (Filter, "_stale", lambda *_: False),
        test_calibrator.test_labels_older_than_a_jump_are_ignored,
    ),
    "quarantine": (
        (Filter, "_stale", lambda *_: False),
        test_calibrator.test_a_site_that_turns_lenient_is_quarantined_until_released,
    ),
    "floor": (
        (Offsets, "moments", lambda self, key, clock: self.by_key[key].at(clock)),
        test_calibrator.test_the_floor_bounds_what_a_lenient_site_gains,
    ),
    "audit bias": (
        (Curve, "enable_bias", lambda *_: None),
        test_calibrator.test_audits_that_contradict_volunteered_labels_switch_the_bias_on,
    ),
    "culprit": (
        (Filter, "_culprit", lambda self, best, _, j: best if best[1].is_rater and j > 3 else (None, self._everyone)),
        test_raters.test_a_poisoned_flood_is_put_down_to_its_clinician_not_to_everybody,
    ),
    "shared evidence of a slope": (
        (Filter, "_is_shared", lambda *_: True),
        test_raters.test_flipped_verdicts_are_not_taken_for_scores_that_say_less,
    ),
    "capped influence": (
        (Influence, "grant", lambda _, __, weight: weight),
        lambda: test_raters.test_no_clinician_exceeds_their_share(20, 0.2),
    ),
    "old labels count where delays differ": (
        (Delays, "differ", False),
        test_calibrator.test_labels_older_than_a_jump_count_where_one_kind_of_verdict_takes_longer,
    ),
    "bounded loosening": (
        (Brake, "excess", lambda *_: {}),
        test_control.test_loosening_is_bounded_per_day_and_gets_there_in_the_end,
    ),
    "automatic tightening": (
        (Brake, "tighten", lambda *_: None),
        test_control.test_a_broken_promise_tightens_whatever_the_filter_believes,
    ),
    "approval": (
        (Brake, "approve", lambda *_: None),
        test_control.test_without_approval_nothing_loosens_and_with_it_at_once,
    ),
    "dedupe": (
        (Learn, "identify", lambda _, event: (f"{next(FRESH)}", event.deployment, event.occurred_at)),
        test_fold.test_an_instruction_is_followed_once_and_a_wrong_one_is_set_aside,
    ),
    "corrections honoured": (
        (history, "revise", lambda log: log),
        test_history.test_corrections_are_honoured_and_what_a_rollback_dismissed_stays_dismissed,
    ),
    "warm-up gate": (
        (Ledger, "missing_labels", lambda _: 0),
        test_ledger.test_the_gate_counts_down_and_opens,
    ),
    "any doubt": (
        (tiers, "doubts", lambda *_: ()),
        test_tiers.test_no_combination_of_doubts_is_green,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_without_it_its_test_fails(name, monkeypatch):
    (owner, attribute, replacement), guard = CASES[name]
    monkeypatch.setattr(owner, attribute, replacement)
    with pytest.raises(AssertionError):
        guard()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_every_mutant_still_has_its_place(mutant: Mutant) -> None:
    """`make mutants` takes minutes; what would stop it shows here."""
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1
    assert all((ROOT / path).exists() for path in mutant.tests.split())
