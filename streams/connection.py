"""How each client reaches the broker: address, encryption and authentication, from one place.

Both libraries default to plain text: Faust makes SASL without an `ssl_context` silently SASL_PLAINTEXT, and its
`SSLCredentials` cannot build a context of its own. So the context is always ours.
"""

import socket
import ssl
from contextlib import suppress
from typing import Any

from faust import SASLCredentials, SSLCredentials

from models.errors import SettingsError
from streams.settings import Settings


def ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the TLS context, or None when TLS is off. Raises `SettingsError` for files that OpenSSL cannot use."""
    if not settings.encrypted:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.cafile)
        if settings.certfile:
            context.load_cert_chain(settings.certfile, settings.keyfile)
    except ssl.SSLError as error:
        raise SettingsError(
            f"DEMUR_CAFILE, DEMUR_CERTFILE, DEMUR_KEYFILE: not usable PEM files ({error.reason})"
        ) from None
    return context


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
    """Raise `SettingsError` if no broker listens: clients would try for long, each in its own words."""
    if not any(listens(address) for address in settings.bootstrap.split(",")):
        raise SettingsError(
            f"DEMUR_BOOTSTRAP: no broker listens at {settings.bootstrap}: start it, or correct the address"
        )


def listens(address: str) -> bool:
    """Tell whether a TCP connection to `host:port` succeeds."""
    host, _, port = address.rpartition(":")
    with suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=3):
        return True
    return False
