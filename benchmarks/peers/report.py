"""The rows as text, JSON, a picture and a Markdown table."""

import json
import platform
from datetime import date
from pathlib import Path
from typing import Any


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def against_goals(row: dict[str, Any]) -> list[tuple[str, float, float | None]]:
    """(against whom, times faster, times wanted); the limit is one of them, as a share."""
    _, *others = row["seconds"]
    found: list[tuple[str, float, float | None]] = [
        (label, row["ratios"][label], row["goals"].get(label)) for label in others
    ]
    if row["flops"] or row["activations"]:
        found.append(("limit", row["share"], row["limit_goal"]))
    return found


def show_row(row: dict[str, Any]) -> None:
    """Print a row: our time, then how many times slower everybody else is; ! marks a goal that is missed."""
    first = next(iter(row["seconds"]))
    own = row["seconds"][first]
    cells = []
    for label, ratio, goal in against_goals(row):
        text = f"{label} {ratio:.2f}" if label == "limit" else f"{label} {ratio:.3g}x"
        if goal is not None:
            text += f" ({goal:.2f})" if label == "limit" else f" ({goal:g}x)"
            text += "!" * (ratio < goal)
        cells.append(text)
    if row["seconds_goal"]:
        cells.append(f"({duration(row['seconds_goal'])})" + "!" * (own["median"] > row["seconds_goal"]))
    if row["flops"] and row["activations"]:
        cells.append(f"of the peak {row['share_of_peak']:.2f}, with sigmoid {row['share_of_ceiling']:.2f}")
    times = f"{duration(own['min']):>8} {duration(own['median']):>8}"
    print(f"{row['group']:<16}{row['title']:<44}{times}  {', '.join(cells)}", flush=True)


def machine() -> dict[str, str]:
    """Where it was measured."""
    import numpy as np

    import fusegrad._engine.config

    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = names[0] if names else processor
    return {
        "date": date.today().isoformat(),
        "processor": processor,
        "numpy_blas": str(np.show_config(mode="dicts")["Build Dependencies"]["blas"].get("version", "?")),
        **fusegrad._engine.config.config(),
    }


def write_report(folder: Path, results: list[dict[str, Any]], sigmoid: dict[str, float]) -> None:
    """results.json, table.md and limits.png in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    where = machine()
    text = json.dumps({"machine": where, "sigmoid_flops": sigmoid, "rows": results}, indent=1)
    (folder / "results.json").write_text(text + "\n")
    (folder / "table.md").write_text(markdown(results, where))
    picture(folder / "limits.png", results, where)
    print(f"{folder / 'results.json'}, {folder / 'table.md'}, {folder / 'limits.png'}")


def markdown(results: list[dict[str, Any]], where: dict[str, str]) -> str:
    """A table for benchmarks/README.md."""
    lines = [
        ", ".join(where[name] for name in ("processor", "instruction set", "compiler", "date")),
        "",
        "| | | time | times faster than (goal) | share of the limit (goal) | of the peak, with sigmoid |",
        "|---|---|---|---|---|---|",
    ]
    for row in results:
        own = next(iter(row["seconds"].values()))
        peers, limit = [], ""
        for label, ratio, goal in against_goals(row):
            wanted = "" if goal is None else f" ({goal:.2g})"
            mark = "**" if goal is not None and ratio < goal else ""
            if label == "limit":
                limit = f"{mark}{ratio:.2f}{mark}{wanted}"
            else:
                peers.append(f"{label} {mark}{ratio:.3g}{mark}{wanted}")
        both = row["flops"] and row["activations"]
        slots = f"{row['share_of_peak']:.2f}, {row['share_of_ceiling']:.2f}" if both else ""
        cells = (row["group"], row["title"], duration(own["median"]), ", ".join(peers), limit, slots)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def picture(path: Path, results: list[dict[str, Any]], where: dict[str, str]) -> None:
    """Bars: the time of each system over the limit of the machine, for the steps inside a fit and on their own."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in results if row["group"] in ("step", "fit") and len(row["seconds"]) > 1]
    if not rows:
        return
    colours = {
        "fusegrad": "#d1495b", "fusegrad v3": "#e8a0a9", "NumPy": "#00798c", "NumPy out=": "#7fbcc5",
        "PyTorch": "#edae49", "JAX": "#30638e", "scikit-learn": "#8d96a3",
    }  # fmt: skip
    figure, axes = plt.subplots(figsize=(11, 0.42 * len(rows) + 1.8), layout="constrained")
    for place, row in enumerate(reversed(rows)):
        for label, ratio in row["ratios"].items():
            axes.plot(
                ratio / row["share"], place, "o", color=colours[label], markersize=8,
                markeredgecolor="white", markeredgewidth=0.6,
            )  # fmt: skip
    axes.axvline(1, color="black", linewidth=1)
    axes.text(1, len(rows) - 0.3, " the processor's limit", fontsize=9, va="bottom")
    axes.set_yticks(range(len(rows)), [f"{row['group']}: {row['title']}" for row in reversed(rows)], fontsize=9)
    axes.set_xscale("log")
    axes.set_xlabel("time of a step over the limit: its multiply-adds, sigmoids and bytes at the core's own pace")
    axes.grid(axis="x", which="major", color="#dddddd")
    axes.set_axisbelow(True)
    shown = [label for label in colours if any(label in row["seconds"] for row in rows)]
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=colours[label], label=label) for label in shown]
    axes.legend(handles=handles, loc="lower right", frameon=True, fontsize=9)
    axes.set_title(f"One core of {where['processor']}, float32, {where['date']}", fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
