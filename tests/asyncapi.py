"""The wire contract for machines: `docs/asyncapi.json` (AsyncAPI 3.0), made from the code by `python -m tests.pages`.

Schemas come from the structs of `models/events.py`: what a field means is the comment beside it there, or beside the
first field of that name; what it may hold is its type. Topics come from `streams/topics.py`.
"""

import ast
import inspect
import io
import json
import tokenize
from collections.abc import Iterator
from typing import Any, Final, get_args

import msgspec

from models import events
from models.events import (
    CONTRACT,
    MAX_ID,
    MAX_MESSAGE_BYTES,
    SCHEMA,
    WRITTEN_BY_OTHERS,
    YEARS,
    Calibration,
    Decision,
    Event,
    Response,
)
from models.signing import KEY_ID, SIGNATURE
from streams import wire
from streams.settings import Settings, variable
from streams.stages import INPUTS
from streams.topics import Topic, plan

ID: Final = "^[!-~]+$"
"""What `decode` asks of ids, in the words of ECMA-262."""
TRACE: Final = "of W3C's Trace Context: a decision goes on with its response's"
BINDING: Final = {"bindingVersion": "0.5.0"}
JSON: Final = "application/json"
ABOUT: Final = f"""Rejection risk of clinical language models. Explained in integrate.md, beside this file.

Names of topics begin with `{variable("topic_prefix")}`, and `{variable("partitions")}` says how many partitions they
all have; here stand the defaults. A record lies in the partition of its key by murmur2, Kafka's default.

What no schema here says: a record has at most {MAX_MESSAGE_BYTES:,} bytes, times lie in the years {YEARS[0]} to
{YEARS[-2]}, and whole numbers, written without a point, within 2^53 of 0. Fields that are not in the contract are
ignored; those at their default are left out. What demur receives may also be the `data` of a CloudEvent in structured
mode."""


def text() -> str:
    """Return the file."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def document() -> dict[str, Any]:
    """Return the document, from the point of view of demur: it receives responses and feedback."""
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "demur", "version": f"{SCHEMA}.0.0", "description": ABOUT},
        "defaultContentType": JSON,
        "channels": {topic.name: _channel(topic) for topic in plan(Settings.model_construct())},
        "operations": dict(_operations()),
        "components": {
            "messages": {_tag(type_): _message(type_) for type_ in Event.__subclasses__()},
            "schemas": schemas(),
        },
    }


def _types(topic: str) -> tuple[type[Event], ...]:
    return get_args(CONTRACT[topic]) or (CONTRACT[topic],)


def _tag(type_: type[Event]) -> str:
    return str(type_.__struct_config__.tag)


def _channel(topic: Topic) -> dict[str, Any]:
    kept = {name: int(value) if value.lstrip("-").isdecimal() else value for name, value in topic.configs.items()}
    kept["cleanup.policy"] = [kept["cleanup.policy"]]
    return {
        "address": topic.name,
        "messages": {_tag(t): {"$ref": f"#/components/messages/{_tag(t)}"} for t in _types(topic.name)},
        "bindings": {"kafka": {"partitions": topic.partitions, "topicConfiguration": kept, **BINDING}},
    }


def _operations() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what demur sends, and what it receives, from others or from itself."""
    readers = {topic: [stage for stage, read in INPUTS.items() if topic in read] for topic in CONTRACT}
    readers[Calibration.topic].append("score")  # not as one of a group: each scorer reads all
    for topic in CONTRACT:
        name = topic.title().replace("-", "")
        if topic not in WRITTEN_BY_OTHERS:
            yield f"send{name}", _operation("send", topic)
        if readers[topic]:
            said = {"summary": f"Read by {', '.join(readers[topic])}"}
            answer = {"reply": _of(Decision)} if topic == Response.topic else {}
            yield f"receive{name}", _operation("receive", topic) | said | answer


def _operation(action: str, topic: str) -> dict[str, Any]:
    return {"action": action, "channel": {"$ref": f"#/channels/{topic}"}}


