"""The pages in `docs/` say what the code does: each example is tried, each list compared with the code's."""

import ast
import json
import re
import shlex
import subprocess
import sys
from itertools import product
from pathlib import Path
from tomllib import loads
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
import typer
from aiohttp.web import (
    HTTPExpectationFailed,
    HTTPMethodNotAllowed,
    HTTPMisdirectedRequest,
    HTTPNotFound,
    HTTPUnauthorized,
    HTTPUnsupportedMediaType,
)

import streams.stages  # noqa: F401 (all errors of all stages are defined)
from models import cds_hooks
from models.calibration.filter import Filter
from models.calibration.settings import FilterSettings
from models.calibration.succession import MIN_LABELS
from models.deciding import Calibrated, DecisionContext, History, config_hash, decide
from models.encoder.base import Score
from models.errors import DeliveryError, EventError, Invalid, Oversized
from models.events import (
    WRITTEN_BY_OTHERS,
    Calibration,
    DeadLetter,
    Decision,
    Feedback,
    FeedbackAction,
    Label,
    Response,
    Tier,
    decode,
    encode,
)
from models.labels import REASONS, Reason, Verdict, verdict
from models.oracle.logs import READERS
from models.oracle.wire import KEYS
from models.policy import ACTIONS, Policies, Policy, act
from models.signing import Keys, Signed
from models.tiers import Facts, tier
from models.training.data import read
from streams.agents.watch import Watch
from streams.answers import SetAside, Stale
from streams.cli import app
from streams.gateway import Busy, _described
from streams.settings import STAGES, Settings
from streams.stages import INPUTS, changelogs
from streams.topics import MAX_STATE_BYTES, RECORD_RETENTION, TOMBSTONE_RETENTION, plan
from tests import pages

PAGES = sorted(path.name for path in (pages.ROOT / "docs").glob("*.md"))


def one(page: str, language: str) -> str:
    (found,) = pages.fenced(page, language)
    return found


def test_the_settings_page_is_what_the_code_generates() -> None:
    said = pages.text("settings.md")
    assert said == pages.with_settings(said), "write it anew: python -m tests.pages"


def test_the_policy_file_has_every_key_with_its_default() -> None:
    whole, _ = pages.fenced("settings.md", "toml")
    table = loads(whole)
    policies = Policies.read(table)
    assert policies.default == Policy()
    assert set(table) == {*Policy.__struct_fields__, "deployments"}
    assert set(table["calibrator"]) == set(FilterSettings.__struct_fields__)
    assert policies.of("icu") != Policy()


@pytest.mark.parametrize("example", pages.fenced("integrate.md", "json"))
def test_every_event_is_of_the_contract(example: str) -> None:
    whole = json.loads(example)
    event: Any = decode(Response | Decision, example.encode())
    assert set(whole) - {"type"} <= set(event.__struct_fields__), "a field that is not in the contract"


def test_a_response_shows_every_field_and_a_query_has_an_id_of_its_own() -> None:
    answer, query, decision = (json.loads(example) for example in pages.fenced("integrate.md", "json"))
    assert set(answer) == {"type", *Response.__struct_fields__} - {"schema"}
    assert "response" not in query
    assert query["response_id"] != answer["response_id"] == decision["response_id"]


def test_a_decision_is_as_the_stream_writes_it() -> None:
    example = pages.fenced("integrate.md", "json")[-1]
    event = decode(Decision, example.encode())
    assert encode(event) == json.dumps(json.loads(example), separators=(",", ":")).encode()
    level, reasons = tier(Facts(upper=event.upper), Policy())
    assert (event.tier, event.action, event.reasons) == (level, act(level, "full-access", audit=False), reasons)
    assert event.config_hash == config_hash(Policy())


def test_each_action_of_feedback_has_an_example() -> None:
    lines = one("integrate.md", "jsonl").splitlines()
    assert [decode(Feedback, line.encode()).action for line in lines] == list(get_args(FeedbackAction))
    assert all(set(json.loads(line)) - {"type"} <= set(Feedback.__struct_fields__) for line in lines)


def test_what_each_action_of_a_decision_is_for() -> None:
    shown = {
        pages.codes(action)[0]: when
        for action, _, when in pages.rows("integrate.md", "`action` | what your display does")
    }
    given = {act(level, kind, audit=audit) for kind, level, audit in product(ACTIONS, get_args(Tier), (True, False))}
    assert set(shown) == given
    assert f"{Policy().audit_rate:.0%}".replace("%", " %") in shown["review"]


