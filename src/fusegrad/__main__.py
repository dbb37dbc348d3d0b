"""The command line: ``python -m fusegrad demo | bench | info``."""

import argparse
from pathlib import Path

import fusegrad


def main(arguments: list[str] | None = None) -> None:
    """Run one verb."""
    parser = argparse.ArgumentParser(prog="python -m fusegrad", description=fusegrad.__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    demo = verbs.add_parser("demo", help="train the four networks on Auto MPG: a table and a picture")
    demo.add_argument("--output", type=Path, default=Path("fusegrad-demo.png"), help="where to write the picture")
    demo.add_argument("--quiet", action="store_true", help="no progress bars")
    verbs.add_parser("bench", help="time steps beside the NumPy reference")
    verbs.add_parser("info", help="what this installation runs on")
    chosen = parser.parse_args(arguments)
    if chosen.verb == "demo":
        from fusegrad import demo as verb

        verb.main(chosen.output, verbose=0 if chosen.quiet else 1)
    elif chosen.verb == "bench":
        from fusegrad import bench

        bench.main()
    else:
        fusegrad.show_config()


if __name__ == "__main__":
    main()
