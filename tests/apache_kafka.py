"""Apache Kafka itself for tests: one KRaft process on loopback, from Maven artifacts, to be killed and brought back.

It needs Java 17 or newer and Maven; `missing` says which are not there.
"""

import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import Final

from models.errors import DemurError
from streams.broker import HOST, Child, free_port, wait_until_ready

VERSION: Final = "4.3.1"  # as in docker-compose.yml
START_S: Final = 60.0
CACHE: Final = Path(__file__).parent.parent / ".cache"

POM: Final = Template("""<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion><groupId>local</groupId><artifactId>broker</artifactId><version>1</version>
<dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$version</version></dependency>
<dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.4</version>
</dependency>
</dependencies></project>
""")
"""The second artifact makes the broker's log appear at all."""

PROPERTIES: Final = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@$host:$controller
listeners=PLAINTEXT://$host:$port,CONTROLLER://$host:$controller
advertised.listeners=PLAINTEXT://$host:$port
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.cleaner.backoff.ms=500
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
num.network.threads=2
num.io.threads=2
"""
"""One replica of everything; no waiting for more group members; short session timeouts. A broker that was killed may
register again when its old session has run out: 3 s, not 9."""

LOGGING: Final = """
appenders=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d %p %c %m%n
rootLogger.level=WARN
rootLogger.appenderRefs=console
rootLogger.appenderRef.console.ref=console
"""


class ApacheKafka:
    """A broker with data of its own, which outlives its process but not the object."""

    def __init__(self, directory: Path, properties: str = "", formatting: Sequence[str] = ()) -> None:
        """Lay out configuration and storage in `directory`. Raises `DemurError` if a part cannot be had.

        `properties` follow ours, with the same $names, and win; `formatting` are options of `kafka-storage format`.
        """
        self._directory = directory
        self._logging, self._properties = directory / "log4j2.properties", directory / "server.properties"
        self._classpath = f"{fetched()}/*"
        self.bootstrap = f"{HOST}:{free_port()}"
        self._child: Child | None = None
        self._configure(properties)
        self._format(formatting)

    def start(self) -> None:
        """Start and wait until it answers."""
        self._child = self._java("kafka.Kafka", str(self._properties))
        wait_until_ready(self._child, self.bootstrap, START_S)

    def kill(self) -> None:
        """`kill -9`."""
        assert self._child
        self._child.end()

    def stop(self) -> None:
        """Shut down in order, with ten seconds of grace."""
        assert self._child
        self._child.end(grace_s=10)

    def restart(self) -> None:
        """`kill -9`, then start on the same data and port."""
        self.kill()
        self.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hold the process (SIGSTOP): connections stay open and nothing answers."""
        assert self._child
        self._child.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._child.signal(signal.SIGCONT)

    def _configure(self, properties: str) -> None:
        self._logging.write_text(LOGGING)
        _, port = self.bootstrap.split(":")
        text = Template(PROPERTIES + properties)
        data = self._directory / "data"
        self._properties.write_text(text.substitute(host=HOST, port=port, controller=free_port(), data=data))

    def _format(self, options: Sequence[str]) -> None:
        cluster = uuid.uuid4().hex[:22]
        storage = ("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._properties), *options)
        self._java(*storage).wait(START_S)

    def _java(self, *arguments: str) -> Child:
        """A small heap and the quick compiler only: tests are short."""
        options = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        logging = f"-Dlog4j2.configurationFile={self._logging}"
        return Child(["java", *options, logging, "-cp", self._classpath, *arguments], self._directory / "kafka.log")


@contextmanager
def apache_kafka(directory: Path, properties: str = "", formatting: Sequence[str] = ()) -> Iterator[ApacheKafka]:
    """Run Apache Kafka with everything it writes under `directory`."""
    kafka = ApacheKafka(directory, properties, formatting)
    kafka.start()
    try:
        yield kafka
    finally:
        kafka.kill()


def missing() -> list[str]:
    """Return the programs that Apache Kafka needs and this machine lacks."""
    return [program for program in ("java", "mvn") if not shutil.which(program)]


def fetched(version: str = VERSION) -> Path:
    """Return the folder of the broker's jars, from the cache or else from Maven."""
    jars = CACHE / f"kafka-{version}"
    if not jars.exists():
        with TemporaryDirectory(dir=_made(CACHE)) as scratch:
            _fetch(Path(scratch), version)
            with suppress(OSError):  # another process was first
                (Path(scratch) / "lib").rename(jars)
    return jars


def _fetch(project: Path, version: str) -> None:
    (project / "pom.xml").write_text(POM.substitute(version=version))
    command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemurError(f"Maven could not fetch Apache Kafka {version}: {done.stdout[-500:]}")


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder
