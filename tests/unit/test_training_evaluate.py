import json
import shutil
import tracemalloc
from datetime import UTC, datetime, timedelta
from itertools import count

import msgspec
import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from models.encoder.artifact import seal
from models.encoder.quiet import quiet
from models.errors import SettingsError
from models.events import Instruction, Label, encode
from models.events import Scored as Scored_
from models.training import raters
from models.training.baselines import out_of_fold, tfidf
from models.training.data import from_week, read_labels
from models.training.evaluate import Scored, evaluate, official, tier_table, write
from models.training.examples import digest, unseen
from models.training.intervals import MEASURES, _members, bootstrap, rate_interval
from models.training.metrics import measure, sigmoid
from models.training.readiness import needed, pilot, readiness
from models.training.synth import Config, generate
from models.training.vocabulary import learn

START = datetime(2026, 1, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def examples():
    return from_week(generate(Config(responses=200, seed=6)))


@pytest.fixture(scope="module")
def artifact(examples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("random")
    torch.manual_seed(0)
    tokenizer = learn([e.event.query for e in examples], 400, 128)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with quiet():
        BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), num_labels=2, **size)).save_pretrained(
            folder
        )
        tokenizer.save_pretrained(folder)
    seal(folder, {"kind": "cross"})
    return str(folder)


def test_an_evaluation_says_everything(artifact, examples, tmp_path):
    found = evaluate(artifact, examples, clock=count().__next__)
    assert found.count == 200
    assert found.models.keys() == {"demur", "prior", "tfidf_overlap", "boosted_overlap"}
    for row in found.models.values():
        assert set(MEASURES) == row.intervals.keys()
        assert all(lower <= upper for name, (lower, upper) in row.intervals.items() if name != "ece")
        assert row.seconds == 1
    assert found.models["prior"].auroc <= 0.5  # the other folds' rate ranks the wrong way, if at all
    assert sum(row.count for row in found.tiers) == 200
    assert sum(row.caught for row in found.tiers) == pytest.approx(1.0)
    sites = found.parts["site"].values()
    assert sum(part.measures.count for part in sites) == 200
    assert sum(row.count for part in sites for row in part.tiers) == 200
    write(found, tmp_path / "found.json", tmp_path / "found.html")
    read = json.loads((tmp_path / "found.json").read_bytes())
    assert read["tiers"][0]["tier"] == "green"
    assert read["demur"]["auroc"] == pytest.approx(found.models["demur"].auroc)
    page = (tmp_path / "found.html").read_text()
    assert "MEDIQA" in page
    assert "nan" not in page


def test_what_nobody_rejected_is_no_deep_rejection(artifact, examples):
    said = [example if example.rejected else msgspec.structs.replace(example, depth="deep") for example in examples]
    first, second = (evaluate(artifact, part, clock=count().__next__) for part in (examples, said))
    assert second.deep == first.deep


def test_a_model_measured_on_what_it_learnt_from_says_so(artifact, examples, tmp_path):
    folder = shutil.copytree(artifact, tmp_path / "learnt")
    seal(folder, {"kind": "cross", "data_digest": digest(examples)})
    found = [evaluate(str(folder), part, clock=count().__next__) for part in (examples, examples[1:])]
    assert [each.learnt for each in found] == [True, False]
    for each, said in zip(found, (True, False), strict=True):
        write(each, html=tmp_path / "found.html")
        assert ("learnt from these very answers" in (tmp_path / "found.html").read_text()) == said


def test_baselines_learn_from_what_they_are_given(artifact, examples):
    half = len(examples) // 2
    found = evaluate(artifact, examples[:half], clock=count().__next__, train=examples[half:])
    rate = sum(example.rejected for example in examples[half:]) / half
    truth = sum(example.rejected for example in examples[:half]) / half
    assert found.models["prior"].brier == pytest.approx(truth * (1 - rate) ** 2 + (1 - truth) * rate**2)


def test_one_verdict_alone_cannot_be_measured(artifact, examples):
    with pytest.raises(SettingsError, match="one verdict"):
        evaluate(artifact, [e for e in examples if not e.rejected], clock=count().__next__)


def test_what_baselines_cannot_learn_from_is_refused_in_a_sentence(artifact, examples):
    half, clock = len(examples) // 2, count().__next__
    for verdict in (True, False):
        alike = [e for e in examples[half:] if e.rejected == verdict]
        with pytest.raises(SettingsError, match=f"--train: {len(alike)} answers of one verdict"):
            evaluate(artifact, examples[:half], clock=clock, train=alike)
    with pytest.raises(SettingsError, match="`response`: no word stands in two of the 100 answers"):
        tfidf([answered(e, f"alpha{n} beta{n}") for n, e in enumerate(examples[:half])], examples[half:])
    with pytest.raises(SettingsError, match="`response`: no word"):
        tfidf([answered(e, "it is") for e in examples[:half]], examples[half:])


