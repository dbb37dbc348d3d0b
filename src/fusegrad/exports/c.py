"""A network as one C function of one example, for C99 and C++17 compilers.

Each layer is a loop over its inputs around a loop over its outputs, and its W is stored transposed. So a compiler fills
vectors with outputs and reorders no sum, which it may not do without -ffast-math. Parameters are constants, which a
linker leaves in flash. Two arrays on the stack hold the activations, of odd and of even layers. Only math.h is called.
Constants are hexadecimal, since a compiler need not round decimals correctly.

Rejected: one function for all layers, in which sizes would be variables; intrinsics, which need one processor.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fusegrad._engine.validation import Array
from fusegrad.exports import ExportedLayer, Link

#: The bodies of the activations of z, some with a parameter p. `real` stands for the type, `@` for the suffix of its
#: functions and constants. No exp overflows, and NaN propagates.
ACTIVATIONS = {
    "sigmoid": """
    const real e = exp@(-fabs@(z));
    return (z < 0 ? e : 1) / (1 + e);""",
    "relu": """
    return z < 0 ? 0 : z;""",
    "tanh": """
    return tanh@(z);""",
    "leaky_relu": """
    return z > 0 ? z : p * z;""",
    "elu": """
    return z > 0 ? z : p * expm1@(z);""",
    "selu": """
    return 1.0507009873554804934@ * (z > 0 ? z : 1.6732632423543772848@ * expm1@(z));""",
    "softplus": """
    return (z < 0 ? 0 : z) + log1p@(exp@(-fabs@(z)));""",
    "silu": """
    const real e = exp@(-fabs@(z));
    return z * ((z < 0 ? e : 1) / (1 + e));""",
    "mish": """
    const real e = exp@(-fabs@(z));
    const real n = z < 0 ? e * (e + 2) : 1 + 2 * e;
    return z * (n / (n + (z < 0 ? 2 : 2 * e * e)));""",
    "gelu": """
    return z * (0.5@ * erfc@(-0.70710678118654752440@ * z));""",
    "gelu_tanh": """
    const real u = 1.5957691216057307118@ * (z + 0.044715@ * z * z * z);
    const real e = exp@(-fabs@(u));
    return z * ((u < 0 ? e : 1) / (1 + e));""",
}
WITH_PARAMETER = ("leaky_relu", "elu")

#: Names that no function in a program in C or C++ can have: keywords and main ...
KEYWORDS = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t char32_t class co_await
co_return co_yield compl concept const const_cast consteval constexpr constinit continue decltype default delete do
double dynamic_cast else enum explicit export extern false float for friend goto if inline int long main mutable
namespace new noexcept not not_eq nullptr operator or or_eq private protected public register reinterpret_cast
requires restrict return short signed sizeof static static_assert static_cast struct switch template this thread_local
throw true try typedef typeid typename typeof union unsigned using virtual void volatile wchar_t while xor xor_eq
"""
#: ... and what math.h declares, also with the suffixes f and l.
MATH = """
acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp2 expm1 fabs fdim floor fma fmax
fmin fmod frexp gamma hypot ilogb j0 j1 jn ldexp lgamma llrint llround log log10 log1p log2 logb lrint lround modf nan
nearbyint nextafter nexttoward pow remainder remquo rint round scalbln scalbn sin sinh sqrt tan tanh tgamma trunc y0
y1 yn
"""
#: Macros and types of common headers, and functions that compilers or the C library have.
COMMON = """
FP_INFINITE FP_NAN FP_NORMAL FP_SUBNORMAL FP_ZERO HUGE_VAL INFINITY MAXFLOAT M_1_PI M_2_PI M_E M_LN10 M_LN2 M_LOG10E
M_LOG2E M_PI M_PI_2 M_PI_4 M_SQRT1_2 M_SQRT2 NAN NULL abort abs alloca bcmp close div double_t drem errno exit exp10
ffs finite float_t fpclassify free i index isfinite isgreater isinf isless isnan isnormal isunordered labs lgamma_r
linux llabs malloc math_errhandling memchr memcmp memcpy memmove memset o open printf puts rand read remove rename
rindex roundeven scalb signal signbit signgam significand sincos size_t sleep stderr stdin stdout std strcat strchr
strcmp strcpy strlen sum system time top unix write x y
"""
RESERVED = {
    *COMMON.split(),
    *KEYWORDS.split(),
    *(function + suffix for function in MATH.split() for suffix in ("", "f", "l")),
}


def as_identifier(name: Any) -> str:
    """The name of a function that can be linked into any program."""
    if not isinstance(name, str):
        raise TypeError(f"name: expected a str, got {name!r}")
    if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name) or "__" in name or name in RESERVED:
        raise ValueError(
            "name: expected letters, digits and single underscores after a letter, and no name of C, C++ or math.h, "
            f"got {name!r}"
        )
    return name


def c_source(layers: Sequence[ExportedLayer], link: Link, dtype: "np.dtype[Any]", *, name: str, version: str) -> str:
    """The C file of a network."""
    for array in (array for layer in layers for array in layer.arrays):
        if not np.isfinite(array).all():
            raise ValueError(f"parameters: expected finite numbers, got {array[~np.isfinite(array)][0]}")
    real, suffix = ("float", "f") if dtype == np.float32 else ("double", "")
    return "\n".join(_Source(tuple(layers), link, dtype, name, version, real, suffix).parts())


