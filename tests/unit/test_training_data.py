from datetime import timedelta

import msgspec
import orjson
import pytest

from models.errors import SettingsError
from models.events import Feedback, Label, Response, Scored, as_id, encode
from models.training.data import START, from_week, read, read_logs, to_events
from models.training.early import watched_folds
from models.training.examples import COPIED, digest, folds, pending, split
from models.training.synth import FAST, Config, generate, write

ROWS = [
    {"id": "a/1", "query": "Is it safe?", "response": "Yes.", "label": 1, "grade": 1, "question_id": "q1"},
    {"id": "a/2", "query": "Is it safe?", "response": "No.", "label": 1, "grade": 2, "question_id": "q1"},
    {"id": "a/3", "query": "is  it SAFE?", "response": "Perhaps.", "label": 0, "rater": "r 1"},
    {"id": "b 4", "query": "And now?", "response": "Wait.", "label": 0, "verdict": "edit", "depth": "deep",
     "edited_response": "Wait 2 days.", "question_id": "q2", "category": None, "extra": [1]},
]  # fmt: skip


@pytest.fixture
def examples(tmp_path):
    return read(lines(tmp_path / "rows.jsonl", ROWS))


def lines(path, rows):
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)) + b"\n")
    return path


def test_rows_keep_what_they_say(examples):
    assert [example.rejected for example in examples] == [True, True, False, False]
    assert [example.depth for example in examples] == ["deep", "surface", "none", "deep"]
    assert [example.question for example in examples] == ["q1", "q1", "q1", "q2"]  # the third asks the same
    assert examples[3].event.response_id.startswith("b_4-")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"id": "x"}', "query"),
        (b"not json", "line 1"),
        (b'{"id":"x","query":"q","label":"no"}', "label"),
        (b'{"id":"x","query":"q","label":2}', "label"),
        (b'{"id":"x","query":"q","label":-1}', "label"),
        (b'{"id":"x","query":"q","label":0}\n{"id":"x","query":"r","label":0}', "line 2.*`id`"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, says):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(line)
    with pytest.raises(SettingsError, match=says):
        read(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_named_with_its_remedy(tmp_path, encoding):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id":"x","query":"q","label":0}', encoding=encoding)
    with pytest.raises(SettingsError, match=r"rows\.jsonl .*save it as UTF-8 without a byte order mark"):
        read(path)


def test_ids_of_any_script_stay_apart(tmp_path):
    names = ["问题一", "问题二", "b 4", "b_4", "", "_", "x" * 200, "x" * 201]
    rows = [{"id": name, "query": f"q {name}", "label": 0} for name in names]
    found = [example.event.response_id for example in read(lines(tmp_path / "rows.jsonl", rows))]
    assert len(set(found)) == len(names)
    assert all(map(as_id, found))


def test_an_id_stands_once_in_all_files(tmp_path):
    one, two = (lines(tmp_path / name, [{"id": "a", "query": name, "label": 0}]) for name in ("one", "two"))
    with pytest.raises(SettingsError, match=r"two, line 1: .*`id`"):
        read(one, two)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"nothing\.jsonl cannot be read"):
        read(tmp_path / "nothing.jsonl")


def test_a_replay_is_a_stream_with_simulated_times(examples):
    arrivals = to_events(examples, seed=1)
    assert arrivals == to_events(examples, seed=1)
    assert arrivals != to_events(examples, seed=2)
    responses = [arrival.event for arrival in arrivals if isinstance(arrival.event, Response)]
    verdicts = {a.event.response_id: a.event for a in arrivals if isinstance(a.event, Feedback)}
    assert [response.response_id for response in responses] == ["a/1", "a/2", "a/3", examples[3].event.response_id]
    assert responses[-1].occurred_at - responses[0].occurred_at < timedelta(days=7)
    assert [verdicts[name].action for name in ("a/1", "a/3", responses[-1].response_id)] == [
        "disagreed",
        "accepted",
        "edited",
    ]
    assert verdicts["a/2"].reason_code == "cds-not-applicable"
    assert verdicts["a/3"].clinician.startswith("r_1-")


def test_silence_is_a_share(examples):
    assert not [a for a in to_events(examples, seed=1, feedback=0.0) if isinstance(a.event, Feedback)]


def test_a_written_week_is_training_data(tmp_path):
    week = generate(Config(responses=300, seed=4))
    write(week, tmp_path)
    judged = read_logs(tmp_path / "responses.jsonl", tmp_path / "feedback.jsonl")
    assert {example.event.response_id for example in judged} <= week.truths.keys()
    assert 100 < len(judged) < 300
    agreed = [example.rejected == week.truths[example.event.response_id].rejected for example in judged]
    assert sum(agreed) / len(agreed) > 0.9  # some change their minds


@pytest.mark.parametrize("name", ["responses.jsonl", "README.md"])
def test_a_week_overwrites_nothing_but_a_week(tmp_path, name):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / name).write_text("mine")
    week = generate(Config(responses=5))
    with pytest.raises(SettingsError, match=name):
        write(week, tmp_path / "own")
    assert [path.read_text() for path in (tmp_path / "own").iterdir()] == ["mine"]
    for _ in range(2):
        write(week, tmp_path / "week")


