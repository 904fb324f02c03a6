"""Signatures of records: HMAC-SHA256 (RFC 2104) over topic, key, id and body, in two headers.

The file of keys is TOML: a table a producer, with `secret` and the `topics` it may write; `demur` signs what is ours.

    [demur]
    secret = "thirty-two characters or more, of a good source"

    [gateway]
    secret = "another one, which the gateway and demur know"
    topics = ["responses"]

`[demur]` must be there, and alone needs no `topics`: it writes to all. Where records lay in the topics before they were
signed, it says until when: `unsigned_until`, a moment with its time zone. What the broker dated before, by its own
clock, is taken without a signature, and is believed to be what its topic should hold.

A secret is changed without loss in three steps, each of them everywhere before the next: the new one is entered under
`accepted`; it becomes `secret`, and the old one takes its place; that one goes after half a year, as long as records
are kept, and, if it is ours, when LEARN has been started again: it then signs what stands in `calibrations`, a topic
that forgets nothing, anew.

A producer sends `ce_id`, `ce_keyid` (its name) and `ce_signature`: in hexadecimal digits the code of topic (without
prefix), key, `ce_id` and body, each after its length in eight bytes, the highest first.

Each producer has a secret of its own and the topics that it may write. A record of another, or one that was moved to
another topic, changed, or given another id, does not fit its signature. A record that is sent again fits: that it
counts once is the business of ids, and of its partition (`partitions`).

**What no signature guards**, so that access rules must: the changelogs of the stages' rows, which are not signed (only
workers may write there); and the order of calibrations. Whoever may write to `calibrations` can send an old one again:
scorers that know a newer one do not take it, but one that starts anew knows only what Kafka's compaction has left.

>>> gateway = Producer(secret="0123456789abcdef" * 2, topics=("responses",))
>>> keys = Keys({"gateway": gateway})
>>> signed = dict(keys.sign("gateway", Signed("responses", b"c1", b"r1", b"{}")))
>>> keys.signature_error(Signed("responses", b"c1", b"r1", b"{}"), signed) is None
True
>>> str(keys.signature_error(Signed("responses", b"c1", b"r1", b"[]"), signed))
'the signature does not fit the record: it was changed, or signed with another secret'
"""

import hmac
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import combinations
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from models.errors import Forged, SettingsError
from models.events import CONTRACT

KEY_ID: Final = "ce_keyid"
SIGNATURE: Final = "ce_signature"
"""Extension attributes of CloudEvents."""
OURS: Final = "demur"
"""The producer that our stages and commands sign as."""


MIN_SECRET: Final = 32
Secret = Annotated[str, Meta(min_length=MIN_SECRET)]


class Producer(Struct, frozen=True, forbid_unknown_fields=True):
    """Who may write to which `topics` (names without prefix; None, for ourselves alone: to all).

    `accepted`: secrets it may sign with as well. `unsigned_until`, of ourselves alone: what the broker took before
    then, whoever wrote it, needs no signature.
    """

    secret: Secret
    topics: tuple[str, ...] | None = None
    accepted: tuple[Secret, ...] = ()
    unsigned_until: Annotated[datetime, Meta(tz=True)] | None = None


class Signed(NamedTuple):
    """What a signature covers; `topic` is the name without prefix."""

    topic: str
    key: bytes | None
    id: bytes
    value: bytes

    @classmethod
    def of(cls, topic: str, key: bytes | None, value: bytes, headers: Mapping[str, bytes]) -> "Signed":
        """Take the id from a record's headers."""
        return cls(topic, key, headers.get("ce_id", b""), value)


class Keys:
    """The secrets of all producers."""

    def __init__(self, producers: Mapping[str, Producer]) -> None:
        self._producers = dict(producers)
        self._until = until.timestamp() if (until := self.unsigned_until) else 0.0

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> "Keys":
        """Check a parsed file of keys. Raises `SettingsError`, which names the producer and never shows a secret."""
        if OURS not in value:
            raise SettingsError(f"keys: `{OURS}` is missing: what this system writes must be signed too")
        found = {name: _producer(name, table) for name, table in value.items()}
        for (one, of_one), (other, of_other) in combinations(found.items(), 2):
            if {of_one.secret, *of_one.accepted} & {of_other.secret, *of_other.accepted}:
                raise SettingsError(
                    f"keys of `{one}` and `{other}`: they have the same secret, so each could sign as the other: give "
                    "each its own"
                )
        return cls(found)

    @property
    def unsigned_until(self) -> datetime | None:
        """Until when records need no signature."""
        return self._producers[OURS].unsigned_until if OURS in self._producers else None

    def sign(self, producer: str, record: Signed) -> list[tuple[str, bytes]]:
        """Return the headers to add."""
        return [(KEY_ID, producer.encode()), (SIGNATURE, _mac(self._producers[producer].secret, record))]

    def signature_error(self, record: Signed, headers: Mapping[str, bytes], taken_at: float = 0.0) -> Forged | None:
        """Return what is wrong with the signature of a record, if anything. `taken_at`: when the broker took it, by its
        own clock and in seconds since the epoch; 0: not known.
        """
        if self._until > taken_at > 0.0 and KEY_ID not in headers and SIGNATURE not in headers:
            return None
        if KEY_ID not in headers or SIGNATURE not in headers:
            return Forged(f"headers `{KEY_ID}` and `{SIGNATURE}` are missing: the producer must sign its records")
        known = self._producers.get(headers[KEY_ID].decode("ascii", "replace"))
        if known is None:
            return Forged(f"`{KEY_ID}` names no producer of the file of keys: enter it there")
        if known.topics is not None and record.topic not in known.topics:
            return Forged(f"this producer may not write to {record.topic}: enter the topic in the file of keys")
        secrets = (known.secret, *known.accepted)
        if not any(hmac.compare_digest(_mac(secret, record), headers[SIGNATURE]) for secret in secrets):
            return Forged("the signature does not fit the record: it was changed, or signed with another secret")
        return None


def _producer(name: str, table: Any) -> Producer:
    if not name.isascii():
        raise SettingsError(f"keys of `{name}`: the name travels in a header: write it in ASCII")
    try:
        found = msgspec.convert(table, Producer)
    except msgspec.ValidationError as error:
        raise SettingsError(f"keys of `{name}`: {error}") from None
    for field, secrets in {"secret": (found.secret,), "accepted": found.accepted}.items():
        if any(len(secret.strip()) < MIN_SECRET for secret in secrets):
            raise SettingsError(
                f"keys of `{name}`: `{field}` has fewer than {MIN_SECRET} characters between blanks: take one from a "
                "good source (`openssl rand -hex 32`)"
            )
    if wrong := [topic for topic in found.topics or () if topic not in CONTRACT]:
        raise SettingsError(
            f"keys of `{name}`: `topics` names `{wrong[0]}`, which is none: name some of {', '.join(sorted(CONTRACT))}"
        )
    if found.topics is None and name != OURS:
        raise SettingsError(f"keys of `{name}`: `topics` is missing: name those that it may write to, as a list")
    if found.unsigned_until and name != OURS:
        raise SettingsError(f"keys of `{name}`: `unsigned_until` is for all: enter it under `[{OURS}]`")
    return found


def _mac(secret: str, record: Signed) -> bytes:
    code = hmac.new(secret.encode(), digestmod="sha256")
    for part in _parts(record):
        code.update(len(part).to_bytes(8, "big"))  # so that no byte can move from one part to the next
        code.update(part)
    return code.hexdigest().encode()


def _parts(record: Signed) -> Iterator[bytes]:
    yield from (record.topic.encode(), record.key or b"", record.id, record.value)
