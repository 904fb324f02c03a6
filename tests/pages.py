"""What pages of `docs/` must agree with, collected from the code; `python -m tests.pages` writes what is generated.

`docs/settings.md` holds the table of settings between two marks; `docs/asyncapi.json` is generated whole (`asyncapi`).
Everything else there is written by hand and compared by `tests/unit/test_docs.py`.
"""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from streams.settings import Settings, variable
from tests import asyncapi

ROOT: Final = Path(__file__).parents[1]
SETTINGS: Final = ROOT / "docs/settings.md"
ASYNCAPI: Final = ROOT / "docs/asyncapi.json"
BEGIN, END = "<!-- settings: python -m tests.pages -->", "<!-- end of settings -->"


def fenced(page: str, language: str) -> list[str]:
    """Return the code blocks of a page in `docs/` in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text(page), re.MULTILINE | re.DOTALL)


def rows(page: str, head: str) -> list[list[str]]:
    """Return the cells of the table whose head begins with the cell `head`."""
    _, _, rest = text(page).partition(f"\n| {head} |")
    assert rest, f"{page} has no table that begins with {head}"
    lines = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def codes(cell: str) -> list[str]:
    """Return what stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def text(page: str) -> str:
    """Return a page of `docs/`."""
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def trees(*places: str) -> Iterator[ast.Module]:
    """Return the parsed modules of files and folders of this repository."""
    for place in places:
        path = ROOT / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            yield ast.parse(file.read_text(encoding="utf-8"))


def settings_table() -> str:
    """Return the table of settings: name, default, and the first sentence of what stands under it in the code."""
    lines = ["| variable | default | what it is |", "|---|---|---|"]
    said = _said(ROOT / "streams/settings.py", "Settings")
    for name, field in Settings.model_fields.items():
        lines.append(f"| `{variable(name)}` | {_default(field)} | {_first_sentence(said[name])} |")
    return "\n".join(lines)


def with_settings(page: str) -> str:
    """Return a page with the table in its place."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{settings_table()}\n{END}{rest.partition(END)[2]}"


def _said(file: Path, name: str) -> dict[str, str]:
    """Return the strings under the annotated names of a class."""
    (found,) = (
        node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef) and node.name == name
    )
    return {
        field.target.id: " ".join(doc.value.value.split())
        for field, doc in pairwise(found.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(doc, ast.Expr)
        and isinstance(doc.value, ast.Constant)
    }


def _first_sentence(said: str) -> str:
    return re.split(r"(?<=\.) (?=[A-Z])", said)[0].replace("|", "\\|")


def _default(field: FieldInfo) -> str:
    """Return the default and, where there are few, the other choices."""
    others = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    return "; or ".join([_shown(field.default), *(f"`{one}`" for one in others if one != field.default)])


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float):
        return f"`{value:.10g}`"
    return f"`{','.join(value) if isinstance(value, tuple) else value}`"


if __name__ == "__main__":
    SETTINGS.write_text(with_settings(SETTINGS.read_text(encoding="utf-8")), encoding="utf-8")
    ASYNCAPI.write_text(asyncapi.text(), encoding="utf-8")
