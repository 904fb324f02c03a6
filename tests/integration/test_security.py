"""TLS, mutual TLS, SCRAM and least privilege on Apache Kafka: what the settings promise is what goes over the wire."""

import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from string import Template
from typing import NamedTuple

import aiokafka
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType
from kafka.admin import ACLResourcePatternType as PatternType

from models.errors import DemurError, SettingsError
from models.events import Decision, decode, encode
from streams.broker import HOST, Child, free_port
from streams.clock import WallClock
from streams.connection import kafka_options
from streams.drive import launch
from streams.logbook import instructing
from streams.reading import read_all
from streams.settings import STAGES, Settings, load
from streams.stages import changelogs
from streams.topics import create, describe
from tests import pages
from tests.apache_kafka import apache_kafka
from tests.stagecraft import feedback
from tests.unit.test_control import order as an_order
from tests.unit.test_score import response

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.skipif(not shutil.which("openssl"), reason="makes its certificate with openssl"),
]

SECURED = Template("""
listeners=PLAINTEXT://$host:$port,CONTROLLER://$host:$controller,SECURED://$host:$secured,MUTUAL://$host:$mutual
advertised.listeners=PLAINTEXT://$host:$port,SECURED://$host:$secured,MUTUAL://$host:$mutual
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURED:SASL_SSL,MUTUAL:SSL
ssl.keystore.type=PEM
ssl.keystore.location=$keystore
listener.name.mutual.ssl.client.auth=required
listener.name.mutual.ssl.truststore.type=PEM
listener.name.mutual.ssl.truststore.location=$trusted
listener.name.secured.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.secured.scram-sha-512.sasl.jaas.config=$module required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:administrator
""")
MODULE = "org.apache.kafka.common.security.scram.ScramLoginModule"


class Secured(NamedTuple):
    """A broker that speaks SASL_SSL to users, TLS to `CN=device`, and plain text to the test itself."""

    plain: str
    bootstrap: str
    mutual: str
    folder: Path

    @property
    def cafile(self) -> Path:
        return self.folder / "broker.pem"

    def settings(self, user: str, password: str = "s3cret", **others: object) -> Settings:
        return load(bootstrap=self.bootstrap, cafile=self.cafile, username=user, password=password, **others)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    certify(folder, "broker", "localhost")
    certify(folder, "device", "device")
    keystore = folder / "keystore.pem"
    keystore.write_text((folder / "broker.key").read_text() + (folder / "broker.pem").read_text())
    port, mutual = free_port(), free_port()
    properties = SECURED.safe_substitute(
        secured=port, mutual=mutual, keystore=keystore, trusted=folder / "device.pem", module=MODULE
    )
    names = ("administrator", "worker", "gateway", "display", *STAGES)
    users = [f"SCRAM-SHA-512=[name={name},password=s3cret]" for name in names]
    formatting = [part for user in users for part in ("--add-scram", user)]
    with apache_kafka(folder, properties, formatting) as kafka:
        yield Secured(kafka.bootstrap, f"{HOST}:{port}", f"{HOST}:{mutual}", folder)


def order(settings: Settings) -> tuple[int, int]:
    with instructing(settings) as instruct:
        return instruct(an_order("release"))


def certify(folder: Path, name: str, subject: str) -> None:
    """Make a key and a certificate that signs itself."""
    names = ["-subj", f"/CN={subject}", "-addext", f"subjectAltName=IP:{HOST}"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *names]
    files = ["-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"]
    subprocess.run([*make, *files], check=True, capture_output=True)


def grant(
    secured: Secured,
    user: str,
    *operations: ACLOperation,
    kind: ResourceType = ResourceType.TOPIC,
    on: Iterable[str] = ("*",),
) -> None:
    what = [ResourcePattern(kind, name, PatternType.LITERAL) for name in on]
    rules = [
        ACL(f"User:{user}", "*", operation, ACLPermissionType.ALLOW, one) for operation in operations for one in what
    ]
    with closing(KafkaAdminClient(bootstrap_servers=secured.plain)) as admin:
        admin.create_acls(rules)


