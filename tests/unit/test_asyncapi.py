"""`docs/asyncapi.json` is what the code generates, and says what the decoder takes and what the stages write."""

import json
from functools import cache
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator
from jsonschema.protocols import Validator

from models.errors import EventError
from models.events import WRITTEN_BY_OTHERS, Event, Feedback, Response, decode, parse
from models.oracle import Entry
from streams.feed import broken, items
from tests import asyncapi, pages
from tests.fuzz.nasty import GOOD
from tests.rehearsal import Rehearsal, week

DOCUMENT: dict[str, Any] = json.loads(pages.text("asyncapi.json"))
EVENTS: dict[str, Any] = {type_.__struct_config__.tag: type_ for type_ in Event.__subclasses__()}


def test_the_document_is_what_the_code_generates() -> None:
    assert pages.text("asyncapi.json") == asyncapi.text(), "write it anew: python -m tests.pages"


@cache
def schema(pointer: str) -> Validator:
    whole = {"$ref": pointer, "components": DOCUMENT["components"]}
    return Draft202012Validator(whole)


def of(event: Any) -> Validator:
    return schema(f"#/components/messages/{event['type']}/payload")


@pytest.mark.parametrize("reads", [Draft7Validator, Draft202012Validator])
def test_its_schemas_mean_the_same_in_the_dialect_of_asyncapi_and_in_todays(reads: Any) -> None:
    for one in DOCUMENT["components"]["schemas"].values():
        reads.check_schema(one)
        assert not {"prefixItems", "unevaluatedProperties", "$defs", "dependentRequired"} & set(str(one).split("'"))


def test_every_field_says_what_it_is() -> None:
    for one in DOCUMENT["components"]["schemas"].values():
        unsaid = {n for n, f in one["properties"].items() if not {"description", "$ref"} & set(f)} - {"type"}
        assert unsaid == set()


@pytest.mark.parametrize(
    "example", [*pages.fenced("integrate.md", "json"), *pages.fenced("integrate.md", "jsonl")[0].splitlines()]
)
def test_what_the_page_shows_is_valid(example: str) -> None:
    of(json.loads(example)).validate(json.loads(example))


def test_whatever_the_stages_read_and_write_is_in_it_with_its_key_and_its_headers() -> None:
    arrivals = week(120, 3).arrivals
    first: dict[Any, Any] = {type(event): event for _, event in reversed(arrivals)}
    stages = Rehearsal().play([*items(arrivals), *broken(first[Response], first[Feedback])])
    kinds = set()
    for entry in (e for parts in stages.logs.values() for part in parts for e in part):
        if not (entry.key or b"").startswith(b"broken"):
            kinds.add(_check(entry))
    assert kinds | {"alarm"} == set(EVENTS) - {"instruction"}, "chance rejects greens, or does not"


def _check(entry: Entry) -> str:
    """Hold a record against the document, and return its type."""
    event, told = orjson.loads(entry.value), {name: value.decode() for name, value in entry.headers}
    kind: str = event["type"]
    message, name = DOCUMENT["components"]["messages"][kind], f"#/components/messages/{kind}"
    assert kind in DOCUMENT["channels"][entry.topic]["messages"]
    of(event).validate(event)
    schema(f"{name}/headers").validate(told)
    assert entry.topic in WRITTEN_BY_OTHERS or told.keys() <= message["headers"]["properties"].keys()
    if "key" in message["bindings"]["kafka"]:
        schema(f"{name}/bindings/kafka/key").validate((entry.key or b"").decode())
    return kind


fractions = st.floats().filter(lambda number: not number.is_integer())
scalars = st.sampled_from((None, True, 2**53 + 1, "\x00", "\u202e", "a\n", " ")) | st.integers(-3, 3) | fractions
values = st.recursive(
    scalars
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=3)
    | st.sampled_from((128, 129, 500, 501)).map("a".__mul__),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
TIMES = {
    name for one in DOCUMENT["components"]["schemas"].values() for name, f in one["properties"].items() if "format" in f
}


@given(st.sampled_from(GOOD), st.data())
def test_it_refuses_what_the_decoder_refuses_and_nothing_else(good: dict[str, Any], data: st.DataObject) -> None:
    """But for what the document says that no schema says; and the decoder needs no `type` where only one can be."""
    names = sorted({*good, "schema", "unknown", "response", "context", "logit", "revises", "groups", "by", "why"})
    changed = data.draw(st.dictionaries(st.sampled_from(names), values, min_size=1, max_size=2))
    left_out = data.draw(st.sets(st.sampled_from(names), max_size=1)) - {"type"}
    value = orjson.dumps({name: said for name, said in (good | changed).items() if name not in left_out})
    valid = of(good).is_valid(parse(value))
    try:
        decode(EVENTS[good["type"]], value)
    except EventError:
        assert not valid or changed.keys() & TIMES or any(str(said).endswith("\n") for said in changed.values())
    else:
        assert valid
