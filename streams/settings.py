"""Every setting of a worker, from arguments, the environment (`DEMUR_PARTITIONS=8`), or a TOML file (`partitions = 8`).

In that order: what stands nearer to the call wins. A wrong setting stops the start with one sentence.

>>> load(partitions=8).partitions
8
>>> load(partitions=0)
Traceback (most recent call last):
models.errors.SettingsError: DEMUR_PARTITIONS: Input should be greater than or equal to 1
>>> load(bootstrap="kafka.example.org:9092")
Traceback (most recent call last):
models.errors.SettingsError: DEMUR_BOOTSTRAP: kafka.example.org is another machine and TLS is off: set DEMUR_CAFILE, \
or DEMUR_TLS=true if a public authority signed its certificate, or DEMUR_ALLOW_PLAINTEXT=true to let patients' text \
travel in the clear
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, FilePath, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import (
    SettingsError as SourceError,
)

from models.encoder.batches import BATCH_TOKENS, GPU_TOKENS
from models.errors import SettingsError

PREFIX: Final = "DEMUR_"
INPUT_RETENTION: Final = timedelta(days=30)
"""How long topics with patients' text are kept; the join cannot wait longer, for its inputs must be there to replay."""

NO_KEY: Final = "none"
"""Stands for no key of the digests, beside one that is to come or that came."""

_LINK: Final = r"(tcp|udp|sctp)://\S+"
_SERVICE_LINK: Final = re.compile(
    rf"DEMUR_([A-Z0-9_]+_)?(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)=\S+|PORT={_LINK}"
    rf"|PORT_\d+_(TCP|UDP|SCTP)(={_LINK}|_(PROTO|PORT|ADDR)=\S+))"
)
"""What Kubernetes tells each container of the services of its namespace: one named `demur` is no setting of ours."""

Stage = Literal["score", "join", "learn", "watch"]
STAGES: Final[tuple[Stage, ...]] = ("score", "join", "learn", "watch")