def answered(example, text):
    return msgspec.structs.replace(example, event=msgspec.structs.replace(example.event, response=text))


def test_baselines_learn_from_no_answer_that_they_are_measured_on(artifact, examples):
    test, others = examples[:100], [answered(e, f"other {n}") for n, e in enumerate(examples)]
    assert unseen([*test, *others], test) == others
    copied = [answered(e, f"{'word ' * 60}{n}") for n, e in enumerate(test)]
    elsewhere = [msgspec.structs.replace(e, event=msgspec.structs.replace(e.event, query="?")) for e in copied]
    assert unseen([*others, *elsewhere], copied) == others
    with pytest.raises(SettingsError, match="--train: 0 answers"):
        evaluate(artifact, examples, clock=count().__next__, train=test)


def scored(examples, rejected, risk):
    return Scored(examples[: len(risk)], np.array(rejected, dtype=bool), np.array(risk))


def test_tiers_are_cut_where_told(examples):
    green, yellow, red = tier_table(scored(examples, [0, 1, 1, 1], [0.01, 0.05, 0.19, 0.9]), (0.05, 0.2))
    assert (green.count, yellow.count, red.count) == (1, 2, 1)
    assert (green.rejected.value, red.caught) == (0.0, pytest.approx(1 / 3))


def test_the_first_good_answer_counts(examples):
    same = [examples[0]] * 3
    found = official(Scored(same, np.array([True, False, False]), np.array([0.1, 0.3, 0.9])))
    assert found.mrr == 0.5
    assert found.precision == 0.5
    assert found.accuracy == pytest.approx(1 / 3)


def test_where_the_order_in_a_file_decides_nothing_is_won(examples):
    """Of three answers with one risk, one of them good, it stands first, second or third."""
    for good in range(3):
        rejected = np.arange(3) != good
        found = official(Scored([examples[0]] * 3, rejected, np.full(3, 0.5)))
        assert found.mrr == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    rejected = np.array([True, False, True, False])  # behind one, two of three are good by chance first or second
    found = official(Scored([examples[0]] * 4, rejected, np.array([0.1, 0.5, 0.5, 0.5])))
    assert found.mrr == pytest.approx(2 / 3 / 2 + 1 / 3 / 3)


def test_no_limits_are_given_where_they_would_hold_nothing():
    random = np.random.default_rng(0)
    risk = random.beta(1, 4, size=300)
    rejected = random.uniform(size=300) < risk
    found = bootstrap(rejected, risk, [str(n) for n in range(300)], draws=20)
    assert found["ece"].value > 0  # its distance from 0 is noise: these risks are right
    assert np.isnan(found["ece"][1:]).all()
    assert not np.isnan([found[name] for name in MEASURES if name != "ece"]).any()
    alone = bootstrap(rejected, risk, ["q"] * 300, draws=20)
    assert np.isnan([limits[1:] for limits in alone.values()]).all()


