import numpy as np

import fusegrad as fg


def test_auto_mpg():
    X, y = fg.datasets.load_auto_mpg()
    assert (X.shape, y.shape, X.dtype, y.dtype) == ((6, 392), (1, 392), np.float64, np.float64)
    assert len(fg.datasets.AUTO_MPG_FEATURES) == 6
    weight = X[fg.datasets.AUTO_MPG_FEATURES.index("weight")]
    assert (weight.min(), weight.max()) == (1613, 5140)
    assert y.mean().round(4) == 23.4459
    assert "CC BY 4.0" in fg.datasets.load_auto_mpg.__doc__


def test_penguins():
    X, y = fg.datasets.load_penguins()
    assert (X.shape, y.shape) == ((1, 342), (1, 342))
    assert (X.min(), X.max()) == (172, 231)
    assert y.mean().round(2) == 4201.75
    assert "CC0" in fg.datasets.load_penguins.__doc__
