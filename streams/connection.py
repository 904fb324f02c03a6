"""How each client reaches the broker: address, encryption and authentication, from one place.

Both libraries default to plain text: Faust makes SASL without an `ssl_context` silently SASL_PLAINTEXT, and its
`SSLCredentials` cannot build a context of its own. So the context is always ours.
"""

import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from faust import SASLCredentials, SSLCredentials
from kafka.errors import KafkaError

from models.errors import SettingsError
from streams import lenient  # noqa: F401 (no client reads without it)
from streams.settings import Settings, unreadable

CONNECT_MS: Final = 10_000
"""A broker that listens answers within that; kafka-python would wait for 30 s."""


def ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the TLS context, or None when TLS is off. Raises `SettingsError` for files that OpenSSL cannot use."""
    if not settings.encrypted:
        return None
    with _pem_files("DEMUR_CAFILE, DEMUR_CERTFILE, DEMUR_KEYFILE"):
        context = ssl.create_default_context(cafile=settings.cafile)
        if settings.certfile:
            context.load_cert_chain(settings.certfile, settings.keyfile)
    return context


def https_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the TLS context of what we serve, or None without a certificate. Raises `SettingsError` as above."""
    if not settings.http_certfile:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with _pem_files("DEMUR_HTTP_CERTFILE, DEMUR_HTTP_KEYFILE"):
        context.load_cert_chain(settings.http_certfile, settings.http_keyfile)
    return context


@contextmanager
def _pem_files(names: str) -> Iterator[None]:
    """Turn what OpenSSL says of files into one `SettingsError` that names their settings."""
    try:
        yield
    except ssl.SSLError as error:
        raise SettingsError(f"{names}: not usable PEM files ({error.reason})") from None
    except OSError as error:
        raise unreadable(f"{names}: a file", error) from None


def kafka_options(settings: Settings) -> dict[str, Any]:
    """Return what every client of kafka-python needs."""
    context = ssl_context(settings)
    secure = "SSL" if context else "PLAINTEXT"
    options = {"bootstrap_servers": settings.bootstrap.split(","), "ssl_context": context}
    if not settings.password:
        return options | {"security_protocol": secure}
    return options | {
        "security_protocol": f"SASL_{secure}",
        "sasl_mechanism": settings.mechanism,
        "sasl_plain_username": settings.username,
        "sasl_plain_password": settings.password.get_secret_value(),
    }


def faust_credentials(settings: Settings) -> SASLCredentials | SSLCredentials | None:
    """Return Faust's `broker_credentials`."""
    context = ssl_context(settings)
    if not settings.password:
        return SSLCredentials(context) if context else None
    secret = settings.password.get_secret_value()
    return SASLCredentials(
        username=settings.username, password=secret, mechanism=settings.mechanism, ssl_context=context
    )


def reach(settings: Settings) -> None:
    """Raise `SettingsError` if no broker listens or its certificate is not trusted.

    A client would retry either for its whole timeout, and end by saying that time is up.
    """
    address = next((a for a in settings.bootstrap.split(",") if listens(a)), None)
    if address is None:
        raise SettingsError(f"DEMUR_BOOTSTRAP: no broker listens at {settings.bootstrap}: start it, or correct this")
    if context := ssl_context(settings):
        _shake(context, address)


def refused(settings: Settings) -> SettingsError:
    """Explain why a broker that can be reached does not take us for a client."""
    if settings.password:
        return SettingsError(
            f"DEMUR_USERNAME, DEMUR_PASSWORD: refused by the broker at {settings.bootstrap}: correct them"
        )
    more = "a certificate (DEMUR_CERTFILE) or a user (DEMUR_USERNAME)" if settings.encrypted else "TLS (DEMUR_TLS)"
    what = f"what listens at {settings.bootstrap} does not answer as Kafka"
    return SettingsError(f"DEMUR_BOOTSTRAP: {what}: does it want {more}?")


@contextmanager
def permitted(right: str, topics: Sequence[str]) -> Iterator[None]:
    """Turn a broker's word that we lack a right on one of these topics into one `SettingsError` that names it.

    A producer that may write nowhere is told so in an error of another kind, which names no topic.
    """
    try:
        yield
    except KafkaError as error:
        if "AuthorizationFailed" not in repr(error):
            raise
        named = [topic for topic in topics if topic in str(error)] or topics
        raise SettingsError(
            f"the broker does not grant this user the right {right} on {', '.join(named)}: let it be granted "
            "(docs/settings.md)"
        ) from None


def listens(address: str) -> bool:
    """Tell whether a TCP connection to `host:port` succeeds."""
    with suppress(OSError), _connection(address):
        return True
    return False


def _shake(context: ssl.SSLContext, address: str) -> None:
    host = address.rpartition(":")[0].strip("[]")
    try:
        with _connection(address) as plain, context.wrap_socket(plain, server_hostname=host):
            pass
    except ssl.SSLCertVerificationError as error:
        reason = f"the certificate of {address} is not trusted ({error.verify_message})"
        raise SettingsError(f"DEMUR_CAFILE: {reason}: name the authority that signed it") from None
    except OSError as error:
        raise SettingsError(f"DEMUR_TLS: {address} does not speak TLS ({error}): correct the address") from None


def _connection(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=3)
