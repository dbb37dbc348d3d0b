"""Print the polynomials of ``cython_kernels/elementary.pxi`` and ``tanh_table.h`` (needs ``pip install numpy mpmath``).

exp(r) = 1 + r + r^2 q(r) on |r| <= log(2)/2, and log((1 + s) / (1 - s)) = 2 s (1 + w q(w)), w = s^2, for the
fractions from sqrt(1/2) to sqrt(2); of functions.pxi, (1 + 2 t) erfcx(t) in q = (t - k) / (t + k).
The coefficients of q are those that minimise the largest error relative to the
function, found by Remez exchange in 60 digits and rounded once to the dtype.

tanh(a) = t + (a - c) p(a - c) for each interval of the table, t = tanh(c): c is the number near the middle of
the interval for which t and p(0) are nearest to numbers of float32, 0 in the first interval, and in the last one
the number from which on tanh is 1.
"""

import textwrap
from collections.abc import Callable

import numpy as np
from mpmath import atanh, erfc, exp, linspace, log, lu_solve, matrix, mp, mpf, sqrt, tanh

mp.dps = 60
LARGEST_TANH = np.float32(9.1)
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


def tanh_center(middle: float) -> np.float32:
    """The number near `middle` whose tanh, and its derivative, are nearest to numbers of float32."""
    candidates = np.float32(middle) + np.spacing(np.float32(middle)) * np.arange(-4000, 4000, dtype=np.float32)
    t = np.tanh(candidates.astype(np.longdouble))
    rounding = sum(weight * np.abs(v.astype(np.float32) / v - 1) for weight, v in ((4, t), (1, 1 - t * t)))
    return candidates[np.argmin(rounding)]


def tanh_functions(c: mpf, t: mpf) -> tuple[Function, Function]:
    """p(r) of tanh(c + r) = t + r p(r), and the weight of its error relative to tanh."""
    return (
        lambda r: (tanh(c + r) - t) / r if r else 1 - t * t,
        lambda r: r / tanh(c + r) if c + r else mpf(1),
    )


def tanh_table(lanes: int, degree: int) -> np.ndarray:
    """The rows c, t, p0, p1, ... of an interval in each column.

    There are lanes / 4 intervals of a + 1 in each octave from 1.
    """
    per_octave = lanes // 4
    bounds = [2**octave * (1 + k / per_octave) - 1 for octave in range(4) for k in range(per_octave)]
    table = np.zeros((degree + 3, lanes), np.float32)
    for i, low in enumerate(bounds):
        high = min(float(LARGEST_TANH), ([*bounds, 15])[i + 1])
        column = table[:, (127 * per_octave + i) % lanes]
        if low == 0:
            c, t = np.float32(0), np.float32(0)
        elif high == LARGEST_TANH:
            c, t = LARGEST_TANH, np.float32(1)
        else:
            c = tanh_center((low + high) / 2)
            t = np.float32(np.tanh(np.longdouble(c)))
        column[:2] = c, t
        if low < 9:  # above it is 1 in float32
            slope, weight = tanh_functions(mpf(float(c)), mpf(float(t)))
            q, error = remez(slope, weight, mpf(low) - float(c), mpf(high) - float(c), degree)
            column[2:] = [float(v) for v in q]
            print(f"  // from {low}: error 2**{float(log(error, 2)):.1f}")
    return table


if __name__ == "__main__":

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
    for lanes, degree in ((16, 5), (8, 7)):
        print(f"tanh, {lanes} intervals: degree {degree}")
        for row in tanh_table(lanes, degree):
            numbers = ", ".join(f"{v:.9g}" for v in row)
            print(textwrap.fill("{" + numbers + "},", 126, initial_indent="    ", subsequent_indent="     "))