def _of(type_: type[Event]) -> dict[str, Any]:
    channel = f"#/channels/{type_.topic}"
    return {"channel": {"$ref": channel}, "messages": [{"$ref": f"{channel}/messages/{_tag(type_)}"}]}


def _message(type_: type[Event]) -> dict[str, Any]:
    fields = type_.__struct_fields__
    about = {"correlationId": {"location": "$message.payload#/response_id"}} if "response_id" in fields else {}
    key = {} if type_.keyed_by is None else {"key": _key(type_)}
    return {
        "name": _tag(type_),
        "summary": inspect.cleandoc(type_.__doc__ or "").partition("\n\n")[0].replace("\n", " "),
        "contentType": JSON,
        "headers": _headers(type_),
        "payload": {"$ref": f"#/components/schemas/{type_.__name__}"},
        **about,
        "bindings": {"kafka": {**key, **BINDING}},
    }


def _key(type_: type[Event]) -> dict[str, Any]:
    if type_.keyed_by in type_.__struct_fields__:
        return {"description": f"`{type_.keyed_by}`", "type": "string", "pattern": ID, "maxLength": MAX_ID}
    return {"description": inspect.getdoc(getattr(type_, str(type_.keyed_by))), "type": "string"}


def _headers(type_: type[Event]) -> dict[str, Any]:
    traced = {wire.TRACE: {"type": "string", "pattern": f"^{wire.TRACES.pattern.decode()}$", "description": TRACE}}
    signed = {
        KEY_ID: {"type": "string", "description": "the producer, where records are signed"},
        SIGNATURE: {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "HMAC-SHA256, where they are"},
        **(traced if type_ in {Response, Decision} else {}),
    }
    if type_.topic in WRITTEN_BY_OTHERS:
        said = f"the `{type_.__struct_fields__[1]}`: what cannot be read is named by it"
        id_ = {"ce_id": {"type": "string", "description": said}} if type_.keyed_by else {}
        return {"type": "object", "properties": id_ | signed}
    ours = {
        "ce_specversion": {"const": "1.0"},
        "ce_id": {"type": "string", "description": "digest of the record: a repeat has the same"},
        "ce_type": {"const": wire._ce_type(type_, SCHEMA).decode()},
        "ce_source": {"const": wire.SOURCE.decode()},
        "content-type": {"const": JSON},
    }
    return {"type": "object", "required": [*ours], "properties": {**ours, **signed}}


def schemas() -> dict[str, Any]:
    """Return the JSON Schema of each event and of its parts (draft 2020-12, and valid as draft 7 as well)."""
    _, found = msgspec.json.schema_components(Event.__subclasses__(), ref_template="#/components/schemas/{name}")
    said = _said()
    for name, schema in found.items():
        schema["description"] = inspect.cleandoc(schema["description"])
        for field, value in schema["properties"].items():
            _tighten(value)
            if field == "schema":
                value["const"] = SCHEMA
            if field != "type" and "$ref" not in value:
                value["description"] = said[name].get(field) or next(s[field] for s in said.values() if field in s)
    return found


def _tighten(schema: Any) -> None:
    """Say what `decode` looks at beside types, and write patterns as ECMA-262 has them."""
    if not isinstance(schema, dict):
        return
    if (schema.get("minLength"), schema.get("maxLength")) == (1, MAX_ID):
        schema["pattern"] = ID
    elif "pattern" in schema:
        schema["pattern"] = schema["pattern"].replace(r"\A", "^").replace(r"\Z", "$")
    for inner in (*schema.get("anyOf", ()), *schema.values()):
        _tighten(inner)


def _said() -> dict[str, dict[str, str]]:
    """Return the comments beside the fields of each struct of the contract."""
    code = inspect.getsource(events)
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    return {
        node.name: {
            field.target.id: comments[field.lineno]
            for field in node.body
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.lineno in comments
        }
        for node in ast.parse(code).body
        if isinstance(node, ast.ClassDef)
    }