CLASSES: dict[str, list[Reason | None]] = {
    "none": [None],
    "any": [None, "content", "context"],
    "against the content": ["content"],
    "against the context": ["context"],
}
EDITS = {
    "none": [None],
    "any": [None, True, False],
    "keeps numbers, units, frequencies, comparisons, drugs, negations, and their order": [False],
    "keeps all of them": [False],
    "changes one of them": [True],
}


@pytest.mark.parametrize("row", pages.rows("integrate.md", "`action` | `reason_code`"), ids=" ".join)
def test_what_feedback_says(row: list[str]) -> None:
    said, reason, edit, rejected, depth, counts = row
    weight = 1.0 if counts == "yes" else 0.0
    for action, class_, changed in product(pages.codes(said), CLASSES[reason], EDITS[edit]):
        assert verdict(action, reason=class_, edit_changed=changed) == Verdict(rejected == "yes", depth, weight)


def test_what_the_gateway_answers_when_it_has_no_decision() -> None:
    letter = DeadLetter(
        source_topic="responses", partition=0, offset=0, stage="score", code="id_reused", detail="", digest="",
        size_bytes=0,
    )  # fmt: skip
    kinds = [Invalid(), Oversized(), HTTPUnauthorized(), HTTPNotFound(), HTTPMethodNotAllowed("GET", ["POST"])]
    kinds += [
        HTTPUnsupportedMediaType(),
        HTTPExpectationFailed(),
        HTTPMisdirectedRequest(),
        SetAside(letter),
        Stale(),
        DeliveryError(),
        Busy(),
        TimeoutError(),
        ArithmeticError(),
    ]
    told: dict[int, set[str]] = {}
    for status, code, _ in map(_described, kinds):
        told.setdefault(status, set()).add(code)
    table = [(map(int, s.split(", ")), set(pages.codes(code))) for s, code, *_ in pages.rows("integrate.md", "status")]
    shown = {status: codes for statuses, codes in table for status in statuses}
    assert shown.keys() == told.keys()
    for status, codes in shown.items():
        assert not codes or codes == told[status]


def test_the_feedback_of_cds_hooks_counts_as_the_page_says() -> None:
    [told] = cds_hooks.feedback(one("integrate.md", "jsonc").encode())
    assert isinstance(told, Feedback)
    assert (told.action, told.clinician, told.reason_code) == ("disagreed", "dr-417", "recipient-concerns-outcomes")


def test_every_reason_code_is_named_with_its_class() -> None:
    said = " ".join(pages.text("integrate.md").split())
    content, context = re.findall(r"gainst the (?:content|context): (.*?)\. ", said)
    assert dict.fromkeys(pages.codes(content), "content") | dict.fromkeys(pages.codes(context), "context") == REASONS


class Naming:
    """Tells what is taken of an event."""

    def __getattr__(self, name: str) -> str:
        return name


def test_the_table_of_topics() -> None:
    rows = {pages.codes(row[0])[0]: row[1:] for row in pages.rows("integrate.md", "topic")}
    topics = plan(Settings(), changelogs(Settings()))
    assert {*rows, *changelogs(Settings())} == {topic.name for topic in topics}
    inputs = {"responses": "conversation_id", "feedback": "response_id"}
    keys = inputs | {name: key(Naming()) for name, key in KEYS.items()}
    for topic in topics:
        if topic.name in rows:
            writer, readers, key, kept = rows[topic.name]
            assert pages.codes(key) == [keys[topic.name]]
            assert kept == (f"{topic.retention.days} days" if topic.retention else "newest per key")
            found = {stage for stage in readers.split(", ") if stage in STAGES}
            assert found == {*READERS.get(topic.name, ("score", "learn") if topic.retention is None else ())}
            assert ("your gateway" in writer) == (topic.name in WRITTEN_BY_OTHERS)


def test_the_rights_of_a_stage_are_what_it_reads_and_writes() -> None:
    topics = {pages.codes(row[0])[0]: row[1] for row in pages.rows("integrate.md", "topic")}
    for stage, reads, writes, group in pages.rows("settings.md", "stage"):
        own = f"demur-{stage}-state-changelog"
        calibrations = {"calibrations"} if stage in {"score", "learn"} else set()
        assert set(pages.codes(reads)) == {*INPUTS[stage], *calibrations, own}
        assert set(pages.codes(writes)) == {own} | {name for name, who in topics.items() if stage in who.split(", ")}
        assert pages.codes(group) == [f"demur-{stage}"]
    assert [row[0] for row in pages.rows("settings.md", "stage")] == list(STAGES)