def test_a_week_for_which_no_folder_can_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SettingsError, match="cannot be made"):
        write(generate(Config(responses=5)), tmp_path / "file" / "week")


ASKED = Response(response_id="r", conversation_id="c", deployment="d", site="s", query="q", occurred_at=START)
LATER = msgspec.structs.replace(ASKED, response_id="later")


def said(action, minute, clinician="x", **fields):
    at = START + timedelta(minutes=minute)
    return Feedback(
        feedback_id=f"{minute:02}", response_id="r", clinician=clinician, action=action, occurred_at=at, **fields
    )


def label(action, minute, **fields):
    scored = Scored(
        conversation_id="c", turn=0, groups={}, logit=0.0, risk=0.1, upper=0.1, tier="green", action="show",
        audit=False, propensity=1.0, calibrator_version=0, occurred_at=START,
    )  # fmt: skip
    verdict = {"action": action, "rejected": action == "disagreed", "depth": "none", "weight": 1.0, "delay_s": 1.0}
    ids = {"label_id": f"l{minute}", "feedback_id": f"{minute:02}", "response_id": "r", "deployment": "d"}
    at = START + timedelta(minutes=minute)
    return Label(**{**ids, **verdict, "clinician": "x", "occurred_at": at, **fields}, decision=scored)


@pytest.mark.parametrize(
    ("judged", "rejected"),
    [
        ([said("accepted", 1)], [False]),
        ([said("accepted", 1), said("retracted", 2)], []),
        ([said("retracted", 2), said("accepted", 1)], []),
        ([said("disagreed", 10), said("accepted", 5)], [True]),
        ([said("disagreed", 1), said("accepted", 2, "y"), said("retracted", 3, "y")], [True]),
        ([said("disagreed", 1), said("accepted", 2, "y"), said("retracted", 3, "x")], [False]),
        ([label("disagreed", 1)], [True]),
        ([label("disagreed", 1), label("retracted", 2, weight=0.0, kind="revocation", revises="l1")], []),
        ([label("disagreed", 1), label("accepted", 2, kind="correction", revises="l1")], [False]),
    ],
)
def test_the_last_word_that_stands_is_learnt(tmp_path, judged, rejected):
    (tmp_path / "responses.jsonl").write_bytes(encode(ASKED) + b"\n" + encode(LATER))
    (tmp_path / "judged.jsonl").write_bytes(b"\n".join(map(encode, judged)))
    found = read_logs(tmp_path / "responses.jsonl", tmp_path / "judged.jsonl")
    assert [example.rejected for example in found] == rejected


def test_a_question_is_never_on_both_sides():
    examples = from_week(generate(FAST))
    rest, held = split(examples, 0.2, seed=5)
    assert not {example.question for example in rest} & {example.question for example in held}
    assert 0.15 < len(held) / len(examples) < 0.25
    assert len(rest) + len(held) == len(examples)


def test_turns_and_queries_join_questions_over_all_files(tmp_path):
    turns = [
        {"id": f"c{c}t{k}", "conversation_id": f"c{c}", "query": f"q {c} {k}", "response": "a", "label": k % 2,
         "earlier": [f"q {c} {j}" for j in range(k)]}
        for c in range(50) for k in range(3)
    ]  # fmt: skip
    turns += [{**turns[3 * c + 2], "id": f"c{c}t3", "query": "Why?"} for c in range(50)]  # is no question of its own
    again = [{"id": "x", "question_id": "x", "query": " Q 7  0", "response": "b", "label": 1}]
    found = read(lines(tmp_path / "turns.jsonl", turns), lines(tmp_path / "again.jsonl", again))
    assert len({example.question for example in found}) == 50
    assert found[-1].question == found[21].question
    rest, held = split(found, 0.15, seed=0)
    assert not {e.event.conversation_id for e in rest} & {e.event.conversation_id for e in held if e is not found[-1]}


def test_a_copied_passage_is_not_learnt_from_while_it_is_measured(tmp_path):
    passage = " ".join(f"word{n}" for n in range(COPIED))
    rows = [{"id": str(n), "query": f"q {n}", "response": passage if n < 20 else "No.", "label": 1} for n in range(60)]
    found = read(lines(tmp_path / "rows.jsonl", rows))
    rest, held = split(found, 0.15, seed=0)
    assert {e.event.response for e in held} == {passage, "No."}
    assert {e.event.response for e in rest} == {"No."}  # what is short is said of many things
    for fold in watched_folds(found, 10, seed=0):
        sides = [{e.event.response for e in side} for side in fold]
        assert passage not in sides[0] & sides[1]


def test_folds_cover_everything_once_and_never_leak():
    examples = from_week(generate(FAST))
    parts = folds(examples, 5, seed=5)
    assert sorted(index for part in parts for index in part) == list(range(len(examples)))
    questions = [{examples[index].question for index in part} for part in parts]
    assert sum(map(len, questions)) == len(set.union(*questions))
    assert parts == folds(examples, 5, seed=5) != folds(examples, 5, seed=6)


def test_a_digest_names_the_data(examples):
    assert digest(examples) == digest(list(examples)) != digest(examples[::-1])
    assert pending(examples[0]).event.response is None
