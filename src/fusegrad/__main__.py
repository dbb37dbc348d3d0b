"""The command line: ``python -m fusegrad demo | bench | info``."""

import argparse
import os
import sys
from importlib.metadata import metadata
from importlib.util import find_spec
from pathlib import Path

import fusegrad
from fusegrad import lessons


def main(arguments: list[str] | None = None) -> None:
    """Run one subcommand."""
    parser = argparse.ArgumentParser(prog="python -m fusegrad", description=metadata("fusegrad")["Summary"])
    parser.add_argument("--version", action="version", version=f"fusegrad {fusegrad.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True)
    demo = verbs.add_parser(
        "demo",
        help="train the four networks on Auto MPG: a table and a picture; or the picture of a lesson",
        epilog="lessons: " + ", ".join(lessons.LESSONS),
    )
    demo.add_argument(
        "--lesson", choices=lessons.LESSONS, metavar="NAME", help="draw the picture of this lesson instead"
    )
    demo.add_argument("--output", type=Path, default=Path("fusegrad-demo.png"), help="where to write the picture")
    demo.add_argument("--quiet", action="store_true", help="no progress bars")
    verbs.add_parser("bench", help="time steps beside the NumPy reference")
    verbs.add_parser("info", help="what this installation runs on")
    chosen = parser.parse_args(arguments)
    if chosen.verb == "demo":
        bars = not chosen.quiet and chosen.lesson is None
        missing = [name for name in ("matplotlib", *["tqdm"] * bars) if find_spec(name) is None]
        if missing:
            demo.error(f'needs {" and ".join(missing)}: pip install "fusegrad[plots,progress]"')
        if not chosen.output.absolute().parent.is_dir():
            demo.error(f"--output: no folder {chosen.output.absolute().parent}")
        if chosen.output.suffix not in (".png", ".pdf", ".svg"):
            demo.error(f"--output: expected a name that ends in .png, .pdf or .svg, got {chosen.output}")
        if chosen.lesson is not None:
            lessons.draw(chosen.lesson, chosen.output)
            return
        from fusegrad import demo as verb

        verb.main(chosen.output, verbose=0 if chosen.quiet else 1)
    elif chosen.verb == "bench":
        from fusegrad import bench

        bench.main()
    else:
        fusegrad.show_config()


def run() -> None:
    """Run the command line; exit silently if the output is closed early, as in ``info | head -2``."""
    try:
        try:
            main()
        finally:
            print(end="", flush=True)
    except BrokenPipeError:
        # The rest of the buffers is discarded; else Python would report an error at exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.dup2(nowhere, sys.stderr.fileno())
        sys.exit(1)


if __name__ == "__main__":
    run()