def test_the_broker_keeps_places_and_states() -> None:
    rows = pages.rows("settings.md", "setting of Kafka")
    values = {pages.codes(name)[0]: value for name, value, _ in rows if pages.codes(name)}
    assert values["offsets.retention.minutes"] == f"{RECORD_RETENTION.total_seconds() / 60:.0f} or more"
    assert values["max.message.bytes"] == str(MAX_STATE_BYTES)
    assert values["delete.retention.ms"] == f"{TOMBSTONE_RETENTION.total_seconds() * 1000:.0f} or more"


def test_a_record_signed_as_the_page_says_is_accepted() -> None:
    keys, told = Keys.read(loads(one("integrate.md", "toml"))), dict[str, Any]()
    exec(one("integrate.md", "python"), told)
    secret = loads(one("integrate.md", "toml"))["gateway"]["secret"]
    record = Signed("responses", b"conv-1", b"resp-1", b"{}")
    headers = {"ce_keyid": b"gateway", "ce_signature": told["signature"](secret, *record)}
    assert keys.signature_error(record, headers) is None
    assert keys.signature_error(record._replace(value=b"[]"), headers) is not None


def by_warm(policy: Policy) -> Decision:
    """What becomes of a response of little risk where the calibrator is warm."""
    asked = decode(Response, pages.fenced("integrate.md", "json")[0].encode())
    known = Calibration(
        deployment="ward-assistant", version=9000, basis=policy.basis, parameters={}, labels=9000, missing_labels=0,
        cause="labels", as_of=asked.occurred_at,
    )  # fmt: skip
    by = Calibrated(known, Filter().thresholds())
    context = DecisionContext(msgspec.structs.replace(policy, audit_rate=0.0), "m", b"", known.as_of)
    return decide(asked, Score(-6.0, truncated=False, unknown=0.0), by, History(), context)


def test_the_way_to_no_green_at_all_works_on_a_calibrator_that_is_warm() -> None:
    assert by_warm(Policy()).tier == "green"
    assert by_warm(Policies.read(loads(one("runbook.md", "toml"))).default).tier == "yellow"


def test_a_deployment_that_a_strict_file_does_not_name_is_never_shown() -> None:
    _, strict = pages.fenced("settings.md", "toml")
    policies = Policies.read(loads(strict))
    assert policies.of("icu") == Policy()
    found = by_warm(policies.of("ICU"))
    assert (found.tier, found.action) == ("yellow", "withhold")


def test_what_a_swap_of_the_model_costs() -> None:
    cost = f"about {MIN_LABELS + Policy().warm_up_labels} labels"
    assert cost in pages.text("train.md")
    assert cost in pages.text("settings.md")
    assert f"until {MIN_LABELS} responses of the new model were judged" in pages.text("train.md")
    assert f"the new model's {MIN_LABELS}th label" in pages.text("runbook.md")


def named(page: str, head: str) -> set[str]:
    """What the first cells of a table of the runbook explain; each has an anchor of that name."""
    found = [pages.codes(row[0])[0] for row in pages.rows(page, head)]
    anchors = [re.findall(r'<a id="([^"]+)"></a>', row[0]) for row in pages.rows(page, head)]
    assert anchors == [[name.partition(" ")[0].lower()] for name in found]
    assert all(len(row) == 4 and row[1] and row[3] for row in pages.rows(page, head))
    return set(found)


def calls(tree: ast.AST, name: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == name
    ]


def words(node: ast.AST) -> str:
    """The text of a string, up to what is filled in."""
    found = node.values[0] if isinstance(node, ast.JoinedStr) else node
    assert isinstance(found, ast.Constant)
    return str(found.value).partition(":")[0]


def test_every_kind_of_alarm_has_its_row() -> None:
    """A kind is given as `kind="..."`, or as what an argument or field `kind` may be; WATCH names its shares."""
    kinds = set(Watch(Policies()).create("d").show()[0]["shares"])
    for node in (node for tree in pages.trees("models/calibration", "models/monitors") for node in ast.walk(tree)):
        if isinstance(node, ast.keyword) and node.arg == "kind" and isinstance(node.value, ast.Constant):
            kinds.add(node.value.value)
        if "kind" in {getattr(node, "arg", ""), getattr(getattr(node, "target", None), "id", "")}:
            choices = list(ast.walk(node.annotation)) if getattr(node, "annotation", None) else []
            kinds |= {part.value for part in choices if isinstance(part, ast.Constant)}
    assert named("runbook.md", "kind") == kinds - {*get_args(get_type_hints(Label)["kind"])}


