"""`python -m benchmarks.plots`: draw what stands in the results beside each benchmark, for `benchmarks/README.md`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HERE = Path(__file__).parent
OURS, THEIRS = "#d1495b", "#30638e"

Rows = list[dict[str, Any]]


def rows(name: str) -> Rows:
    """Read the rows of a benchmark."""
    found: Rows = json.loads((HERE / name).read_text(encoding="utf-8"))
    return found


def encoder(panels: Sequence[Axes]) -> None:
    """Pairs a second against the naive pipeline, on each kind of machine."""
    kinds = {"amx": "a core with AMX", "avx512": "a core with AVX512_BF16", "gpu": "an H200"}
    for axes, (file, title) in zip(panels, kinds.items(), strict=True):
        found = [row for row in rows(f"encoder/{file}.json") if row["model"] == "MiniLM-L6"]
        _bars(axes, found, "variant", "ratio_to_naive", lambda row: row["variant"].startswith(("packed", "fused")))
        axes.set_title(f"MiniLM-L6, {title}: times naive", fontsize=9)


def latency(panels: Sequence[Axes]) -> None:
    """Waiting against load."""
    kinds = [("amx", "MiniLM-L6"), ("amx", "tiny"), ("gpu", "MiniLM-L6")]
    for axes, (file, model) in zip(panels, kinds, strict=True):
        for batcher, color in (("ours", OURS), ("fixed wait", THEIRS)):
            found = [r for r in rows(f"latency/{file}.json") if (r["model"], r["batcher"]) == (model, batcher)]
            for percent, style in ((50, "-"), (99, "--")):
                label = f"{batcher}, p{percent}"
                axes.plot(
                    [r["load"] for r in found], [r[f"p{percent}_ms"] for r in found], style, color=color, label=label
                )
        axes.set_title(f"{model} on {'an H200' if file == 'gpu' else 'a core'}: ms until scored, by load", fontsize=9)
        axes.set_yscale("log")
        axes.legend(fontsize=7)


def stream(panels: Sequence[Axes]) -> None:
    """Engines on the same work, and what an event costs as things grow."""
    found = rows("stream/results.json")
    for axes, job in zip(panels, ("pass", "join"), strict=False):
        _bars(
            axes,
            [r for r in found if r["job"] == job],
            "engine",
            "events_per_s",
            lambda r: r["engine"].startswith("demur"),
        )
        axes.set_title(f"{job}: events a second", fontsize=9)
    for job, size in (("pending", "pending"), ("deployments", "deployments"), ("lengths", "events")):
        mine = [r for r in found if r["job"] == job and r["engine"] == "demur"]
        panels[2].plot([r[size] for r in mine], [r["cpu_us_per_event"] for r in mine], "o-", label=f"by {size}")
    panels[2].set_xscale("log")
    panels[2].set_ylim(bottom=0)
    panels[2].set_title("µs of processor an event", fontsize=9)
    panels[2].legend(fontsize=7)


def calibration(panels: Sequence[Axes]) -> None:
    """Calibrators on the same streams: over all streams and seeds, mean or highest."""
    found = rows("calibration/measured/unstressed.json")
    shown = (
        ("regret_mnat", 1.0, fmean, "log-loss above the oracle, mnat, mean"),
        ("ece", 100.0, fmean, "calibration error, %, mean"),
        ("worst_window", 100.0, max, "worst 1,000 greens, rejected %, highest"),
    )
    for axes, (key, scale, over, title) in zip(panels, shown, strict=True):
        values = {
            method: scale * over([row[key] for row in found if row["method"] == method])
            for method in dict.fromkeys(row["method"] for row in found)
        }
        bars = [{"method": method, key: value} for method, value in sorted(values.items(), key=lambda pair: pair[1])]
        _bars(axes, bars, "method", key, lambda row: row["method"] == "demur")
        axes.set_title(title, fontsize=9)


def _bars(axes: Axes, found: Rows, name: str, value: str, ours: Callable[[dict[str, Any]], bool]) -> None:
    bars = axes.barh(
        [row[name].removeprefix("pipeline, ") for row in found][::-1],
        [row[value] for row in found][::-1],
        color=[OURS if ours(row) else THEIRS for row in found][::-1],
    )
    fmt = "{:,.0f}" if value == "events_per_s" else "{:,.1f}"
    axes.bar_label(bars, fmt=fmt, fontsize=7, padding=2)
    axes.margins(x=0.15)
    axes.tick_params(labelsize=7)


def main() -> None:
    """Write one figure a benchmark."""
    mpl.rcParams["svg.hashsalt"] = "demur"  # the same results give the same bytes
    mpl.rcParams["svg.fonttype"] = "none"
    for draw in (encoder, latency, stream, calibration):
        figure = Figure(figsize=(14.0, 3.2), layout="constrained")
        draw(list(figure.subplots(1, 3)))
        figure.savefig(HERE / "plots" / f"{draw.__name__}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
