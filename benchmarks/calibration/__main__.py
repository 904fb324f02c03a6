"""Compare online calibrators on streams with known truth. `python -m benchmarks.calibration --help`."""

import argparse
import json
import math
from collections.abc import Callable, Mapping
from multiprocessing import Pool
from pathlib import Path
from statistics import fmean

from benchmarks.calibration.method import Method
from benchmarks.calibration.ours import Demur
from benchmarks.calibration.peers import PEERS
from benchmarks.calibration.prequential import Run, measure
from benchmarks.calibration.streams import STREAMS, STRESSES, make

METHODS: dict[str, Callable[[], Method]] = {"demur": Demur, **PEERS}
VARIANTS: dict[str, Callable[[], Method]] = {
    "demur-noise5": lambda: Demur(noise=0.05),
    "demur-no-jumps": lambda: Demur(grace=10**9),
    "demur-no-guard": lambda: Demur(guarded=()),
    "demur-no-bias": lambda: Demur(audit_threshold=1e100),
}
"""demur with one part switched on or off; run only when named."""
SHOWN = {
    "regret_mnat": ("regret mnat", 1.0),
    "ece": ("ECE %", 100.0),
    "worst_group": ("worst group %", 100.0),
    "worst_window": ("worst 1000 %", 100.0),
    "windows_over": ("over 5 % in %", 100.0),
    "coverage": ("coverage", 1.0),
    "recovery_labels": ("recovery", 1.0),
    "false_jumps": ("false jumps", 1.0),
    "learn_us": ("learn us", 1.0),
    "predict_us": ("predict us", 1.0),
    "state_bytes": ("state B", 1.0),
}

Job = tuple[str, str, str, int, tuple[float, float]]
Line = dict[str, str | int | float | None]


def work(job: Job) -> Line:
    """Run one method over one stream."""
    method, stream, stress, seed, shift = job
    figures = measure(Run({**METHODS, **VARIANTS}[method](), make(stream, stress, seed, shift)).go())
    return {"method": method, "stream": stream, "stress": stress, "seed": seed, **figures}


def table(lines: list[Line]) -> str:
    """Return one text table per stress and stream: the mean over seeds of each figure (worst window: its maximum)."""
    shown = []
    for stress, stream in dict.fromkeys((line["stress"], line["stream"]) for line in lines):
        shown.append(f"\n{stream}, stress {stress}\n{'':24}" + "".join(f"{title:>15}" for title, _ in SHOWN.values()))
        here = [line for line in lines if (line["stress"], line["stream"]) == (stress, stream)]
        for method in dict.fromkeys(line["method"] for line in here):
            cells = [cell([line[key] for line in here if line["method"] == method], key) for key in SHOWN]
            shown.append(f"{method:24}" + "".join(f"{text:>15}" for text in cells))
    return "\n".join(shown)


def cell(values: list[str | int | float | None], key: str) -> str:
    """Format the figures of all seeds as one."""
    known = [float(value) for value in values if value is not None]
    if not known:
        return "-"
    value = max(known) if key == "worst_window" else fmean(known)
    return "never" if math.isinf(value) else f"{SHOWN[key][1] * value:.2f}"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.add_argument("--seeds", default="1,2", help="comma-separated integers: any, also ones nobody has tried")
    parser.add_argument("--streams", default="all", help=f"all, or some of {', '.join(STREAMS)}")
    parser.add_argument("--stress", default="none", help=f"all, or some of {', '.join(STRESSES)}; +a adds audits")
    parser.add_argument("--methods", default="all", help=f"all, or some of {', '.join(METHODS | VARIANTS)}")
    parser.add_argument("--shift", default="1.2:1.2", help="size of the shift in logits, LOW:HIGH, drawn per seed")
    parser.add_argument(
        "--json", type=Path, help="write one row per method, stream, stress and seed (rates: fractions)"
    )
    parser.add_argument("--plot", type=Path, help="write a figure of regret, worst window and recovery (SVG or PNG)")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    return parser.parse_args()


def chosen(given: str, known: Mapping[str, object]) -> list[str]:
    """Return the names given; raises SystemExit for one that is not known."""
    names = list(known) if given == "all" else given.split(",")
    for name in names:
        if name.removesuffix("+a") not in known:
            raise SystemExit(f"there is no {name!r}; there are {', '.join(known)}")
    return names


def main() -> None:
    """Run all jobs, print the tables, write what was asked for."""
    args = arguments()
    low, high = (float(part) for part in args.shift.split(":"))
    jobs: list[Job] = [
        (method, stream, stress, int(seed), (low, high))
        for stress in chosen(args.stress, STRESSES)
        for stream in chosen(args.streams, STREAMS)
        for method in (METHODS if args.methods == "all" else chosen(args.methods, METHODS | VARIANTS))
        for seed in args.seeds.split(",")
    ]
    with Pool(args.jobs) as pool:
        lines = pool.map(work, jobs, chunksize=1)
    print(table(lines))
    if args.json:
        finite = [{k: None if v == math.inf else v for k, v in line.items()} for line in lines]
        args.json.write_text(json.dumps(finite, indent=1, allow_nan=False) + "\n")
    if args.plot:
        from benchmarks.calibration.plots import draw  # noqa: PLC0415  # matplotlib only if a figure is wanted

        draw(lines, args.plot)


if __name__ == "__main__":
    main()