def _names(value: Any) -> Any:
    """Environment variables hold lists as `score,join`."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _addresses(value: str) -> str:
    for address in value.split(","):
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ValueError("write host:port, several with commas: 127.0.0.1:9092")
    return value


def _key(value: SecretStr) -> SecretStr:
    if len(value) < 32 and value.get_secret_value() != NO_KEY:  # as long as all secrets
        raise ValueError(f"give 32 characters or more of a good source, or `{NO_KEY}`")
    return value


Key = Annotated[SecretStr, AfterValidator(_key)]


class Settings(BaseSettings):
    """Immutable once read. Durations end in their unit."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    bootstrap: Annotated[str, AfterValidator(_addresses)] = "127.0.0.1:9092"
    """Addresses of the brokers, with commas between them."""
    allow_plaintext: bool = False
    """Speak to a broker on another machine without TLS."""
    tls: bool = False
    """Speak TLS to the brokers; implied by `cafile`, `certfile` or `keyfile`."""
    cafile: FilePath | None = None
    """PEM file of the authority that signed the brokers' certificates; by default the system's."""
    certfile: FilePath | None = None
    """PEM file of our own certificate, for mutual TLS."""
    keyfile: FilePath | None = None
    """PEM file of our private key, for mutual TLS."""
    username: str | None = None
    """SASL user."""
    password: SecretStr | None = None
    """SASL password."""
    mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = "SCRAM-SHA-512"
    """SASL mechanism."""

    topic_prefix: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{0,100}$")] = ""
    """Beginning of the names of all topics and consumer groups, so that installations can share a cluster."""
    partitions: Annotated[int, Field(ge=1, le=1000)] = 4
    """Partitions of every topic, for what is joined must be cut alike. At most that many workers share a stage."""
    replication: Annotated[int, Field(ge=1, le=9)] | None = None
    """Copies of every topic; by default as many as the broker's configuration says."""
    create_topics: bool = False
    """Create missing topics at the start; otherwise `demur topics` does it and a worker needs no such permission."""

    stages: Annotated[tuple[Stage, ...], NoDecode, BeforeValidator(_names), Field(min_length=1)] = STAGES
    """Stages that this worker runs."""
    store: Literal["memory", "rocksdb"] = "memory"
    """Where a worker keeps its rows; their changelog in Kafka is what is durable."""
    data_dir: Path = Path(".cache/worker")
    """Folder of the rows that RocksDB keeps."""
    session_timeout_s: Annotated[float, Field(ge=1, le=300)] = 6.0
    """Seconds of silence after which a worker's partitions go to others: the least that Kafka allows by default."""
    time_source: Literal["wall", "event"] = "wall"
    """Whose clock lets horizons pass: the slower of this machine's and the broker's; or the events' (replays)."""

    model: str = "reference"
    """Folder of the encoder, or hub id with `@` and its commit; `reference` is the small one, trained at first use."""
    keys: FilePath | None = None
    """File of producers and their secrets: with it all records are signed, and what is not is set aside."""
    policy: FilePath | None = None
    """File of plans and tier cuts; by default green below .05 and red from .20."""
    deadline_s: Annotated[float, Field(gt=0, le=60)] = 2.0
    """Seconds for a score; a response without one by then is red."""
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"
    """Where the encoder computes: `cpu`, `cuda` or, of several GPUs, `cuda:1`."""
    batch_tokens: Annotated[int, Field(ge=16, le=1_000_000)] | None = None
    """Tokens that the encoder takes at once: by default 2,048, on a GPU 16,384."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the encoder computes in: by default bfloat16 on a GPU and where the processor multiplies in it. It is part
    of the model's identity to the calibrator, and so is the device: set both alike on all workers."""

    horizon_s: Annotated[float, Field(gt=0, le=INPUT_RETENTION.total_seconds())] = 7 * 86_400.0
    """Seconds of waiting for feedback before a response is closed as unlabelled."""
    settle_s: Annotated[float, Field(ge=0)] = 120.0
    """Seconds of waiting, after a first verdict, for contradictions and further clinicians."""
    orphan_s: Annotated[float, Field(gt=0, le=INPUT_RETENTION.total_seconds())] = 86_400.0
    """Seconds of waiting for the response of a feedback that came first: longer than SCORE may stand still."""
    salience_key: Key | None = None
    """Keys the digests of patients' text that decisions carry (`input_digest`; `salience_digest` of doses, drugs and
    negations), which could be guessed without it: 32 characters or more of a good source, the same for SCORE, JOIN and
    `demur verify`. A broker on another machine is refused without it."""
    salience_key_accepted: Key | None = None
    """Another key, by which no digest is made, but whose digests are known too: for changing the key without loss; in
    both `none` stands for no key."""

    http_host: str = "127.0.0.1"
    """Address of `/healthz`, `/metrics` and, of a gateway, all that it answers."""
    http_port: Annotated[int, Field(ge=0, le=65_535)] = 8321
    """Port of the same; 0 takes any that is free. Workers and gateways on one machine need one each."""
    http_certfile: FilePath | None = None
    """PEM file of the certificate to serve HTTPS with, and its chain."""
    http_keyfile: FilePath | None = None
    """PEM file of that certificate's private key."""
    gateway_token: Annotated[SecretStr, Field(min_length=32)] | None = None
    """What a gateway's clients must send as `Authorization: Bearer`: 32 characters or more of a good source. A gateway
    that listens beyond this machine is refused without it."""

    @property
    def budget(self) -> int:
        """Tokens that the encoder takes at once."""
        return self.batch_tokens or (BATCH_TOKENS if self.device == "cpu" else GPU_TOKENS)

    @property
    def encrypted(self) -> bool:
        """Whether the connection to the broker is TLS."""
        return self.tls or any((self.cafile, self.certfile, self.keyfile))

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for name, complaint in _disagreements(self):
            raise PydanticCustomError("disagreement", "{complaint}", {"setting": name, "complaint": complaint})
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then environment, then file: no `.env`, no secrets folder."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load(file: Path | None = None, **arguments: Any) -> Settings:
    """Read the settings. Raises `SettingsError` that names the setting and the remedy; never shows a secret."""
    _refuse_unknown_variables()
    with _one_sentence(file):
        if file and not file.is_file():
            raise SettingsError(f"no settings file {file}: check the path")
        return _read_by(file)(**arguments)


def _read_by(file: Path | None) -> type[Settings]:
    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    return FromFile


