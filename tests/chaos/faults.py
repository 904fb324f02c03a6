"""What is done to the stream. A fault strikes once and returns when it is healed, but for what heals by itself."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

from streams.settings import Stage
from tests.apache_kafka import ApacheKafka
from tests.chaos.company import Company, Member
from tests.chaos.proxy import Proxy

LEAN: tuple[Stage, ...] = ("join", "learn", "watch")


class Scene(NamedTuple):
    """What a fault may touch."""

    company: Company
    kafka: ApacheKafka
    proxy: Proxy
    disk: Path | None
    """A small file system that holds the workers' state, where one can be mounted."""
    rng: Random

    def someone(self) -> Member:
        """Return any worker."""
        return self.rng.choice(self.company.members)


def kill_worker(scene: Scene) -> None:
    """`kill -9` of a worker."""
    scene.someone().signal(signal.SIGKILL)


def kill_worker_twice(scene: Scene) -> None:
    """`kill -9`, and again while its successor recovers."""
    member = scene.someone()
    member.signal(signal.SIGKILL)
    time.sleep(scene.rng.uniform(0.5, 4.0))
    member.tend()
    member.signal(signal.SIGKILL)


def stop_worker(scene: Scene) -> None:
    """A graceful stop of a worker."""
    scene.someone().stop()


def restart_all(scene: Scene) -> None:
    """A rolling restart: each is stopped gracefully, and the next once its successor is ready."""
    for member in scene.company.members:
        member.stop()
        member.await_ready()


def pause_worker(scene: Scene) -> None:
    """SIGSTOP of a worker for longer than its session: it wakes up when its partitions are another's."""
    member = scene.someone()
    member.signal(signal.SIGSTOP)
    time.sleep(1.5 * member.settings.session_timeout_s)
    member.signal(signal.SIGCONT)


def wrong_clock(scene: Scene) -> None:
    """The clocks of all workers are 400 days ahead for some seconds. Runs live, on events dated as they are sent."""
    for wait_s in (4.0, 0.0):
        for member in scene.company.members:
            member.signal(signal.SIGUSR1)
        time.sleep(wait_s)


def rebalance_storm(scene: Scene) -> None:
    """A worker joins and leaves, three times, five seconds apart."""
    for _ in range(3):
        with scene.company.one_more(LEAN):
            time.sleep(2.5)
        time.sleep(2.5)


def kill_broker(scene: Scene) -> None:
    """`kill -9` of the broker, which comes back on the same log."""
    scene.kafka.restart()


def pause_broker(scene: Scene) -> None:
    """SIGSTOP of the broker: connections stay open and nothing answers."""
    with scene.kafka.paused():
        time.sleep(5.0)


def cut_network(scene: Scene) -> None:
    """Every connection to the broker is cut, and none is taken for a while."""
    with scene.proxy.cut():
        time.sleep(4.0)


def delay_network(scene: Scene) -> None:
    """Every chunk to and from the broker takes its time."""
    with scene.proxy.delayed(0.3):
        time.sleep(6.0)


def fill_disk(scene: Scene) -> None:
    """The file system that holds the workers' state is full; then someone makes room."""
    assert scene.disk
    ballast = scene.disk / "ballast"
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={ballast}", "bs=1M"], check=False, capture_output=True
    )  # until it is full
    scene.someone().signal(signal.SIGKILL)  # its successor opens its state on a full disk
    time.sleep(6.0)
    os.truncate(ballast, 0)


FAULTS: dict[str, Callable[[Scene], None]] = {
    f.__name__: f
    for f in (
        kill_worker,
        kill_worker_twice,
        stop_worker,
        restart_all,
        pause_worker,
        wrong_clock,
        rebalance_storm,
        kill_broker,
        pause_broker,
        cut_network,
        delay_network,
        fill_disk,
    )
}
