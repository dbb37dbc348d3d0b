"""Saving and loading."""

import json
import re

import numpy as np
import pytest
from support import perturbed

import fusegrad as fg

LAYERS = (fg.Linear(3, 4), fg.Sigmoid(), fg.Linear(4, 5, bias=False), fg.ReLU(), fg.Linear(5, 2), fg.Identity())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


def test_a_network_comes_back(path, dtype):
    net = perturbed(*LAYERS, dtype=dtype)
    net.save(path)
    same = fg.load(path)
    assert repr(same) == repr(net)
    np.testing.assert_array_equal(same.parameters, net.parameters)
    net.parameters[:] = 1
    net.save(str(path))
    assert (fg.load(str(path)).parameters == 1).all()
    assert list(path.parent.iterdir()) == [path], "litter"


def test_the_file_is_safetensors(path, dtype):
    net = perturbed(*LAYERS, dtype=dtype)
    net.save(path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert (8 + length) % 8 == 0
    for name, value in net.state_dict().items():
        start, stop = header[name]["data_offsets"]
        assert header[name]["shape"] == list(value.shape)
        stored = np.frombuffer(data[8 + length + start : 8 + length + stop], dtype).reshape(value.shape)
        np.testing.assert_array_equal(stored, value)


def test_damage_is_found(path):
    fg.TwoLayerSigmoid(2, 3, rng=0).save(path)
    data = path.read_bytes()
    for place in range(len(data)):
        for bit in (0, 3, 7):
            broken = bytearray(data)
            broken[place] ^= 1 << bit
            path.write_bytes(broken)
            with pytest.raises(ValueError, match=r"net\.safetensors: "):
                fg.load(path)
    for length in (0, 1, 7, 8, 9, 100, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"net\.safetensors: "):
            fg.load(path)
    path.write_bytes(data + b"x")
    with pytest.raises(ValueError, match=r"expected 524 bytes, got 525"):
        fg.load(path)


def test_a_missing_file(path):
    with pytest.raises(FileNotFoundError):
        fg.load(path)


def test_what_cannot_be_written(tmp_path):
    for nowhere in ("/", tmp_path, tmp_path / "nowhere" / "net.safetensors"):
        with pytest.raises(OSError, match=re.escape(str(nowhere))):
            fg.UnivariateRegression(rng=0).save(nowhere)
    net = fg.UnivariateRegression(rng=0)
    for wrong in (3, b"bytes", None):
        with pytest.raises(TypeError, match=r"path: expected a str or a pathlib\.Path, got"):
            net.save(wrong)
        with pytest.raises(TypeError, match=r"path: expected a str or a pathlib\.Path, got"):
            fg.load(wrong)
    with pytest.raises(FileNotFoundError, match=r"nowhere/net\.safetensors'$"):
        net.save(tmp_path / "nowhere" / "net.safetensors")


def test_a_saved_file_is_as_open_to_others_as_any(path, tmp_path):
    usual = tmp_path / "usual"
    usual.write_text("")
    net = fg.UnivariateRegression(rng=0)
    net.save(path)
    assert path.stat().st_mode == usual.stat().st_mode
    link = tmp_path / "link"
    link.symlink_to(path)
    net.parameters[:] = 7
    net.save(link)
    assert link.is_symlink()
    assert (fg.load(path).parameters == 7).all()
