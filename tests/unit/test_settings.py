"""A wrong setting stops the start with one sentence that names it and the remedy, and shows no secret."""

import ssl
from pathlib import Path
from typing import Any

import pytest

from models.errors import SettingsError
from streams.connection import faust_credentials, kafka_options, ssl_context
from streams.settings import Settings, load
from streams.stages import digest_keys, keys_in, policies

FAR = "kafka.example.org:9093"
SALT = "k3y of thirty-two characters or more"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEMUR_BOOTSTRAP", raising=False)


def sentence(**arguments: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        load(**arguments)
    return str(caught.value)


def test_the_defaults_stand_alone() -> None:
    settings = load()
    assert (settings.bootstrap, settings.partitions, settings.stages) == (
        "127.0.0.1:9092",
        4,
        ("score", "join", "learn", "watch"),
    )


def test_arguments_win_over_the_environment_and_the_environment_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "demur.toml"
    file.write_text('partitions = 2\ndeadline_s = 3\nstages = ["join"]\nhorizon_s = 60\nsettle_s = 1')
    monkeypatch.setenv("DEMUR_PARTITIONS", "6")
    monkeypatch.setenv("DEMUR_STAGES", "score, learn")
    settings = load(file, deadline_s=1)
    assert (settings.partitions, settings.deadline_s, settings.stages) == (6, 1, ("score", "learn"))
    assert (settings.horizon_s, settings.settle_s) == (60, 1)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"partitions": 0}, "DEMUR_PARTITIONS: Input should be greater than or equal to 1"),
        ({"partitions": "many"}, "DEMUR_PARTITIONS: Input should be a valid integer"),
        ({"bootstrap": "kafka"}, "DEMUR_BOOTSTRAP: write host:port, several with commas: 127.0.0.1:9092"),
        ({"bootstrap": "kafka:99999"}, "DEMUR_BOOTSTRAP: write host:port"),
        ({"bootstrap": FAR}, "DEMUR_BOOTSTRAP: kafka.example.org is another machine and TLS is off: set DEMUR_CAFILE"),
        ({"bootstrap": f"127.0.0.1:9092,{FAR}"}, "kafka.example.org is another machine"),
        ({"bootstrap": FAR, "tls": True}, "DEMUR_SALIENCE_KEY: a broker on another machine holds digests of patients'"),
        ({"bootstrap": FAR, "tls": True, "salience_key": "none"}, "DEMUR_SALIENCE_KEY: a broker on another machine"),
        ({"salience_key": "k3y"}, "DEMUR_SALIENCE_KEY: give 32 characters or more of a good source, or `none`"),
        ({"salience_key": ""}, "DEMUR_SALIENCE_KEY: give 32 characters"),
        ({"salience_key_accepted": SALT}, "DEMUR_SALIENCE_KEY_ACCEPTED: is beside DEMUR_SALIENCE_KEY: set that one"),
        ({"salience_key": SALT, "salience_key_accepted": "k3y"}, "DEMUR_SALIENCE_KEY_ACCEPTED: give 32 characters"),
        ({"stages": "score,jion"}, "DEMUR_STAGES: Input should be 'score', 'join', 'learn' or 'watch'"),
        ({"stages": ()}, "DEMUR_STAGES: Value should have at least 1 item"),
        ({"store": "redis"}, "DEMUR_STORE: Input should be 'memory' or 'rocksdb'"),
        ({"topic_prefix": "a b"}, "DEMUR_TOPIC_PREFIX: String should match pattern"),
        ({"cafile": "/nowhere/ca.pem"}, "DEMUR_CAFILE: Path does not point to a file"),
        ({"policy": "/nowhere/policy.toml"}, "DEMUR_POLICY: Path does not point to a file"),
        ({"username": "u"}, "DEMUR_PASSWORD: a username is set without it"),
        ({"password": "s3cret"}, "DEMUR_USERNAME: a password is set without it"),
        ({"certfile": __file__, "tls": True}, "DEMUR_KEYFILE: mutual TLS needs both"),
        ({"keyfile": __file__}, "DEMUR_CERTFILE: mutual TLS needs both"),
        ({"settle_s": 700_000}, "DEMUR_SETTLE_S: must be shorter than DEMUR_HORIZON_S (604800)"),
        ({"horizon_s": 31 * 86_400}, "DEMUR_HORIZON_S: Input should be less than or equal to 2592000"),
        ({"partition": 3}, "DEMUR_PARTITION: there is no such setting; did you mean DEMUR_PARTITIONS?"),
        ({"partitions": 0, "store": "redis"}, "(and 1 more wrong settings)"),
        ({"file": Path("/nowhere.toml")}, "no settings file /nowhere.toml"),
    ],
)
def test_wrong_settings_are_named(arguments: dict[str, Any], expected: str) -> None:
    assert expected in sentence(**arguments)


def test_a_misspelt_variable_is_not_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMUR_HORIZONS", "3")
    assert sentence() == "DEMUR_HORIZONS: there is no such setting; did you mean DEMUR_HORIZON_S?"


