"""Pictures of circuits: one layout, drawn as SVG or on Axes of matplotlib.

Inputs are on the left. A gate is one column right of the last of its inputs, at their mean height, or below the gate
above it in its column. On the wire behind each gate or input its value is above and its gradient below, so that they
are told apart without colour, too.

Rejected: graphviz (a program to install); matplotlib for notebooks, too (SVG is text, and needs nothing).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

COLUMN, ROW, SIZE = 130.0, 62.0, 15.0  # pixels between columns and rows; radius of a gate
STUB = 62.0  # of a wire behind its gate, on which the numbers are
VALUE, GRADIENT = "#00703c", "#b3261e"
FONT = "DejaVu Sans, Helvetica, Arial, sans-serif"


class Mark(NamedTuple):
    """A line from (x, y) to (x2, y2), a gate, or a text, centred at (x, y); y points down."""

    kind: str  # "line", "gate", "value", "gradient", "name"
    x: float
    y: float
    text: str = ""
    x2: float = 0.0
    y2: float = 0.0


def places(circuit: Any) -> dict[Any, tuple[float, float]]:
    """The column and the row of each wire's gate, or of the input."""
    found: dict[Any, tuple[float, float]] = {}
    last: dict[float, float] = {}  # row used last in each column
    for wire in circuit.wires:
        below = [found[inner] for inner in wire.gate.inputs] if wire.gate else []
        column = 1 + max((x for x, _ in below), default=-1.0)
        row = sum(y for _, y in below) / len(below) if below else 0.0
        row = max(row, last.get(column, -1.0) + 1)
        found[wire], last[column] = (column, row), row
    return found


def n_frames(circuit: Any) -> int:
    """How many frames show the flow: the inputs, each gate forward, the output's gradient, each gate backward."""
    return 2 * len(circuit.gates) + 2


def marks(circuit: Any, frame: int | None = None) -> Iterator[Mark]:
    """What a picture consists of. frame: with the values and gradients that are known by then; None: with all."""
    n = len(circuit.gates)
    frame = n_frames(circuit) - 1 if frame is None else frame
    place = {wire: (column * COLUMN + 40, row * ROW + 40) for wire, (column, row) in places(circuit).items()}
    order = {gate: i for i, gate in enumerate(circuit.gates, start=1)}
    ends = {wire: (x + SIZE + STUB, y) for wire, (x, y) in place.items()}
    for gate in circuit.gates:  # lines first: gates cover their ends
        for wire in gate.inputs:
            yield Mark("line", *ends[wire], "", *place[gate.output])
    for wire, (x, y) in place.items():
        yield Mark("line", x if wire.gate else x + SIZE, y, "", *ends[wire])
    for wire, (x, y) in place.items():
        yield Mark("gate" if wire.gate else "name", x, y, wire.gate.label if wire.gate else wire.name)
        middle = x + SIZE + STUB / 2
        if (order[wire.gate] if wire.gate else 0) <= frame:
            yield Mark("value", middle, y - 9, show(wire.value, ".2f"))
        # A gradient is complete when all gates that the wire goes to have sent theirs, the last gate first.
        senders = [n + 2 + n - order[gate] for gate in circuit.gates if wire in gate.inputs]
        if max(senders, default=n + 1) <= frame:
            yield Mark("gradient", middle, y + 10, show(wire.gradient, ".2f"))


def show(value: Any, digits: str = ".3g") -> str:
    """A number, as short as it is read; of an array the shape."""
    return f"{value + 0.0:{digits}}" if np.ndim(value) == 0 else f"{'×'.join(map(str, np.shape(value)))} array"


def new_axes(size: tuple[float, float], *, three: bool = False) -> Any:
    """Axes in a figure of their own, of two or three dimensions; size in inches."""
    try:
        from matplotlib import pyplot
    except ImportError:
        raise ImportError('pictures are drawn with matplotlib: pip install "fusegrad[plots]"') from None
    kind = {"projection": "3d"} if three else {}
    return pyplot.subplots(figsize=size, layout="constrained", subplot_kw=kind)[1]


def extent(circuit: Any) -> tuple[float, float]:
    """The width and height of a picture, in pixels."""
    found = places(circuit).values()
    columns, rows = max(x for x, _ in found), max(y for _, y in found)
    return columns * COLUMN + SIZE + STUB + 55, rows * ROW + 80


def as_svg(circuit: Any, frame: int | None = None) -> str:
    """The picture as SVG, for notebooks and pages."""
    from html import escape  # where it is needed: a tenth of the import of fusegrad

    width, height = extent(circuit)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="{FONT}" font-size="13" text-anchor="middle">'
    ]
    for mark in marks(circuit, frame):
        x, y, text = f"{mark.x:g}", f"{mark.y:g}", escape(mark.text)
        if mark.kind == "line":
            parts.append(f'<line x1="{x}" y1="{y}" x2="{mark.x2:g}" y2="{mark.y2:g}" stroke="#444"/>')
        elif mark.kind == "gate":
            half = max(SIZE, 4.6 * len(mark.text))
            parts.append(
                f'<rect x="{mark.x - half:g}" y="{mark.y - SIZE:g}" width="{2 * half:g}" height="{2 * SIZE:g}" '
                f'rx="{SIZE:g}" fill="#fff" stroke="#444"/>'
            )
            parts.append(f'<text x="{x}" y="{mark.y + 4.5:g}">{text}</text>')
        else:
            colour = {"value": VALUE, "gradient": GRADIENT}.get(mark.kind, "#000")
            style = ' font-style="italic"' if mark.kind == "gradient" else ""
            parts.append(f'<text x="{x}" y="{mark.y + 4.5:g}" fill="{colour}"{style}>{text}</text>')
    return "\n".join([*parts, "</svg>"])


def draw(circuit: Any, ax: Any = None, frame: int | None = None) -> Any:
    """The picture on Axes, a new one if there is none; returns it."""
    width, height = extent(circuit)
    ax = new_axes((width / 72, height / 72)) if ax is None else ax
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    ax.axis("off")
    for mark in marks(circuit, frame):
        if mark.kind == "line":
            ax.plot([mark.x, mark.x2], [mark.y, mark.y2], color="#444", linewidth=1, zorder=1)
            continue
        box = {"boxstyle": "round,pad=0.35,rounding_size=0.9", "facecolor": "white", "edgecolor": "#444"}
        ax.text(
            mark.x, mark.y, mark.text, ha="center", va="center", fontsize=10, zorder=2,
            color={"value": VALUE, "gradient": GRADIENT}.get(mark.kind, "black"),
            style="italic" if mark.kind == "gradient" else "normal", bbox=box if mark.kind == "gate" else None,
        )  # fmt: skip
    return ax
