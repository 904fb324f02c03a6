"""Workers in processes of their own, kept alive as a supervisor would: whoever ends is started again."""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from streams.broker import Child, free_port
from streams.drive import await_ready
from streams.settings import Settings, Stage
from tests.wrong_clock import launch

LOOK_S = 0.1
GRACE_S = 30.0


class Member:
    """One worker's place: its settings and whoever holds it now."""

    def __init__(self, settings: Settings, folder: Path, stages: tuple[Stage, ...]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        own = {"stages": stages, "http_port": free_port(), "data_dir": folder / "data"}
        self.settings = settings.model_copy(update=own)
        self.log = folder / "worker.log"
        self.child: Child | None = None
        self.wanted = True
        self._tending = threading.Lock()

    def tend(self) -> None:
        """Start it if it should run and does not."""
        with self._tending:  # the supervisor does so too
            if self.wanted and not (self.child and self.child.running):
                self.child = launch(self.settings, self.log)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.child
        self.child.signal(number)

    def stop(self) -> None:
        """Stop gracefully; the company starts it again if it is wanted."""
        assert self.child
        self.child.end(grace_s=GRACE_S)

    def await_ready(self) -> None:
        """Wait until it says that it is ready, whoever it is by then."""
        self.tend()
        assert self.child
        await_ready(self.child, self.settings)


class Company:
    """All workers of an installation."""

    def __init__(self, settings: Settings, folder: Path, places: Sequence[tuple[Stage, ...]]) -> None:
        self.members = [Member(settings, folder / f"worker-{n}", stages) for n, stages in enumerate(places)]
        self._settings, self._folder = settings, folder
        self._closing = threading.Event()

    @contextmanager
    def at_work(self) -> Iterator["Company"]:
        """Start everybody, look after them, and stop them at the end."""
        keeper = threading.Thread(target=self._keep, name="supervisor", daemon=True)
        keeper.start()
        try:
            for member in self.members:
                member.await_ready()
            yield self
        finally:
            self._closing.set()
            keeper.join()
            for member in self.members:
                member.wanted = False
                member.signal(signal.SIGCONT)
                member.stop()

    @contextmanager
    def one_more(self, stages: tuple[Stage, ...]) -> Iterator[Member]:
        """Let another worker join, and leave gracefully."""
        member = Member(self._settings, self._folder / f"guest-{time.monotonic_ns()}", stages)
        member.await_ready()
        try:
            yield member
        finally:
            member.stop()

    def _keep(self) -> None:
        while not self._closing.wait(LOOK_S):
            for member in self.members:
                member.tend()
