"""How long each cell of the lessons takes, without drawing: a slider can move what takes at most 200 ms."""

import contextlib
import io
import re
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

LIMIT = 0.2  # seconds
LESSONS = Path(__file__).parents[1] / "docs" / "lessons"


def main():
    print(f"{'lesson':<28}{'cell':>5}{'ms':>7}")
    for path in sorted(LESSONS.glob("*.py")):
        code, names = path.read_text(encoding="utf-8").split('"""', 2)[2], {}
        for i, cell in enumerate(re.split(r"^# %%.*$", code, flags=re.MULTILINE)):
            compiled, start = compile(cell, str(path), "exec"), time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compiled, names)
            seconds = time.perf_counter() - start
            if seconds > LIMIT / 10:
                print(f"{path.stem:<28}{i:>5}{1e3 * seconds:>7.0f}{'  over the limit' if seconds > LIMIT else ''}")
        pyplot.close("all")


if __name__ == "__main__":
    main()
