"""Writes the two files of a report."""

from functools import cache
from pathlib import Path
from typing import Any, Final

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from models.accounts import Accounts, Run, summary
from streams.report.page import page

REPORT: Final = "report.html"
SUMMARY: Final = "summary.json"


def write_report(accounts: Accounts, run: Run, out_dir: Path) -> Path:
    """Write `report.html` and `summary.json` into a folder, made if need be; return the report's path."""
    out_dir.mkdir(parents=True, exist_ok=True)
    figures = summary(accounts, run)
    _write(out_dir / SUMMARY, orjson.dumps(figures, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    report = out_dir / REPORT
    _write(report, render(accounts, run, figures).encode())
    return report


def render(accounts: Accounts, run: Run, figures: dict[str, Any]) -> str:
    """Return the report as HTML."""
    return _template().render(page(accounts, run, figures))


@cache
def _template() -> Template:
    loader = PackageLoader("streams", "report")
    there = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return there.get_template("page.html")


def _write(path: Path, content: bytes) -> None:
    """Replace a file as a whole, so that a reader never sees half of one."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