def test_the_administrator_creates_and_a_worker_needs_no_such_permission(secured: Secured) -> None:
    worker = secured.settings("worker", topic_prefix="least-")
    grant(secured, "worker", ACLOperation.READ, ACLOperation.WRITE, ACLOperation.DESCRIBE_CONFIGS)
    with pytest.raises(DemurError, match=r"could not be created: Authorization failed"):
        create(worker)
    create(secured.settings("administrator", topic_prefix="least-"))
    assert {found.partitions for found in describe(worker)} == {4}
    assert read_all(worker, "decisions") == []


def test_a_whole_worker_needs_no_more_than_that(secured: Secured, tmp_path: Path) -> None:
    own = {"topic_prefix": "worker-", "stages": ("join",), "http_port": free_port(), "data_dir": tmp_path}
    settings = secured.settings("worker", **own)
    create(secured.settings("administrator", **own), changelogs(settings))
    grant(secured, "worker", ACLOperation.READ, ACLOperation.WRITE, ACLOperation.DESCRIBE_CONFIGS)
    grant(secured, "worker", ACLOperation.READ, kind=ResourceType.GROUP)
    worker = launch(settings, tmp_path / "log")
    try:
        with closing(KafkaProducer(**kafka_options(settings))) as producer:
            producer.send("worker-feedback", b"no event").get(10)
        assert await_one(settings, "dead-letters", worker)
    finally:
        worker.end(grace_s=20)
    assert "s3cret" not in worker.log.read_text()


def await_one(settings: Settings, topic: str, worker: Child) -> bytes:
    for _ in range(200):
        if records := read_all(settings, topic):
            return records[0].value
        assert worker.running, worker.last_words()
        time.sleep(0.3)
    raise AssertionError(worker.last_words())


def test_each_stage_works_with_the_rights_on_the_page(secured: Secured, tmp_path: Path, tiny_model: Path) -> None:
    """Each as a user of its own: a response of the gateway is decided on, and its feedback becomes a version."""
    prefix, now = "page-", WallClock().now()
    administrator = secured.settings("administrator", topic_prefix=prefix)
    every = create(administrator, changelogs(administrator))
    for stage, *rights in pages.rows("settings.md", "stage"):
        reads, writes, groups = ([prefix + name for name in pages.codes(right)] for right in rights)
        grant(secured, stage, ACLOperation.READ, on=reads)
        grant(secured, stage, ACLOperation.WRITE, on=writes)
        grant(secured, stage, ACLOperation.READ, on=groups, kind=ResourceType.GROUP)
        grant(secured, stage, ACLOperation.DESCRIBE, ACLOperation.DESCRIBE_CONFIGS, on=every)
    grant(secured, "gateway", ACLOperation.WRITE, on=[f"{prefix}responses", f"{prefix}feedback"])
    grant(secured, "display", ACLOperation.READ, on=[f"{prefix}decisions"])
    grant(secured, "display", ACLOperation.READ, on=["display"], kind=ResourceType.GROUP)
    asked, told = response("r1", occurred_at=now), feedback("f1", "r1", occurred_at=now)
    workers = [launch(_alone(secured, stage, tmp_path, tiny_model), tmp_path / f"{stage}.log") for stage in STAGES]
    try:
        with closing(KafkaProducer(**kafka_options(secured.settings("gateway")))) as gateway:
            gateway.send(f"{prefix}responses", key=asked.conversation_id.encode(), value=encode(asked)).get(10)
            await_one(administrator, "decisions", workers[0])
            gateway.send(f"{prefix}feedback", key=b"r1", value=encode(told)).get(10)
        for topic, worker in zip(("outcomes", "calibrations", "demur-watch-state-changelog"), workers[1:], strict=True):
            await_one(administrator, topic, worker)
    finally:
        for worker in workers:
            worker.end(grace_s=20)
    how = {"group_id": "display", "auto_offset_reset": "earliest", **kafka_options(secured.settings("display"))}
    with closing(KafkaConsumer(f"{prefix}decisions", **how, consumer_timeout_ms=60_000)) as display:
        assert decode(Decision, next(display).value).response_id == "r1"