LINKS = {
    "DEMUR_SERVICE_HOST": "10.0.0.11",
    "DEMUR_SERVICE_PORT": "8321",
    "DEMUR_SERVICE_PORT_METRICS": "8321",
    "DEMUR_PORT": "tcp://10.0.0.11:8321",
    "DEMUR_PORT_8321_TCP": "tcp://10.0.0.11:8321",
    "DEMUR_PORT_8321_TCP_PROTO": "tcp",
    "DEMUR_PORT_8321_TCP_PORT": "8321",
    "DEMUR_PORT_8321_TCP_ADDR": "10.0.0.11",
    "DEMUR_METRICS_SERVICE_HOST": "10.0.0.12",
    "DEMUR_METRICS_PORT": "tcp://10.0.0.12:80",
}
"""What Kubernetes puts into each container of a namespace with services named `demur` and `demur-metrics`."""


def test_what_kubernetes_says_of_services_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LINKS.items():
        monkeypatch.setenv(name, value)
    assert load().http_port == 8321
    monkeypatch.setenv("DEMUR_HTPP_PORT", "8322")
    assert sentence() == "DEMUR_HTPP_PORT: there is no such setting; did you mean DEMUR_HTTP_PORT?"


UNREADABLE = Path("/proc/self/mem")
"""A file whose reading fails, for root too."""


def test_a_file_that_cannot_be_read_is_named_with_the_remedy(tmp_path: Path) -> None:
    assert sentence(file=UNREADABLE).startswith(f"{UNREADABLE} cannot be read (Input/output error): ")
    for reads, what in ((policies, "policy file"), (keys_in, "file of keys")):
        with pytest.raises(
            SettingsError, match=f"{what} {tmp_path} cannot be read \\(Is a directory\\): let this user"
        ):
            reads(tmp_path)
    gone = tmp_path / "gone.pem"
    for files in ({"cafile": gone}, {"certfile": gone, "keyfile": gone}, {"certfile": tmp_path, "keyfile": tmp_path}):
        with pytest.raises(SettingsError, match="DEMUR_CAFILE, DEMUR_CERTFILE, DEMUR_KEYFILE: "):
            ssl_context(load().model_copy(update=files))


def test_the_way_to_tls_and_what_plain_text_shows_are_said() -> None:
    assert "or DEMUR_TLS=true if a public authority signed" in sentence(bootstrap=FAR)
    user = {"bootstrap": FAR, "username": "u", "password": "s3cret"}
    assert "let patients' text travel" in sentence(**user)
    assert "let patients' text and DEMUR_PASSWORD travel" in sentence(**user, mechanism="PLAIN")


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    file = tmp_path / "demur.toml"
    file.write_text("partitions: 8")
    assert f"settings file {file} is not TOML" in sentence(file=file)


def test_the_first_key_of_the_digests_is_brought_in_as_any_other() -> None:
    """What was decided on without a key was not known any more: its edits counted as deep."""
    steps = ({}, ("none", SALT), (SALT, "none"), (SALT,))
    names = ("salience_key", "salience_key_accepted")
    found = [digest_keys(load(**dict(zip(names, step, strict=False)))) for step in steps]
    assert found == [(b"",), (b"", SALT.encode()), (SALT.encode(), b""), (SALT.encode(),)]


def test_secrets_are_never_shown() -> None:
    settings = load(username="u", password="s3cret", salience_key=SALT, bootstrap="localhost:9092")
    assert "s3cret" not in f"{settings!r} {settings}"
    assert SALT not in f"{settings!r} {settings}"
    assert "k3y" not in sentence(salience_key="k3y")
    assert "s3cret" not in sentence(password=["s3cret"], partitions=0)


@pytest.mark.parametrize("bootstrap", ["localhost:9092", "127.0.0.1:1", "127.3.2.1:9092", "[::1]:9092"])
def test_this_machine_needs_no_tls(bootstrap: str) -> None:
    assert load(bootstrap=bootstrap).bootstrap == bootstrap


def test_plain_text_to_another_machine_needs_the_users_word() -> None:
    settings = load(bootstrap=FAR, allow_plaintext=True, salience_key=SALT)
    assert kafka_options(settings)["security_protocol"] == "PLAINTEXT"
    assert faust_credentials(settings) is None


def test_tls_and_scram_reach_both_clients() -> None:
    settings = load(bootstrap=FAR, salience_key=SALT, tls=True, username="u", password="s3cret")
    options = kafka_options(settings)
    assert (options["security_protocol"], options["sasl_mechanism"]) == ("SASL_SSL", "SCRAM-SHA-512")
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("u", "s3cret")
    credentials = faust_credentials(settings)
    assert (credentials.protocol.value, credentials.mechanism.value) == ("SASL_SSL", "SCRAM-SHA-512")
    assert credentials.ssl_context.verify_mode == ssl.CERT_REQUIRED


def test_tls_alone_reaches_both_clients() -> None:
    settings = load(bootstrap=FAR, salience_key=SALT, tls=True)
    assert kafka_options(settings)["security_protocol"] == "SSL"
    assert faust_credentials(settings).protocol.value == "SSL"


def test_certificates_that_are_none_are_named() -> None:
    with pytest.raises(SettingsError, match="DEMUR_CAFILE"):
        ssl_context(load(bootstrap=FAR, salience_key=SALT, cafile=__file__))


def test_settings_cannot_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().partitions = 9  # type: ignore[misc]
