"""One figure of a benchmark: regret, worst window and recovery of every method, a dot per stream and seed."""

from pathlib import Path

from matplotlib.figure import Figure

PANELS = {
    "regret_mnat": ("log-loss above the oracle, 1/1000 nat", 1.0),
    "worst_window": ("worst 1,000 greens, rejected %", 100.0),
    "recovery_labels": ("labels until recovered", 1.0),
}
CUT = 5.0


def draw(lines: list[dict[str, str | int | float | None]], path: Path) -> None:
    """Write the figure; runs that never recovered stand at the right edge."""
    methods = list(dict.fromkeys(str(line["method"]) for line in lines))
    figure = Figure(figsize=(12.0, 1.0 + 0.3 * len(methods)), layout="constrained")
    for axes, (key, (title, scale)) in zip(figure.subplots(1, len(PANELS), sharey=True), PANELS.items(), strict=True):
        known = [(str(line["method"]), scale * float(line[key])) for line in lines if line[key] is not None]
        limit = 1.1 * max((value for _, value in known if value != float("inf")), default=1.0)
        axes.scatter(
            [min(value, limit) for _, value in known],
            [methods.index(method) for method, _ in known],
            s=14,
            alpha=0.5,
            color=["#d1495b" if method == "demur" else "#30638e" for method, _ in known],
        )
        if key == "worst_window":
            axes.axvline(CUT, color="black", linewidth=0.8)
        axes.set_title(title, fontsize=10)
        axes.set_yticks(range(len(methods)), methods)
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(path)
