"""The commands as a user types them."""

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from models.events import Decision, decode, encode
from models.training import synth
from streams.settings import Settings, environment

COMMANDS = (
    "demo",
    "replay",
    "worker",
    "topics",
    "train",
    "evaluate",
    "synth",
    "score",
    "verify",
    "readiness",
    "policy",
    "calibrator",
    "report",
    "export",
)


def demur(*words: str, settings: Settings | None = None, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    where = environment(settings) if settings else None
    return subprocess.run(
        [sys.executable, "-P", "-m", "streams", *words], input=data, capture_output=True, env=where, check=False
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str) -> None:
    said = demur(command, "--help")
    assert said.returncode == 0
    assert b"Usage: " in said.stdout


def test_responses_are_scored_offline_by_the_same_code(tiny_model: Path) -> None:
    responses = synth.generate(synth.Config(responses=5)).responses
    lines = [encode(r) for r in responses] + [orjson.dumps({"response_id": "broken"})]
    said = demur("score", "--model", str(tiny_model), data=b"\n".join(lines))
    decisions = [decode(Decision, line) for line in said.stdout.splitlines()]
    assert [d.response_id for d in decisions] == [r.response_id for r in responses] + ["broken"]
    assert "green" not in {d.tier for d in decisions}  # no calibrations: nothing is promised
    assert decisions[-1].reasons == ("invalid_input", "invalid")


def test_a_week_is_made_and_a_model_measured_on_it(tiny_model: Path, tmp_path: Path) -> None:
    made = demur("synth", "--out", str(tmp_path / "week"), "--responses", "300", "--drift", "gradual", "--days", "2")
    assert made.returncode == 0
    out = tmp_path / "out.json"
    said = demur("evaluate", "--artifact", str(tiny_model), "--data", str(tmp_path / "week"), "--json", str(out))
    assert said.returncode == 0, said.stderr
    found = orjson.loads(out.read_bytes())
    for model in ("demur", "prior", "tfidf_overlap", "boosted_overlap"):
        assert {"auroc", "average_precision", "accuracy", "brier", "ece", "log_loss", "seconds"} <= found[model].keys()
        assert found[model]["intervals"]["brier"][0] <= found[model]["brier"]
    assert [row["tier"] for row in found["tiers"]] == ["green", "yellow", "red"]


@pytest.mark.parametrize("head", ["cross", "late"])
def test_any_checkpoint_is_trained_by_one_command_that_says_what_it_gains(
    tiny_model: Path, tmp_path: Path, head: str
) -> None:
    rows = [
        {"id": str(n), "query": f"Case {n}?", "response": ("Yes.", "Never.")[n % 2], "label": n % 2} for n in range(80)
    ]
    (tmp_path / "data.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    data, out = str(tmp_path / "data.jsonl"), tmp_path / "out"
    said = demur("train", "--data", data, "--encoder", str(tiny_model), "--head", head, "--out", str(out))
    assert said.returncode == 0, said.stderr
    assert b"so the model gains" in said.stdout
    card = orjson.loads((out / "rpm.json").read_bytes())
    assert card["kind"] == head
    assert {"post_response", "pre_response", "truncated"} == card["metrics"].keys()


def test_readiness_reads_a_label_log(tmp_path: Path) -> None:
    scored = {"conversation_id": "v", "turn": 0, "groups": {}, "logit": 0.0, "risk": 0.1, "upper": 0.1, "tier": "green",
              "action": "show", "audit": False, "propensity": 1.0, "calibrator_version": 0,
              "occurred_at": "2026-01-05T00:00:00Z"}  # fmt: skip
    label = {"type": "label", "label_id": "l", "feedback_id": "f", "response_id": "r", "deployment": "d",
             "clinician": "c", "action": "accepted", "rejected": False, "depth": "none", "weight": 1.0, "delay_s": 1.0,
             "occurred_at": "2026-01-05T00:00:00Z", "decision": scored}  # fmt: skip
    labels = tmp_path / "labels.jsonl"
    other = {**label, "label_id": "o", "deployment": "e", "rejected": True}
    labels.write_bytes(b"\n".join(map(orjson.dumps, [label, {**label, "label_id": "m"}, label, other])))
    asked = ("readiness", "--labels", str(labels), "--within", "0.05", "--json", str(tmp_path / "out.json"))
    for words, count, rate in ((("--deployment", "d"), 2, 0.0), ((), 3, 1 / 3)):
        said = demur(*asked, *words)
        assert said.returncode == 0, said.stderr
        found = orjson.loads((tmp_path / "out.json").read_bytes())
        green, yellow, _ = found["tiers"]
        assert (found["labels"], green["labels"], green["rate"], yellow["rate"]) == (count, count, rate, None)
        assert green["missing"] > 100
    [row] = [line for line in said.stdout.splitlines() if b"yellow" in line]
    assert b"0.000" not in row
    said = demur(*asked, "--deployment", "f")
    assert (said.returncode, said.stderr) == (2, f"demur: {labels} holds no labels of deployment f\n".encode())


def test_topics_are_created_once_and_shown(settings: Settings) -> None:
    first, second = (demur("topics", settings=settings) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0)
    assert first.stdout.count(b"(new)") == 14
    assert second.stdout.count(b"(new)") == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["worker", "--stages", "judge"], b"DEMUR_STAGES"),
        (["worker", "--config", "absent.toml"], b"no settings file absent.toml"),
        (["replay", "--responses", "absent.jsonl", "--model", "absent"], b"'absent.jsonl' does not exist"),
        (["score", "--model", "absent-folder"], b"model 'absent-folder' cannot be loaded"),
        (["train", "--out", "x", "--head", "late"], b"--head late needs --encoder"),
        (["readiness", "--labels", "absent.jsonl"], b"absent.jsonl cannot be read"),
        (["evaluate", "--artifact", "a", "--data", "/dev/null", "--train", "/dev/null"], b"--train: no judged"),
    ],
)
def test_a_wrong_setting_ends_with_one_sentence(tmp_path: Path, words: list[str], sentence: bytes) -> None:
    said = demur(*words)
    assert said.returncode in {1, 2}
    assert sentence in said.stderr
    assert b"Traceback" not in said.stderr


def test_no_broker_and_bad_cuts_stop_the_start(settings: Settings, tmp_path: Path) -> None:
    nowhere = settings.model_copy(update={"bootstrap": "127.0.0.1:1"})
    assert b"DEMUR_BOOTSTRAP: no broker listens at 127.0.0.1:1" in demur("worker", settings=nowhere).stderr
    policy = tmp_path / "policy.toml"
    policy.write_text("green = 0.3\n")
    bad = settings.model_copy(update={"policy": policy, "stages": ("learn",), "create_topics": True})
    assert b"`green` is 0.3 and `red` is 0.2" in demur("worker", settings=bad).stderr
