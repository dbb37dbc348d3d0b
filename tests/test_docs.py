"""What every public name's documentation has to have."""

import inspect
import re
import tomllib
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

import fusegrad as fg
from fusegrad.cli.main import main

pytestmark = pytest.mark.once

# Said by their class, or with another name's example.
SHARED = {
    "Optimizer",
    "Optimizer.check",
    "Optimizer.prepare",
    "Optimizer.step",
    "Predictor.save",
    "Sequential.save",
    "testing.GradientCheck",
}


def public():
    """Every public function, class and method of a class, by name; properties and reference.py speak for themselves."""
    rooms = {"": fg, "kernels.": fg.kernels, "datasets.": fg.datasets, "losses.": fg.losses, "testing.": fg.testing}
    rooms |= {"second_order.": fg.second_order, "plots.": fg.plots}
    for prefix, room in rooms.items():
        for name, thing in vars(room).items():
            if prefix and name not in getattr(room, "__all__", [name]):
                continue
            ours = getattr(thing, "__module__", "").startswith("fusegrad")
            if name.startswith("_") or not ours or (prefix and thing.__module__ != room.__name__):
                continue
            yield prefix + name, thing
            if inspect.isclass(thing):
                hidden = (base for base in thing.__bases__ if not hasattr(fg, base.__name__))
                methods = {name: member for kind in (thing, *hidden) for name, member in vars(kind).items()}
                for method, member in methods.items():
                    # on_start and on_end are how `fit` calls any callback: callbacks.py describes them once.
                    if not method.startswith(("_", "on_")) and inspect.isfunction(member):
                        yield f"{prefix}{name}.{method}", member


def test_every_public_name_has_an_example():
    names = dict(public())
    assert len(names) > 40, sorted(names)
    missing = {name for name, thing in names.items() if ">>>" not in (thing.__doc__ or "")}
    assert missing == SHARED


def test_every_public_name_says_what_it_is():
    assert not [name for name, thing in public() if not (thing.__doc__ or "").strip()]


ROOT = Path(__file__).parents[1]
TEXTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").rglob("*.md")),
]


def test_every_test_that_the_documents_name_is_there():
    named = {match for text in TEXTS for match in re.findall(r"`(tests/\S+?\.py)::(\w+)`", text.read_text())}
    assert len(named) > 30
    missing = [
        f"{file}::{name}"
        for file, name in sorted(named)
        if not (ROOT / file).exists() or f"def {name}(" not in (ROOT / file).read_text()
    ]
    assert missing == []


def test_every_command_that_the_documents_name_is_there():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {match for text in TEXTS for match in re.findall(r"`make ([\w-]+)", text.read_text())}
    assert named - targets == set()
    assert targets >= set(re.findall(r"^## make (\S+)", (ROOT / "Makefile").read_text(), re.M))
    verbs = set(re.findall(r"`(?:python -m )?fusegrad (\w+)[` ]", "".join(text.read_text() for text in TEXTS)))
    blocks = [block for text in TEXTS for block in re.findall(r"^```sh\n(.*?)^```", text.read_text(), re.M | re.S)]
    lines = [line.partition("#")[0].split() for block in blocks for line in block.splitlines()]
    for command, *words in filter(None, lines):
        assert command in ("make", "python", "pip", "fusegrad"), command
        if command == "make":
            assert {word for word in words if "=" not in word} <= targets, words
        elif command == "python":
            assert words[:2] == ["-m", "fusegrad"], words
            verbs.add(words[2])
        elif command == "fusegrad":
            verbs.add(words[0])
    assert verbs
    for verb in sorted(verbs):
        with pytest.raises(SystemExit) as ended:
            main([verb, "--help"])
        assert ended.value.code == 0, verb


def test_every_extra_that_is_named_is_there():
    """By an error or a document: what it tells people to install has to work."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    sources = [*TEXTS, *(ROOT / "src").rglob("*.py")]
    named = {
        extra
        for source in sources
        for extras in re.findall(r"(?:fusegrad|\"\.)\[([\w,]+)\]", source.read_text())
        for extra in extras.split(",")
    }
    assert {"plots", "progress"} <= named <= set(project["optional-dependencies"])


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


# joblib counts cores by a program, which is not on the path of every environment.
@pytest.mark.filterwarnings("ignore:Could not find the number of physical cores")
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_blocks_of_python_run_as_they_stand(document, tmp_path, monkeypatch):
    """In order, in an empty directory; the blocks of one document see each other's names."""
    monkeypatch.chdir(tmp_path)
    run_blocks(document)


def run_blocks(document):
    """Those marked as py need a peer: tests/peers/test_interop.py runs them."""
    blocks = list(Sybil([PythonCodeBlockParser()]).parse(document).examples())
    for block in blocks:
        block.evaluate()
    assert len(blocks) >= len(re.findall("^```python", document.read_text(), re.M))