def _alone(secured: Secured, stage: str, folder: Path, model: Path) -> Settings:
    own = {"stages": (stage,), "http_port": free_port(), "data_dir": folder / stage, "model": str(model)}
    return secured.settings(stage, topic_prefix="page-", settle_s=0.1, **own)


async def test_the_stream_s_own_client_takes_the_same_options(secured: Secured) -> None:
    settings = secured.settings("administrator", topic_prefix="async-")
    create(settings)
    producer = aiokafka.AIOKafkaProducer(**kafka_options(settings))
    await producer.start()
    await producer.send_and_wait("async-alarms", b"over TLS")
    await producer.stop()
    assert [record.value for record in read_all(settings, "alarms")] == [b"over TLS"]


async def test_a_certificate_of_ours_is_known_to_the_broker_by_its_name(secured: Secured) -> None:
    grant(secured, "CN=device", ACLOperation.READ, ACLOperation.WRITE, ACLOperation.DESCRIBE_CONFIGS)
    files = {"certfile": secured.folder / "device.pem", "keyfile": secured.folder / "device.key"}
    device = load(bootstrap=secured.mutual, topic_prefix="mutual-", cafile=secured.cafile, **files)
    with pytest.raises(DemurError, match="Authorization failed"):
        create(device)
    create(secured.settings("administrator", topic_prefix="mutual-"))
    async with aiokafka.AIOKafkaProducer(**kafka_options(device)) as producer:
        await producer.send_and_wait("mutual-alarms", b"from a device")
    assert [record.value for record in read_all(device, "alarms")] == [b"from a device"]


def test_without_a_certificate_a_broker_that_wants_one_is_refused_in_one_sentence(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.topics.CONNECT_MS", 1000)
    with pytest.raises(SettingsError, match=r"does it want a certificate \(DEMUR_CERTFILE\)"):
        describe(load(bootstrap=secured.mutual, cafile=secured.cafile))


def test_a_wrong_password_is_one_clear_sentence_without_it(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.topics.CONNECT_MS", 1000)
    with pytest.raises(SettingsError, match=r"DEMUR_USERNAME, DEMUR_PASSWORD: refused") as caught:
        describe(secured.settings("worker", "gu3ss"))
    assert "gu3ss" not in str(caught.value)


def test_a_broker_that_proves_itself_to_nobody_we_know_is_refused(secured: Secured) -> None:
    stranger = load(bootstrap=secured.bootstrap, tls=True, username="worker", password="s3cret")
    with pytest.raises(SettingsError, match=r"DEMUR_CAFILE: the certificate of .* is not trusted \(self-signed"):
        describe(stranger)


def test_tls_to_a_plain_port_and_plain_text_to_a_tls_port_are_told_apart(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.topics.CONNECT_MS", 1000)
    with pytest.raises(SettingsError, match=r"DEMUR_TLS: .* does not speak TLS"):
        describe(load(bootstrap=secured.plain, tls=True))
    with pytest.raises(SettingsError, match=r"does not answer as Kafka: does it want TLS"):
        describe(load(bootstrap=secured.bootstrap))


def test_a_right_that_is_missing_is_named(secured: Secured) -> None:
    create(secured.settings("administrator", topic_prefix="rights-"))
    with closing(KafkaProducer(bootstrap_servers=secured.plain)) as producer:
        producer.send("rights-labels", b"no label").get(10)
    grant(secured, "display", ACLOperation.DESCRIBE, on=["rights-labels"])
    with pytest.raises(SettingsError, match=r"the right Read on rights-labels: let it be granted"):
        read_all(secured.settings("display", topic_prefix="rights-"), "labels")
    grant(secured, "display", ACLOperation.READ, on=["rights-labels"])
    with pytest.raises(SettingsError, match=r"the right Write on rights-labels: let it be granted"):
        order(secured.settings("display", topic_prefix="rights-"))
