"""One question and its answer, sound or defective, with the edits that a clinician would make.

Defects are relations between the two texts:

| defect | what is wrong |
|---|---|
| `wrong_dose`, `wrong_drug`, `contradiction`, `wrong_fact` | one restated fact differs from the query's |
| `missed_allergy` | the query names an allergy, the answer does not |
| `other_question` | the answer restates another patient's facts |
| `vague` | friendly, general, says nothing; it pleases, so it is seldom rejected |
"""

from functools import lru_cache
from string import Formatter
from typing import Final, Literal, NamedTuple

from models.training.draw import Draw
from models.training.grammar import COMMON, GRAMMARS, SLOTS, Grammar

Defect = Literal[
    "none", "wrong_dose", "wrong_drug", "contradiction", "wrong_fact", "missed_allergy", "other_question", "vague"
]
Facts = dict[str, str]

ALLERGY_SHARE: Final = 0.35
"""Of the patients in categories where allergies are asked about."""

_BY_SLOT: Final[dict[str, Defect]] = {
    **dict.fromkeys(("dose", "dose2", "weight", "per_kilo", "total"), "wrong_dose"),
    **dict.fromkeys(("drug", "second", "child_drug"), "wrong_drug"),
    "sign": "contradiction",
}


class Patient(NamedTuple):
    """Whom all turns of a conversation are about."""

    allergic: bool
    facts: Facts


class Case(NamedTuple):
    """`corrected` changes what the answer says (a deep edit), `reworded` only how it says it (a surface edit)."""

    query: str
    response: str
    defect: Defect
    corrected: str
    reworded: str


class _Plan(NamedTuple):
    """The sentences chosen for one case, before their slots are filled."""

    grammar: Grammar
    situation: str
    question: str
    allergy: str
    opening: str
    answer: str
    safety: str
    advice: str
    closing: str


def admit(draw: Draw, category: str) -> Patient:
    """Draw a patient whom a category is asked about."""
    slots = GRAMMARS[category].slots
    return Patient("allergy" in slots and draw.chance(ALLERGY_SHARE), _facts(draw, slots))


def compose(draw: Draw, category: str, patient: Patient, *, defective: bool) -> Case:
    """Draw a case of a category."""
    plan, facts = _plan(draw, GRAMMARS[category], patient), patient.facts
    query = _fill((plan.situation, plan.allergy, plan.question), facts)
    sound = _body(plan, facts)
    body, defect = _spoil(draw, plan, facts) if defective else (sound, "none")
    return Case(
        query=query,
        response=_join(plan.opening, body, plan.closing),
        defect=defect,
        corrected=_join(plan.opening, _correction(draw, body, sound), plan.closing),
        reworded=_join(body, draw.pick(COMMON.signatures)),
    )


def _plan(draw: Draw, grammar: Grammar, patient: Patient) -> _Plan:
    asked, allergic = "allergy" in grammar.slots, patient.allergic
    return _Plan(
        grammar=grammar,
        situation=draw.pick(grammar.situations),
        question=draw.pick(grammar.questions),
        allergy=draw.pick(COMMON.allergic if allergic else COMMON.not_allergic) if asked else "",
        opening=draw.pick(COMMON.openings),
        answer=draw.pick(grammar.answers),
        safety=draw.pick(COMMON.safety) if allergic else "",
        advice=draw.pick(grammar.advice),
        closing=draw.pick(COMMON.closings),
    )


def _facts(draw: Draw, slots: tuple[str, ...]) -> Facts:
    facts = {slot: draw.pick(SLOTS[slot]) for slot in slots}
    if "second" in facts:
        facts["second"] = draw.other(SLOTS["second"], facts["drug"])
    return _derive(facts)


def _derive(facts: Facts) -> Facts:
    """Add `total`, the daily amount in mg, where weight and dose per kilogram are known."""
    if "per_kilo" in facts:
        facts["total"] = f"{float(facts['weight']) * float(facts['per_kilo']):g}"
    return facts


def _body(plan: _Plan, facts: Facts) -> str:
    return _fill((plan.answer, plan.safety, plan.advice), facts)


def _spoil(draw: Draw, plan: _Plan, facts: Facts) -> tuple[str, Defect]:
    """Spoil one thing: half of the defects are a wrong fact."""
    if plan.safety and draw.chance(0.35):
        return _body(plan._replace(safety=""), facts), "missed_allergy"
    fate = draw.unit()
    if fate < 0.1:
        return _join(*(draw.pick(COMMON.vague[start::2]) for start in (0, 1))), "vague"
    if fate < 0.3:
        return _body(plan, _facts(draw, plan.grammar.slots)), "other_question"
    slot = draw.pick(_shared(plan.situation, plan.answer))
    return _body(plan, _change(draw, facts, slot)), _BY_SLOT.get(slot, "wrong_fact")


def _change(draw: Draw, facts: Facts, slot: str) -> Facts:
    """One fact becomes another; what is derived from it follows, but for a slip in the derivation itself."""
    if slot == "total":
        return {**facts, "total": f"{float(facts['total']) * draw.pick((0.1, 10, 2)):g}"}
    return _derive({**facts, slot: draw.other(SLOTS[slot], facts[slot])})


def _correction(draw: Draw, body: str, sound: str) -> str:
    """Put a defect right; an answer that was sound gets a prohibition that this clinician wants to see."""
    return sound if body != sound else _join(body, draw.pick(COMMON.prohibitions))


@lru_cache(maxsize=4096)
def _shared(situation: str, answer: str) -> tuple[str, ...]:
    """Slots that stand in both sentences, and `total`, which is derived from two that do."""
    asked = _slots(situation)
    return tuple(sorted(slot for slot in _slots(answer) if slot in asked or slot == "total"))


def _slots(sentence: str) -> frozenset[str]:
    return frozenset(name for _, name, _, _ in Formatter().parse(sentence) if name)


def _fill(sentences: tuple[str, ...], facts: Facts) -> str:
    return _join(*(_capital(sentence.format_map(facts)) for sentence in sentences))


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)
