"""The arguments and the exit codes of the command."""

import argparse
import os
import sys
from importlib.metadata import metadata
from importlib.util import find_spec
from pathlib import Path

import fusegrad
from fusegrad import lessons
from fusegrad.cli import InputError

TRAIN = """examples:
  fusegrad train cars.csv --target price --out model.safetensors --report report.html
  fusegrad train visits.parquet --target returned --task classes --network 128,64 --epochs 100
  fusegrad train cars.csv.gz --target price --json | jq .test.r2"""
PREDICT = """examples:
  fusegrad predict model.safetensors new.csv --out predictions.csv
  fusegrad predict model.safetensors new.parquet | head"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fusegrad", description=metadata("fusegrad")["Summary"])
    parser.add_argument("--version", action="version", version=f"fusegrad {fusegrad.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True)

    def verb(name: str, about: str, epilog: str | None = None) -> argparse.ArgumentParser:
        return verbs.add_parser(
            name, help=about, description=about, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    train = verb("train", "train a model on a table, and save it", TRAIN)
    train.add_argument("table", type=Path, help="a .csv, .csv.gz or .parquet file; its columns have names")
    train.add_argument("--target", required=True, metavar="NAME", help="the column to predict")
    train.add_argument(
        "--task", choices=("auto", "numbers", "classes"), default="auto",
        help="what the target is; auto: classes if it is text, true or false, or at most 10 different whole numbers",
    )  # fmt: skip
    train.add_argument(
        "--network", type=_sizes, default=(256, 256, 256), metavar="N,N,...",
        help="units of the hidden layers (256,256,256; 64,64,64 takes a tenth of the time)",
    )  # fmt: skip
    train.add_argument("--epochs", type=_positive, default=256, metavar="N", help="epochs (256)")
    train.add_argument("--test", type=_share, default=0.2, metavar="SHARE", help="share of the rows to test with (0.2)")
    train.add_argument("--seed", type=_seed, default=0, metavar="N", help="the seed of all draws (0)")
    train.add_argument("--ignore", action="append", default=[], metavar="NAME", help="a column to leave out, as an id")
    train.add_argument("--out", type=Path, metavar="FILE", help="where to save the model (.safetensors)")
    train.add_argument("--report", type=Path, metavar="FILE", help="where to write a page with pictures (.html)")
    train.add_argument("--threads", type=_positive, metavar="N", help="the most threads to use")
    train.add_argument("--json", action="store_true", help="print the results as JSON, and nothing else")
    train.add_argument("--quiet", action="store_true", help="no progress")

    predict = verb("predict", "predict with a saved model", PREDICT)
    predict.add_argument("model", type=Path, help="a file that `fusegrad train` saved")
    predict.add_argument("table", type=Path, help="a .csv, .csv.gz or .parquet file with the columns of the training")
    predict.add_argument("--out", type=Path, metavar="FILE", help="a .csv or .parquet file; default: standard output")

    demo = verb(
        "demo", "train the four networks on Auto MPG: a table and a picture; or the picture of a lesson",
        "lessons: " + ", ".join(lessons.LESSONS),
    )  # fmt: skip
    demo.add_argument(
        "--lesson", choices=lessons.LESSONS, metavar="NAME", help="draw the picture of this lesson instead"
    )
    demo.add_argument("--output", type=Path, default=Path("fusegrad-demo.png"), help="where to write the picture")
    demo.add_argument("--quiet", action="store_true", help="no progress bars")
    verb("bench", "time steps beside the NumPy reference")
    verb("info", "what this installation runs on")
    return parser


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _positive(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 2^32 - 1, got {text!r}")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"expected at least 0 and less than 1, got {text!r}")
    return share


def main(arguments: list[str] | None = None) -> int:
    """Run one verb, and return its exit code."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    try:
        if chosen.verb in ("train", "predict"):
            missing = [name for name in ("polars", "sklearn") if find_spec(name) is None]
            if missing:
                raise InputError(f'{" and ".join(missing)} not installed: pip install "fusegrad[cli]"')
        if chosen.verb == "train":
            from fusegrad.cli import train

            return train.run(chosen)
        if chosen.verb == "predict":
            from fusegrad.cli import predict

            return predict.run(chosen)
        if chosen.verb == "demo":
            _demo(chosen, parser)
        elif chosen.verb == "bench":
            from fusegrad.cli import bench

            bench.main()
        else:
            fusegrad.show_config()
    except InputError as error:
        print(f"fusegrad: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if error.filename is None:  # of standard output, most likely: see run()
            raise
        print(f"fusegrad: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except MemoryError:
        print("fusegrad: not enough memory for this table or network", file=sys.stderr)
        return 1
    return 0


def _demo(chosen: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    bars = not chosen.quiet and chosen.lesson is None
    missing = [name for name in ("matplotlib", *["tqdm"] * bars) if find_spec(name) is None]
    if missing:
        parser.error(f'demo needs {" and ".join(missing)}: pip install "fusegrad[plots,progress]"')
    if not chosen.output.absolute().parent.is_dir():
        parser.error(f"--output: no folder {chosen.output.absolute().parent}")
    if chosen.output.suffix not in (".png", ".pdf", ".svg"):
        parser.error(f"--output: expected a name that ends in .png, .pdf or .svg, got {chosen.output}")
    if chosen.lesson is not None:
        lessons.draw(chosen.lesson, chosen.output)
        return
    from fusegrad import demo

    demo.main(chosen.output, verbose=0 if chosen.quiet else 1)


def run() -> None:
    """The command's entry point; it exits silently if its output is closed early, as in ``info | head -2``."""
    try:
        try:
            code = main()
        finally:
            print(end="", flush=True)
    except KeyboardInterrupt:  # before main() began, or after it
        code = 130
    except BrokenPipeError:
        # The rest of the buffers is discarded; else Python would report an error at exit.
        _discard_output()
        code = 1
    except OSError as error:
        print(f"fusegrad: standard output: {error.strerror}", file=sys.stderr)
        _discard_output()
        code = 1
    sys.exit(code)


def _discard_output() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.dup2(nowhere, sys.stderr.fileno())
