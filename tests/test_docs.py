"""What every public name's documentation has to have."""

import inspect

import fusegrad as fg

# Said by their class, or with another name's example.
SHARED = {
    "Optimizer",
    "Optimizer.check",
    "Optimizer.prepare",
    "Optimizer.step",
    "Sequential.save",
    "testing.GradientCheck",
}


def public():
    """Every public function, class and method of a class, by name; properties and reference.py speak for themselves."""
    rooms = {"": fg, "kernels.": fg.kernels, "datasets.": fg.datasets, "testing.": fg.testing}
    for prefix, room in rooms.items():
        for name, thing in vars(room).items():
            ours = getattr(thing, "__module__", "").startswith("fusegrad")
            if name.startswith("_") or not ours or (prefix and thing.__module__ != room.__name__):
                continue
            yield prefix + name, thing
            if inspect.isclass(thing):
                for method, member in vars(thing).items():
                    if not method.startswith("_") and inspect.isfunction(member):
                        yield f"{prefix}{name}.{method}", member


def test_every_public_name_has_an_example():
    names = dict(public())
    assert len(names) > 40, sorted(names)
    missing = {name for name, thing in names.items() if ">>>" not in (thing.__doc__ or "")}
    assert missing == SHARED


def test_every_public_name_says_what_it_is():
    assert not [name for name, thing in public() if not (thing.__doc__ or "").strip()]