def test_intervals_hold_the_value_and_narrow_with_questions():
    random = np.random.default_rng(0)
    risk = random.uniform(size=800)
    rejected = random.uniform(size=800) < risk
    few = bootstrap(rejected[:80], risk[:80], [str(n // 4) for n in range(80)])["auroc"]
    many = bootstrap(rejected, risk, [str(n // 4) for n in range(800)])["auroc"]
    assert few.lower < few.value < few.upper
    assert many.upper - many.lower < few.upper - few.lower


def test_a_long_question_takes_no_room_for_the_others():
    questions = ["b", "x" * 200_000, "a", "b"]
    tracemalloc.start()
    assert [part.tolist() for part in _members([*questions, *map(str, range(1000))])][-3:] == [[2], [0, 3], [1]]
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_few_questions_are_measured_or_refused(examples):
    few = [msgspec.structs.replace(example, question=str(n % 3)) for n, example in enumerate(examples)]
    assert (out_of_fold(tfidf, few) > 0).all()
    with pytest.raises(SettingsError, match="too few questions"):
        out_of_fold(tfidf, [msgspec.structs.replace(example, question="q") for example in few])


@pytest.mark.parametrize(("rejected", "count"), [(0, 0), (0, 7), (7, 7), (3, 9)])
def test_exact_intervals_hold_the_rate(rejected, count):
    _, lower, upper = rate_interval(rejected, count)
    assert 0 <= lower <= (rejected / count if count else 0) <= upper <= 1


def test_readiness_counts_down_to_zero():
    assert needed(50, 100, 0.05) > needed(2, 100, 0.05)
    first, second = readiness({"green": (2000, 40), "red": (10, 5)}, within=0.03, labels_per_day=100)
    assert (first.missing, first.days) == (0, 0.0)
    assert second.missing > 500
    assert second.days > 1000
    assert readiness({"green": (0, 0)}, labels_per_day=10)[0].days == float("inf")
    assert readiness({"green": (0, 0)})[0].days is None


def label(n, tier, *, rejected=False, **fields):
    scored = Scored_(
        conversation_id="v", turn=0, groups={}, logit=0.0, risk=0.1, upper=0.1, tier=tier, action="show", audit=False,
        propensity=1.0, calibrator_version=0, occurred_at=START + timedelta(hours=n),
    )  # fmt: skip
    ids = {"label_id": f"l{n}", "feedback_id": f"f{n}", "response_id": f"r{n}", "deployment": "d", "clinician": "c"}
    verdict = {"action": "disagreed" if rejected else "accepted", "rejected": rejected, "depth": "none", "weight": 1.0}
    return Label(
        **{**ids, **verdict, "delay_s": 1.0, "occurred_at": START + timedelta(hours=n), **fields}, decision=scored
    )


def test_a_pilot_is_judged_by_its_settled_labels():
    settled = [label(n, "green" if n % 2 else "red", rejected=n % 4 == 0) for n in range(49)]
    beside = [label(50, "green", weight=0.0), label(51, "green", kind="correction")]
    found = pilot([*beside, *settled[::-1]], within=0.05)
    assert (found.labels, found.days) == (49, 2.0)
    assert [(row.tier, row.labels) for row in found.tiers] == [("green", 24), ("yellow", 0), ("red", 25)]
    ahead = msgspec.structs.replace(settled[-1], occurred_at=START - timedelta(days=20_000))
    assert pilot([*settled[:-1], ahead]).days == 2.0, "one workstation's clock made years of it"
    green, _, red = found.tiers
    assert red.missing > green.missing > 0
    assert red.days == pytest.approx(red.missing / (25 / 2.0))
    widths = [step[2].within for step in found.curve]
    assert len(widths) == 10
    assert widths == sorted(widths, reverse=True)  # every label helps


def test_a_log_is_counted_by_labels_not_by_deliveries(tmp_path):
    labels = [label(n, "green", rejected=n % 4 == 0, depth="deep" if n % 8 == 0 else "none") for n in range(40)]
    order = Instruction(instruction_id="i", deployment="d", order="release", version=1, by="p", occurred_at=START)
    log = tmp_path / "labels.jsonl"
    log.write_bytes(b"\n".join(map(encode, [*labels, order, *labels[-30:]])))
    assert read_labels(log) == labels
    assert pilot(labels).tiers[0].rate == 0.25
    assert pilot(labels, target="deep").tiers[0].rate == 0.125


def test_a_response_counts_once_however_many_judge_it():
    whole = [label(n, "green", rejected=n % 10 == 0) for n in range(100)]
    shared = [msgspec.structs.replace(one, label_id=f"{one.label_id}{k}", weight=1 / 3) for one in whole for k in "abc"]
    one, three = pilot(whole), pilot(shared)
    assert (three.labels, three.tiers[0].labels, three.tiers[0].rate) == (100, 100, pytest.approx(0.1))
    assert [(row.missing, row.within) for row in three.tiers] == [(row.missing, row.within) for row in one.tiers]


def test_no_labels_say_what_is_needed():
    found = pilot([])
    assert (found.labels, found.curve) == (0, [])
    assert all(row.missing > 2000 and row.rate is None for row in found.tiers)


def judged(seed, people=8, answers=60):
    """Verdicts from text and a strong rater effect, both known."""
    random = np.random.default_rng(seed)
    names = [f"r{n % people}" for n in range(people * answers)]
    severity = dict(zip(sorted(set(names)), random.normal(0, 1.5, people), strict=True))
    table = random.normal(size=(len(names), 3))
    logits = table[:, 0] + np.array([severity[name] for name in names])
    return table, random.uniform(size=len(names)) < 1 / (1 + np.exp(-logits)), names, severity


def test_severities_are_found_and_help():
    table, rejected, names, severity = judged(seed=1)
    aware = raters.fit(table, rejected, names, penalty=1.0)
    true, found = (np.array([each[name] for name in severity]) for each in (severity, aware.severity))
    assert np.corrcoef(true, found)[0, 1] > 0.95
    blind = raters.fit(table, rejected, names, penalty=1.0, spread=0.0)
    known = measure(rejected, sigmoid(raters.log_odds(aware, table, names))).auroc
    assert known > measure(rejected, sigmoid(raters.log_odds(blind, table))).auroc + 0.05


def test_an_unknown_rater_is_a_typical_one():
    table, rejected, names, _ = judged(seed=2)
    fitted = raters.fit(table, rejected, names)
    assert (raters.log_odds(fitted, table, [None] * len(names)) == raters.log_odds(fitted, table)).all()
    assert sum(fitted.severity.values()) == pytest.approx(0.0, abs=1e-9)
    assert raters.fit(table, rejected, [None] * len(names)).severity == {}