class _Source(NamedTuple):
    """The parts of a file. All names but that of the function begin with it, so that files can be included together."""

    layers: tuple[ExportedLayer, ...]
    link: Link
    dtype: "np.dtype[Any]"
    name: str
    version: str
    real: str
    suffix: str

    @property
    def widths(self) -> list[int]:
        """The outputs of each layer."""
        return [len(layer.weight) for layer in self.layers]

    @property
    def scratch(self) -> dict[str, int]:
        """The sizes of the two arrays of activations, of odd and of even layers; 0 if there is one layer."""
        return {"a": max(self.widths[::2]), "b": max(self.widths[1::2], default=0)}

    def parts(self) -> Iterator[str]:
        """The file, in order."""
        name, real = self.name, self.real
        yield self.comment()
        yield "#include <math.h>\n"
        yield f"void {name}(const {real} *x, {real} *y);\n"
        used = {self.link, *(layer.activation for layer in self.layers)}
        yield from (self.function(activation) for activation in ACTIVATIONS if activation in used)
        for i, layer in enumerate(self.layers, start=1):
            yield self.parameters(i, layer)
        declared = ", ".join(f"{array}[{size}]" for array, size in self.scratch.items() if size)
        yield f"void {name}(const {real} *x, {real} *y)\n{{\n    {real} {declared};\n    int i, o;\n"
        source = "x"
        for i, layer in enumerate(self.layers, start=1):
            target = "ab"[(i - 1) % 2]
            yield self.dense(i, layer, source, target)
            source = target
        yield self.output(source) + "}\n"

    def comment(self) -> str:
        """What the file is, and how to call it."""
        n_constants = sum(array.size for layer in self.layers for array in layer.arrays)
        sizes = [f"{layer.weight.shape[1]} -> {len(layer.weight)}" for layer in self.layers]
        rows = [f"{size:>{max(map(len, sizes))}}  {layer}" for size, layer in zip(sizes, self.layers, strict=True)]
        last = "" if self.link == "identity" else f", then {self.link}"
        table = "\n       ".join(rows)
        stack = sum(self.scratch.values()) * self.dtype.itemsize
        return f"""\
/* {self.name}: a dense network, exported by fusegrad {self.version}.

       void {self.name}(const {self.real} *x, {self.real} *y);

   reads the features of one example, x[{self.layers[0].weight.shape[1]}], and writes its \
{"probabilities" if last else "predictions"}, y[{self.widths[-1]}]. Both may be one array.

       x1 = x, x[l+1] = f(W x[l] + b), in {self.dtype}:
       {table}{last}

   {n_constants} constants of {n_constants * self.dtype.itemsize} bytes; {stack} bytes of stack for activations.
   Any number of threads may call it.
   C99 or C++17. If C++ calls what a C compiler has compiled, declare it extern "C".
   Do not use -ffast-math, which takes NaN and infinity for impossible. */
"""

    def function(self, activation: str) -> str:
        """One of `ACTIVATIONS`."""
        parameter = f", {self.real} p" if activation in WITH_PARAMETER else ""
        body = ACTIVATIONS[activation].replace("real", self.real).replace("@", self.suffix)
        return f"static {self.real} {self.name}_{activation}({self.real} z{parameter})\n{{{body}\n}}\n"

    def parameters(self, i: int, layer: ExportedLayer) -> str:
        """W transposed, and b."""
        n_out, n_in = layer.weight.shape
        declaration = f"static const {self.real} {self.name}"
        rows = ",\n".join(f"    {{{self.constants(row)}}}" for row in layer.weight.T)
        text = f"{declaration}_W{i}[{n_in}][{n_out}] = {{  /* transposed */\n{rows}\n}};\n"
        if layer.bias is not None:
            text += f"\n{declaration}_b{i}[{n_out}] =\n    {{{self.constants(layer.bias)}}};\n"
        return text

    def constants(self, values: Array) -> str:
        """Numbers of the dtype, some on each line."""
        texts = [re.sub(r"\.?0*p", "p", value.hex()) + self.suffix for value in values.tolist()]
        n = 6 if self.suffix else 4
        return ",\n     ".join(", ".join(texts[i : i + n]) for i in range(0, len(texts), n))

    def dense(self, i: int, layer: ExportedLayer, source: str, target: str) -> str:
        """a = f(W x + b), summed in the order of the inputs."""
        n_out, n_in = layer.weight.shape
        outputs = f"for (o = 0; o < {n_out}; ++o)"
        text = f"""\
    {outputs}
        {target}[o] = {"0" if layer.bias is None else f"{self.name}_b{i}[o]"};
    for (i = 0; i < {n_in}; ++i)
        {outputs}
            {target}[o] += {self.name}_W{i}[i][o] * {source}[i];
"""
        if layer.activation in ACTIVATIONS:
            arguments = f"{target}[o]"
            if layer.activation in WITH_PARAMETER:
                arguments += f", {self.constants(np.array([layer.parameter], self.dtype))}"
            text += f"    {outputs}\n        {target}[o] = {self.name}_{layer.activation}({arguments});\n"
        return text

    def output(self, z: str) -> str:
        """From the outputs z of the last layer to y."""
        outputs = f"for (o = 0; o < {self.widths[-1]}; ++o)"
        if self.link != "softmax":
            value = f"{self.name}_{self.link}({z}[o])" if self.link in ACTIVATIONS else f"{z}[o]"
            return f"    {outputs}\n        y[o] = {value};\n"
        return f"""\
    {self.real} top = {z}[0], sum = 0;
    {outputs}
        top = {z}[o] > top ? {z}[o] : top;
    {outputs}
        sum += {z}[o] = exp{self.suffix}({z}[o] - top);
    {outputs}
        y[o] = {z}[o] / sum;
"""