def test_every_reason_has_its_row() -> None:
    given = set()
    doubts = ("valid", "truncated", "in_distribution", "same_model", "same_basis", "calibrated", "on_time")
    for upper, doubt in product((None, 0.01, 0.1, 0.5), (*doubts, "missing_labels", "calibration_age_s", None)):
        wrong = {"missing_labels": 1, "calibration_age_s": 1e9, "truncated": True}.get(doubt or "", False)
        given |= {*tier(Facts(upper=upper, **({doubt: wrong} if doubt else {})), Policy())[1]}
    failures = {words(call.args[0]) for tree in pages.trees("models", "streams") for call in calls(tree, "Failed")}
    assert named("runbook.md", "reason") == {reason.partition(":")[0] for reason in given} | failures


def test_every_doubt_is_among_the_facts() -> None:
    """So that a new one cannot be left out above."""
    known = {"upper", "valid", "truncated", "in_distribution", "same_model", "same_basis", "calibrated", "on_time"}
    assert set(Facts.__struct_fields__) == known | {"missing_labels", "calibration_age_s"}


def errors(of: type[EventError]) -> set[type[EventError]]:
    return {of}.union(*(errors(kind) for kind in of.__subclasses__()))


def test_every_code_of_a_dead_letter_has_its_row() -> None:
    codes = {kind.code for kind in errors(EventError) if kind.__module__.startswith(("models.", "streams."))}
    assert named("runbook.md", "code") == codes


def test_every_health_check_has_its_row() -> None:
    built = [call.args[1] for tree in pages.trees("streams/stages.py") for call in calls(tree, "Built")]
    built += [call.args[0] for tree in pages.trees("streams/gateway.py") for call in calls(tree, "Health")]
    checks = {words(key) for found in built for key in getattr(found, "keys", ())}
    assert {name.partition(" ")[0] for name in named("runbook.md", "check")} == checks | {"stage"}


def test_what_the_runbook_explains_of_the_log_is_logged() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (pages.ROOT / "streams").rglob("*.py"))
    assert all(pages.codes(row[0])[0] in source for row in pages.rows("runbook.md", "log of a worker"))


def commands() -> list[tuple[str, str]]:
    """Every command of demur on the pages: in blocks for a shell, and between backticks."""
    blocks = [(page, line) for page in PAGES for block in pages.fenced(page, "sh") for line in block.splitlines()]
    inline = [(page, code) for page in PAGES for code in pages.codes(pages.text(page)) if code.startswith("demur ")]
    return sorted({(page, line) for page, line in (*blocks, *inline) if re.search(r"(^| )demur ", line)})


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_exists_with_its_options(page: str, line: str) -> None:
    parts = shlex.split(line, comments=True)
    settings = [part.partition("=")[0] for part in parts[: parts.index("demur")]]
    assert {name.removeprefix("DEMUR_").lower() for name in settings} <= set(Settings.model_fields)
    found: Any = typer.main.get_command(app)
    for part in parts[parts.index("demur") + 1 :]:
        if hasattr(found, "commands"):
            found = found.commands[part]
        elif part.startswith("--"):
            assert part in {name for option in found.params for name in option.opts}


def test_a_table_of_verdicts_becomes_files_that_train(tmp_path: Path) -> None:
    lines = [f'a{n},"How, {n // 2}?","Like ""so"" {n}",{n % 2},dr-{n % 3},,dosing' for n in range(100)]
    (tmp_path / "past.csv").write_text("\n".join(["id,query,response,label,rater,depth,category", *lines]))
    subprocess.run([sys.executable, "-P", "-c", one("train.md", "python")], cwd=tmp_path, check=True)
    train, test = (read(tmp_path / f"{side}.jsonl") for side in ("train", "test"))
    assert len(train) + len(test) == 100
    assert 5 < len(test) < 40
    assert {one.event.query for one in train}.isdisjoint(one.event.query for one in test)
    assert {one.rater for one in test} <= {"dr-0", "dr-1", "dr-2"}


def test_the_judged_answers_of_the_page_are_read(tmp_path: Path) -> None:
    (tmp_path / "file.jsonl").write_text(one("train.md", "jsonl"))
    first, second = read(tmp_path / "file.jsonl")
    assert (first.rejected, second.rejected, second.depth) == (False, True, "deep")


def headings(page: Path) -> set[str]:
    said = page.read_text(encoding="utf-8")
    slugs = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", said, re.MULTILINE)
    }
    return slugs | set(re.findall(r'<a id="([^"]+)">', said))


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", *(f"docs/{page}" for page in PAGES)])
def test_every_link_leads_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", (pages.ROOT / page).read_text(encoding="utf-8")):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            there = (pages.ROOT / page).parent / path if path else pages.ROOT / page
            assert there.exists(), link
            assert not anchor or anchor in headings(there), link