@contextmanager
def _one_sentence(file: Path | None) -> Iterator[None]:
    """Turn what pydantic raises into one `SettingsError`."""
    try:
        yield
    except ValidationError as error:
        raise SettingsError(_sentence(error.errors())) from None
    except (TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {file} is not TOML in UTF-8: {error}") from None
    except SourceError as error:
        raise SettingsError(str(error)) from None
    except OSError as error:  # of the settings file, or of one that a setting names
        raise unreadable(error.filename or file, error) from None


def unreadable(what: object, error: OSError) -> SettingsError:
    """Return what is said of a file that cannot be read, or of its folder."""
    return SettingsError(f"{what} cannot be read ({error.strerror}): let this user read it, or correct the path")


def _sentence(errors: list[ErrorDetails]) -> str:
    first, *others = errors
    name = first.get("ctx", {}).get("setting") or ".".join(map(str, first["loc"]))
    rest = f" (and {len(others)} more wrong settings)" if others else ""
    known = name.split(".")[0] in Settings.model_fields
    text = first["msg"].removeprefix("Value error, ") if known else _unknown(name)
    return f"{variable(name)}: {text}{rest}"


def variable(setting: str) -> str:
    """Return the name of a setting's environment variable."""
    return PREFIX + setting.partition(".")[0].upper()


def environment(settings: Settings) -> dict[str, str]:
    """Return this process's environment with `settings` in place of its own, for a worker that it starts."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}  # noqa: TID251  see below
    return kept | {variable(name): _plain(value) for name, value in settings if value is not None}


def _plain(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _refuse_unknown_variables() -> None:
    """A misspelt variable would silently leave the default."""
    for name, value in os.environ.items():  # noqa: TID251  this is the module of settings
        setting = name.removeprefix(PREFIX).lower()
        known = setting in Settings.model_fields or _SERVICE_LINK.fullmatch(f"{name}={value}")
        if name.startswith(PREFIX) and not known:
            raise SettingsError(f"{name}: {_unknown(setting)}")


def _unknown(name: str) -> str:
    near = get_close_matches(name, Settings.model_fields, n=1)
    return "there is no such setting" + (f"; did you mean {variable(near[0])}?" if near else "")


def _disagreements(s: Settings) -> Iterator[tuple[str, str]]:
    """Yield what no single field can know: the setting at fault, and what is wrong with it."""
    if (host := far(s.bootstrap)) and not (s.encrypted or s.allow_plaintext):
        what = "patients' text and DEMUR_PASSWORD" if s.password and s.mechanism == "PLAIN" else "patients' text"
        yield (
            "bootstrap",
            (
                f"{host} is another machine and TLS is off: set DEMUR_CAFILE, or DEMUR_TLS=true if a public authority "
                f"signed its certificate, or DEMUR_ALLOW_PLAINTEXT=true to let {what} travel in the clear"
            ),
        )
    if far(s.bootstrap) and (not s.salience_key or s.salience_key.get_secret_value() == NO_KEY):
        yield (
            "salience_key",
            (
                "a broker on another machine holds digests of patients' text, which could be guessed: set 32 "
                "characters or more of a good source, the same for SCORE, JOIN and `demur verify`"
            ),
        )
    if s.salience_key_accepted and not s.salience_key:
        yield "salience_key_accepted", f"is beside DEMUR_SALIENCE_KEY: set that one too, `{NO_KEY}` for no key"
    if s.password and not s.username:
        yield "username", "a password is set without it: set both or neither"
    if s.username and not s.password:
        yield "password", "a username is set without it: set both or neither"
    if bool(s.certfile) != bool(s.keyfile):
        yield ("keyfile" if s.certfile else "certfile"), "mutual TLS needs both the certificate and its key"
    if bool(s.http_certfile) != bool(s.http_keyfile):
        yield ("http_keyfile" if s.http_certfile else "http_certfile"), "HTTPS needs both the certificate and its key"
    if s.settle_s >= s.horizon_s:
        yield "settle_s", f"must be shorter than DEMUR_HORIZON_S ({s.horizon_s:g})"


def far(bootstrap: str) -> str | None:
    """Return the first host that is not this machine."""
    hosts = (address.rpartition(":")[0].strip("[]") for address in bootstrap.split(","))
    return next((host for host in hosts if not _near(host)), None)


def _near(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
