"""Print the polynomials of ``cython_kernels/elementary.pxi`` (needs ``pip install mpmath``).

exp(r) = 1 + r + r^2 q(r) on |r| <= log(2)/2, and log((1 + s) / (1 - s)) = 2 s (1 + w q(w)), w = s^2, for the
fractions from sqrt(1/2) to sqrt(2); of functions.pxi, (1 + 2 t) erfcx(t) in q = (t - k) / (t + k).
The coefficients of q are those that minimise the largest error relative to the
function, found by Remez exchange in 60 digits and rounded once to the dtype.
"""

from collections.abc import Callable

from mpmath import atanh, erfc, exp, linspace, log, lu_solve, matrix, mp, mpf, sqrt

mp.dps = 60
HALF = log(2) / 2 * (1 + mpf(2) ** -10)  # a little room for the rounding of the reduction
LARGEST_SQUARE = ((sqrt(2) - 1) / (sqrt(2) + 1)) ** 2 * (1 + mpf(2) ** -10)

Function = Callable[[mpf], mpf]


def remez(wanted: Function, weight: Function, low: mpf, high: mpf, degree: int) -> tuple[list[mpf], mpf]:
    """Coefficients of the polynomial, lowest first, and the largest weighted error."""
    count = degree + 2
    middle, half = (low + high) / 2, (high - low) / 2
    nodes = [middle + half * mp.cos(mp.pi * (2 * i + 1 + mpf(1) / 8) / (2 * count)) for i in range(count)]
    grid = [r for r in linspace(low, high, 4001) if abs(r) > mpf(10) ** -8]
    for _ in range(12):
        system = matrix(count, count)
        right = matrix(count, 1)
        for row, r in enumerate(nodes):
            for power in range(degree + 1):
                system[row, power] = r**power
            system[row, degree + 1] = (-1) ** row / weight(r)
            right[row] = wanted(r)
        solution = lu_solve(system, right)
        q = [solution[power] for power in range(degree + 1)]

        def error(r: mpf, q: list[mpf] = q) -> mpf:
            return (sum(c * r**p for p, c in enumerate(q)) - wanted(r)) * weight(r)

        # The exchange: the extremum between any two changes of sign.
        values = [error(r) for r in grid]
        peaks, start = [], 0
        for i in range(1, len(grid) + 1):
            if i == len(grid) or values[i] * values[start] < 0:
                peaks.append(max(range(start, i), key=lambda j: abs(values[j])))
                start = i
        peaks = sorted(sorted(peaks, key=lambda j: -abs(values[j]))[:count])
        if len(peaks) < count:
            break
        nodes = [grid[j] for j in peaks]
    return q, max(abs(v) for v in values)


if __name__ == "__main__":
    import numpy as np

    def of_exp(r: mpf) -> mpf:
        """The polynomial of exp, exactly."""
        return (exp(r) - 1 - r) / r**2

    def of_log(w: mpf) -> mpf:
        """The polynomial of log, exactly."""
        return (atanh(sqrt(w)) / sqrt(w) - 1) / w

    def of_erfcx(k: int) -> Function:
        """The polynomial of erfcx, exactly."""

        def function(q: mpf) -> mpf:
            t = k * (1 + q) / (1 - q)
            return (1 + 2 * t) * exp(t * t) * erfc(t)

        return function

    def end(k: int, largest: int) -> mpf:
        """The q of the largest t."""
        return mpf(largest - k) / (largest + k)

    cases = (
        ("exp, float32", np.float32, of_exp, lambda r: r**2 / exp(r), -HALF, HALF, 4),
        ("exp, float64", np.float64, of_exp, lambda r: r**2 / exp(r), -HALF, HALF, 9),
        ("log, float32", np.float32, of_log, lambda w: w, mpf(0), LARGEST_SQUARE, 2),
        ("erfcx, float32", np.float32, of_erfcx(2), lambda q: 1 / of_erfcx(2)(q), mpf(-1), end(2, 10), 10),
        ("erfcx, float64", np.float64, of_erfcx(4), lambda q: 1 / of_erfcx(4)(q), mpf(-1), end(4, 28), 22),
        ("log, float64", np.float64, of_log, lambda w: w, mpf(0), LARGEST_SQUARE, 6),
    )
    for name, dtype, wanted, weight, low, high, degree in cases:
        q, error = remez(wanted, weight, low, high, degree)
        print(f"{name}: degree {degree}, error {float(error):.2e} = 2**{float(log(error, 2)):.1f}")
        for power, c in enumerate(q):
            print(f"  q{power} = {dtype(float(c))!r}")
