"""The page of a training: one HTML file with its pictures inside, which needs no network."""

import base64
import html
import io
from pathlib import Path
from typing import Any

import numpy as np

from fusegrad.cli import InputError, tables

try:
    from matplotlib.figure import Figure
except ModuleNotFoundError:
    raise InputError('--report draws with matplotlib: pip install "fusegrad[cli]"') from None

from sklearn.metrics import confusion_matrix

import fusegrad
from fusegrad.plots import COLOURS

MOST_COLUMNS = 12  # that are shown with their importance
MOST_CLASSES = 12  # whose names fit beside a confusion matrix
MOST_ROWS = 2000  # with which importances are measured
REPEATS = 3  # of the shuffling of a column

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #22262c; }}
table {{ border-collapse: collapse; }} td {{ padding: .2rem 1.2rem .2rem 0; border-bottom: 1px solid #ddd; }}
pre {{ background: #f3f4f6; padding: .8rem; overflow-x: auto; font-size: 13px; }}
img {{ max-width: 100%; height: auto; }} figure {{ margin: 2rem 0; }} figcaption {{ color: #555; }}
</style></head><body>
<h1>{title}</h1>
<table>{rows}</table>
{notes}{figures}
<p>The same in Python:</p><pre>{lines}</pre>
<p>fusegrad {version}</p>
</body></html>
"""


def write(path: Path, model: Any, X: Any, y: Any, results: dict[str, Any], seed: int, lines: str) -> None:
    """Write the page; the pictures of the test need rows to test with."""
    figures = [(_losses(model), "Loss of each epoch, of the training and of the held-out part.")]
    if len(y):
        if results["task"] == "classes":
            figures.append((_confusion(model, X, y), "Classes of the test rows, measured and predicted."))
        else:
            figures.append((_predicted(model, X, y), "Test rows, measured and predicted: right would be on the line."))
        what = "accuracy" if results["task"] == "classes" else "R²"
        figures.append((_importances(model, X, y, seed), f"How much {what} falls if a column is shuffled."))
    rows = {name: value for name, value in results.items() if name not in ("test", "columns", "left out")}
    rows |= {f"test: {name}": f"{value:.4g}" for name, value in results.get("test", {}).items()}
    text = PAGE.format(
        title=html.escape(f"{results['target']}: a model of {len(results['columns'])} columns"),
        rows="".join(
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(v))}</td></tr>" for name, v in rows.items()
        ),
        figures="\n".join(
            f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{_encoded(figure)}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
            for figure, caption in figures
        ),
        notes="".join(f"<p>{html.escape(line)}</p>\n" for line in results["left out"]),
        lines=html.escape(lines),
        version=fusegrad.__version__,
    )
    tables.write_bytes(text.encode(), path)


def _encoded(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return base64.b64encode(buffer.getvalue()).decode()


def _plain(name: Any) -> str:
    """A name that matplotlib does not set as mathematics."""
    return str(name).replace("$", r"\$")


def _axes(width: float = 7.0, height: float = 4.0) -> Any:
    return Figure(figsize=(width, height), layout="constrained").add_subplot()


def _losses(model: Any) -> Figure:
    axes = _axes()
    axes.plot(model.loss_curve_, color=COLOURS[0], label="training")
    axes.plot(model.validation_loss_curve_, color=COLOURS[1], linestyle="--", label="held out")
    axes.set(xlabel="epoch", ylabel="loss", yscale="log")
    axes.legend()
    return axes.figure


def _predicted(model: Any, X: Any, y: Any) -> Figure:
    axes = _axes(5.0, 5.0)
    prediction = model.predict(X)
    axes.scatter(y, prediction, s=12, alpha=0.5, color=COLOURS[0], linewidths=0)
    ends = [float(min(y.min(), prediction.min())), float(max(y.max(), prediction.max()))]
    axes.plot(ends, ends, color="black", linewidth=0.8, linestyle="--")
    axes.locator_params(nbins=5)
    axes.set(xlabel="measured", ylabel="predicted")
    return axes.figure


def _confusion(model: Any, X: Any, y: Any) -> Figure:
    counts = confusion_matrix(y, model.predict(X), labels=model.classes_)
    n = len(counts)
    side = 2.5 + 0.45 * min(n, MOST_CLASSES)
    axes = _axes(side + 0.6, side)
    axes.imshow(counts, cmap="Blues")
    if n <= MOST_CLASSES:
        for (i, j), count in np.ndenumerate(counts):
            axes.text(
                j, i, str(count), ha="center", va="center", color="white" if 2 * count > counts.max() else "black"
            )
        names = [_plain(name) for name in model.classes_]
        axes.set_xticks(range(n), names, rotation=45, ha="right")
        axes.set_yticks(range(n), names)
    axes.set(xlabel="predicted", ylabel="measured")
    return axes.figure


def _importances(model: Any, X: Any, y: Any, seed: int) -> Figure:
    X, y, rng = X[:MOST_ROWS], y[:MOST_ROWS], np.random.default_rng(seed)
    score = model.score(X, y)
    falls = {}
    for name in X.columns:
        shuffled = (X.with_columns(X[name][rng.permutation(len(y))]) for _ in range(REPEATS))
        falls[name] = score - float(np.mean([model.score(part, y) for part in shuffled]))
    shown = sorted(falls, key=lambda name: falls[name])[-MOST_COLUMNS:]
    axes = _axes(7.0, 0.35 * len(shown) + 1.2)
    axes.barh([_plain(name) for name in shown], [falls[name] for name in shown], color=COLOURS[0])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel="fall of the score")
    return axes.figure
