"""The plan of a step, from the shapes of a network and a batch: all choices, made before any data are read.

The plan decides how the gradient of each layer is summed, how many examples make a tile and a block,
and how many threads are worthwhile. Nothing in it depends on the data, and only `n_threads` (and with it
`small_batch`) depends on the machine's number of processors: so results do not depend on that number.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import starmap
from typing import Any, NamedTuple

import numpy as np

from fusegrad._engine.dispatch import by_dtype
from fusegrad._engine.threads import resolve_threads

# ---- parameters of the choices ----

#: Bytes of a tile, part of which stays in the L1, if enough examples fit (32 to 128 KiB differ by 3 %).
SMALL_TILE = 64 * 1024
#: Examples that amortize the work per tile: sums over lanes, reading and writing the gradient.
LEAST_TILE = 256
#: For so many examples a tile may take this much of an L2 of 1 MiB (the weights are streamed), or as much as the
#: parameters, which each tile reads, and whose gradient it adds to: up to 15 % of a step of large layers.
L2_TILE = 768 * 1024
#: Tiles of a prediction, which add to no gradient, take at most half of that, beside the X of the next tile: with all
#: of it 784 features are 5 % slower.
PREDICTION_TILE = L2_TILE // 2
#: Contiguous bytes of a feature in a tile, if X comes from memory and a layer with a single output reads it in place:
#: 1.5 times as fast as short runs, if that L2 holds this tile and the next one, which is prefetched meanwhile ...
LONG_RUN = 4096
#: ... and if X is larger than this, so that it does come from memory, and there are still many blocks.
FAR_X = 4 * L2_TILE
#: More examples gain nothing: the cost of starting a tile is already amortized.
LARGEST_TILE = 4096
#: Least examples in a block: adding its partial gradient then costs less than 3 % of its passes ...
LEAST_BLOCK = 256
#: ... and twice as many if a gradient has more bytes than this, so that the partial gradients exceed the L2.
L2_GRADIENT = 256 * 1024
#: Most blocks: enough for many threads. The memory for their partial gradients is bounded by PARTIAL_BYTES, too.
MOST_BLOCKS = 64
PARTIAL_BYTES = 32 * 1024 * 1024
#: Multiply-adds for which waking a thread is worthwhile (about 20 microseconds of work).
THREAD_WORK = 1 << 19
#: Multiply-adds that take a few microseconds: for less work the GIL is kept, which saves 50 ns ...
SMALL_WORK = 3 << 16
#: ... those that take as long as an activation, and as reading a value of X or y that is not in a cache.
UNIT_WORK = 32
VALUE_WORK = 64

#: Bytes of a row of W from which on its columns are packed for the backward pass.
LONG_ROW = 2048
#: Weights of a layer whose gradient need not be stored.
LEAST_DEFERRED = 8192
#: Multiply-adds, of a pass over a larger tile or of gradients in an update, that nothing interrupts: 3 to 50 ms.
UNINTERRUPTED_WORK = 1 << 28

#: Weights of a layer from which on a few more examples take features in lanes.
LARGE_LAYER = 2048

#: Bytes of X, or of y, from which on shuffled steps read examples faster than features, even with the copy: two L2s ...
LEAST_COPIED = 2 * 1024 * 1024
#: ... and the most that are copied.
MOST_COPIED = 512 * 1024 * 1024

#: The columns of the layer table; `Layer` in cython_kernels/network/tiles.pxi reads them in this order.
LAYER_TABLE = (
    "n_in", "n_out", "activation", "weight", "bias", "transposed", "function", "parameter", "derivatives", "backward",
    "dropped", "mask", "scale", "x_transposed", "deferred", "columns",
)  # fmt: skip
#: The columns of the fold table; `Fold` in cython_kernels/network/folding.pxi reads them in this order.
FOLD_TABLE = ("first", "count", "scratch")
#: Multiply-adds that folding costs in addition to its products.
FOLD_WORK = 4000

Table = tuple[tuple[int, ...], ...]


class Dense(NamedTuple):
    """One dense layer a = f(W (s * x) + b) and the offsets of its parameters in the flat buffer."""

    n_in: int
    n_out: int
    activation: str
    weight: int
    bias: int | None
    parameter: float = 0.0  # of the activation
    dropout: float = 0.0  # the probability with which training drops an activation
    scale: int | None = None  # where the factors s of its inputs are; None: it has none

    @property
    def is_linear(self) -> bool:
        """Whether a = z, in training too."""
        return self.activation == "identity" and not self.dropped

    @property
    def dropped(self) -> int:
        """The probability in units of 2^-16, as the masks are drawn."""
        return min(round(self.dropout * 65536), 65535)

    @property
    def end(self) -> int:
        """The offset of the end of this layer in the flat buffer."""
        n = self.weight + self.n_in * self.n_out
        return n if self.bias is None else n + self.n_out


class Plan(NamedTuple):
    """What an engine needs to run cython_kernels/network/passes.pxi. Immutable."""

    layers: tuple[Dense, ...]  # after folding
    members: tuple[Dense, ...]  # of the network
    dtype: np.dtype[Any]
    n_parameters: int  # of the network
    n_folded: int  # parameters after folding
    batch: int  # examples in a step
    tile: int  # examples that go through all layers together
    prediction_tile: int  # and in a prediction, at most so many
    block: int  # examples whose gradients are added in one partial gradient
    n_blocks: int  # in a step
    n_threads: int
    few_examples: bool  # so few that features are in the lanes of vectors, not examples
    small_batch: int  # most examples in a call that keeps the GIL
    defers: bool  # the gradients of some layers need not be stored
    scratch: int  # values that a thread needs for a tile
    fold_scratch: int  # values that the folds need
    layer_table: Table
    member_table: Table
    fold_table: Table
    note: str = ""

    @property
    def folded(self) -> bool:
        """Whether consecutive linear layers, or a scale and a layer, are computed as one."""
        return self.layers != self.members

    def __str__(self) -> str:
        """A short description of the plan."""
        ways = ("lane-wise", "transposed")
        transposed, deferred = LAYER_TABLE.index("transposed"), LAYER_TABLE.index("deferred")
        lanes = "features" if self.few_examples else "examples"
        lines = [
            f"{self.batch} examples a step, in tiles of {self.tile} and blocks of {self.block}, {lanes} in lanes, "
            f"{self.n_threads} thread{'s' * (self.n_threads > 1)}, {self.scratch * self.dtype.itemsize} bytes each"
        ]
        for layer, row, (first, count, _) in zip(self.layers, self.layer_table, self.fold_table, strict=True):
            folded = f", {count} linear layers in one" if count > 1 else ""
            if self.members[first].scale is not None:
                folded = ", with the scale" + folded
            dropout = f", dropout {layer.dropout:g}" if layer.dropped else ""
            lines.append(
                f"  dense {layer.n_in} -> {layer.n_out} {layer.activation}{dropout}, gradient {ways[row[transposed]]}"
                f"{', left to a simple update' * row[deferred]}{folded}"
            )
        example = self.layers[0].n_in * self.dtype.itemsize
        if self.layers[0].n_in > 1:
            lines.append(
                f"  a shuffled fit of {-(-LEAST_COPIED // example)} to {MOST_COPIED // example} examples copies X, "
                f"if the features of an example are not contiguous"
            )
        return "\n".join([*lines, f"  {self.note}"] if self.note else lines)


class Shape(NamedTuple):
    """A dense layer before it has a place in the flat buffer."""

    n_in: int
    n_out: int
    activation: str
    bias: bool
    parameter: float = 0.0  # of the activation
    dropout: float = 0.0
    scaled: bool = False  # its inputs have a factor each


def stack_layers(shapes: Iterable[tuple[Any, ...]]) -> tuple[Dense, ...]:
    """Lay out layers in one flat buffer: s1 | W1 | b1 | s2 | W2 | b2 | ..., each s and b if there is one."""
    layers: list[Dense] = []
    place = 0
    for shape in starmap(Shape, shapes):
        n_in, n_out = shape.n_in, shape.n_out
        scale = place if shape.scaled else None
        weight = place + n_in * shape.scaled
        bias = weight + n_in * n_out if shape.bias else None
        layers.append(Dense(n_in, n_out, shape.activation, weight, bias, shape.parameter, shape.dropout, scale))
        place = layers[-1].end
    return tuple(layers)


def allowed_threads(work: int, n_threads: int | None = None) -> int:
    """How many threads a call may use. If the work is enough for one only, the number is not looked up."""
    if n_threads is None and work < 2 * THREAD_WORK:
        return 1
    return resolve_threads(n_threads)


def worthwhile_threads(work: int, n_parts: int, n_threads: int) -> int:
    """How many threads, at most n_threads, are worthwhile for `work` multiply-adds in n_parts parts."""
    return max(1, min(n_threads, n_parts, work // THREAD_WORK))


def step_work(layers: tuple[Dense, ...], m: int) -> int:
    """Multiply-adds of a step over m examples: forward pass, backward pass and gradient."""
    return 3 * layers[-1].end * m


def parallel_from(layers: tuple[Dense, ...]) -> int:
    """The least number of examples whose step may use two threads: enough work, and more than one block."""
    return max(LEAST_BLOCK + 1, -(-2 * THREAD_WORK // step_work(layers, 1)))


def small_batch_of(layers: tuple[Dense, ...], members: tuple[Dense, ...]) -> int:
    """The most examples whose step takes only a few microseconds on one thread."""
    units = sum(layer.n_out for layer in members)
    values = members[0].n_in + members[-1].n_out
    return SMALL_WORK // (max(step_work(layers, 1), step_work(members, 1)) + UNIT_WORK * units + VALUE_WORK * values)


def moments_pay(plan: Plan, m: int, epochs: int) -> tuple[bool, str]:
    """Whether `epochs` steps over all m examples are cheaper from their moments, and why or why not.

    In multiply-adds per example: the moments cost 2 (n_in + n_out)^2, once, in float64; each step from the examples
    costs 2 n_in n_out. The moments are used only if they take less than half.
    """
    if len(plan.layers) > 1 or not plan.layers[0].is_linear:
        return False, "not one linear layer"
    if plan.batch < m:
        return False, "mini-batches"
    layer = plan.layers[0]
    once, each = 2 * (layer.n_in + layer.n_out) ** 2, 2 * layer.n_in * layer.n_out
    step = layer.n_out * layer.n_in**2
    pays = 2 * (once * m + epochs * step) < epochs * each * m
    return pays, f"{once} multiply-adds an example once, {each} an example and step"


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _transposed_pays(layer: Dense, tile: int, lanes: int, shared_rows: int) -> bool:
    """Whether the gradient of W is summed transposed, not lane-wise: see cython_kernels/network/weight_gradient.pxi.

    Costs are in vector operations. Lane-wise, each weight (in blocks of 4) has its own vector of sums, and adding its
    lanes takes about 4 operations. Transposed, a row of the gradient takes whole vectors of inputs for each
    example, and transposing x costs log2(lanes) + 3 operations for each of its vectors. If the
    inputs of several examples share a vector, each input costs a move, and shared_rows rows are computed together.
    """
    if layer.n_in == 1 or layer.n_out == 1:
        return False  # lane-wise has no idle lanes here; and the inputs of a single output may be read in place
    vectors = -(-layer.n_in // lanes)
    lanewise = (_up(layer.n_in, 4) * layer.n_out) * (tile / lanes + 4)
    per_vector = 1 << (lanes // layer.n_in).bit_length() - 1 if layer.n_in <= lanes else 1
    if per_vector == 1:
        return (layer.n_out * vectors + vectors * (lanes.bit_length() + 2)) * tile < lanewise
    return (_up(layer.n_out, shared_rows) / per_vector + lanes / per_vector**2) * tile < lanewise


def _few_examples_pay(layers: tuple[Dense, ...], batch: int, panel: int) -> bool:
    """Whether so few examples take features in lanes: cython_kernels/network/few_examples.pxi.

    A panel costs the same for any number of examples. Up to a quarter of it, features in lanes are faster in all
    networks that were tried; up to a half of it in those with a large layer.
    """
    if 4 * batch <= panel:
        return True
    return 2 * batch <= panel and max(layer.n_in * layer.n_out for layer in layers) >= LARGE_LAYER


def packed_pays(layers: tuple[Dense, ...], batch: int, panel: int) -> bool:
    """Whether so many examples are predicted from packed weights: features in lanes, up to three quarters of a panel.

    Small networks gain nothing from packed weights: there the choice is that of unpacked ones.
    """
    return 4 * batch <= 3 * panel and max(layer.n_in * layer.n_out for layer in layers) >= LARGE_LAYER


def copy_pays(array: "np.ndarray[Any, Any]") -> bool:
    """Whether shuffled steps first copy this X or y, so that the values of each example are contiguous.

    A batch of shuffled examples touches a cache line for each value of an example in an array that is contiguous by
    feature, and a line for every 8 or 16 values of it in the copy.
    """
    rows, itemsize = array.shape[0], array.itemsize
    return rows > 1 and array.strides[0] != itemsize and LEAST_COPIED <= array.size * itemsize <= MOST_COPIED


def fold_layers(layers: tuple[Dense, ...], batch: int, panel: int) -> list[tuple[Dense, ...]]:
    """The folds of consecutive linear layers that are cheaper to compute as one; any other layer is its own fold.

    Computed one by one, a layer costs n_in n_out multiply-adds per example, in each of three passes. Folded, an example
    costs n_in n_out of the whole fold, and the members cost as much as n_in + 1 examples.
    """
    folds: list[list[Dense]] = []
    for layer in layers:
        if folds and folds[-1][-1].is_linear and layer.scale is None:
            folds[-1].append(layer)
        else:
            folds.append([layer])
    result: list[tuple[Dense, ...]] = []
    for fold in folds:
        weights = sum(layer.n_in * layer.n_out for layer in fold)
        one = batch * fold[0].n_in * fold[-1].n_out + _up(fold[0].n_in + 1, panel) * weights + FOLD_WORK
        if len(fold) > 1 and one < batch * weights:
            result.append(tuple(fold))
        else:
            result.extend((layer,) for layer in fold)
    return result


def _folded_layers(folds: list[tuple[Dense, ...]]) -> tuple[Dense, ...]:
    """The layers after folding: one for each fold, in a buffer of their own if a fold has several layers or a scale."""
    if all(len(fold) == 1 and fold[0].scale is None for fold in folds):
        return tuple(fold[0] for fold in folds)
    return stack_layers(
        [
            Shape(
                fold[0].n_in,
                fold[-1].n_out,
                fold[-1].activation,
                any(layer.bias is not None for layer in fold),
                fold[-1].parameter,
                fold[-1].dropout,
            )
            for fold in folds
        ]
    )


class _Choice(NamedTuple):
    """How the gradient of a layer is computed, and where in the scratch memory it keeps what."""

    transposed: bool = False  # the gradient of W is summed transposed, not lane-wise,
    deferred: bool = False  # and in the update
    x_transposed: int = 0
    derivatives: int = -1  # those of its activations; -1: not stored
    columns: int = -1  # some columns of W; -1: they are read in place


def _table(layers: Sequence[Dense], kernels: Any, choices: Sequence[_Choice] | None = None) -> Table:
    """The table of some layers; without choices, of layers that are only members of folds."""
    rows, masks = [], 0
    other = len(kernels.ACTIVATIONS)
    for layer, choice in zip(layers, choices or [_Choice()] * len(layers), strict=True):
        direct = layer.activation in kernels.ACTIVATIONS
        activation = kernels.ACTIVATIONS.index(layer.activation) if direct else other
        rows.append(
            (
                layer.n_in,
                layer.n_out,
                activation,
                layer.weight,
                -1 if layer.bias is None else layer.bias,
                int(choice.transposed),
                0 if direct else kernels.FUNCTIONS.index(layer.activation),
                int(np.float64(layer.parameter).view(np.int64)),  # its bits
                choice.derivatives,
                other if layer.dropped else activation,
                layer.dropped,
                masks,
                -1 if layer.scale is None else layer.scale,
                choice.x_transposed,
                int(choice.deferred),
                choice.columns,
            )
        )
        masks += layer.dropped > 0
    return tuple(rows)


def _deferred_layers(
    layers: Sequence[Dense], transposed: Sequence[bool], batch: int, dtype: np.dtype[Any], lanes: int
) -> list[bool]:
    """Whose gradients, of a batch of one tile, are computed in the update: cython_kernels/training/fused_update.pxi.

    Nothing can interrupt an update: it must not take long. The bound of a gradient reads the deltas and inputs of the
    batch. If these have more elements, a gradient in the L2 is written once and read twice in less time.
    """
    if batch * layers[-1].end > UNINTERRUPTED_WORK:
        return [False] * len(layers)

    def pays(layer: Dense) -> bool:
        n_weights = layer.n_in * layer.n_out
        cheap = 2 * n_weights >= (layer.n_in + layer.n_out) * batch or n_weights * dtype.itemsize > L2_GRADIENT
        return 2 * layer.n_in > lanes and n_weights >= LEAST_DEFERRED and cheap

    return [turn and pays(layer) for layer, turn in zip(layers, transposed, strict=True)]


def _transposed_places(widths: Sequence[int], deferred: Sequence[bool], tile: int, first: int) -> tuple[list[int], int]:
    """Where the x^T of each layer is in the scratch memory, from `first` on, and the end of all.

    That of the first layer may be kept for the next step, those of deferred layers until the update; the others share
    a place. widths: values of each for an example.
    """
    places, end = [], first
    for i, n in enumerate(widths):
        places.append(end)
        end += n * tile * (i == 0 or deferred[i])
    shared = [n * tile for i, n in enumerate(widths) if i > 0 and not deferred[i]]
    places = [place if i == 0 or deferred[i] else end for i, place in enumerate(places)]
    return places, end + max(shared, default=0)


def _stored_derivatives(
    layers: Sequence[Dense], kernels: Any, first: int, examples: int, panel: int
) -> tuple[list[int], int]:
    """Where each layer's derivatives are in the scratch memory, from `first` on; -1: not stored. And the end.

    They are stored if they are no function of the activation, if a mask multiplies them, and for the last layer,
    whose deltas overwrite it.
    """
    places, end = [], first
    for i, layer in enumerate(layers):
        direct = layer.activation in kernels.ACTIVATIONS
        from_activation = direct or kernels.FUNCTIONS.index(layer.activation) <= kernels.FROM_ACTIVATION
        stored = layer.dropped > 0 or not from_activation or (i == len(layers) - 1 and not direct)
        places.append(end if stored else -1)
        end += _up(examples * layer.n_out, panel) * stored
    return places, end


@lru_cache(maxsize=1024)
def make_plan(
    members: tuple[Dense, ...],
    dtype: np.dtype[Any],
    batch: int,
    n_threads: int,
    folding: bool = True,
    few_examples: bool | None = None,
) -> Plan:
    """The plan for steps of `batch` examples on at most n_threads threads. few_examples=None: the shapes decide."""
    kernels = by_dtype[dtype]
    lanes, panel = kernels.lanes, kernels.panel

    alone: list[tuple[Dense, ...]] = [(layer,) for layer in members]
    folds = fold_layers(members, batch, panel) if folding else alone
    layers = _folded_layers(folds)
    # A fold's tiles have a column for each input and one for the bias.
    fold_table, first, fold_scratch = [], 0, 0
    for fold in folds:
        fold_table.append((first, len(fold), fold_scratch))
        first += len(fold)
        if len(fold) > 1:
            fold_scratch += _up(fold[0].n_in + 1, panel) * sum(layer.n_out for layer in fold)
    # The folded layer applies the last activation of a fold; within a fold all members are linear.
    linear = [layer._replace(activation="identity", dropout=0.0) for layer in members]

    # Activations of all layers and the targets; x^T of layers and columns of W are added below.
    per_example = layers[0].n_in + sum(layer.n_out for layer in layers) + layers[-1].n_out
    fits = SMALL_TILE // (per_example * dtype.itemsize)
    with_parameters = min(layers[-1].end // per_example, UNINTERRUPTED_WORK // layers[-1].end)
    tile = max(fits, min(LEAST_TILE, max(L2_TILE // (per_example * dtype.itemsize), with_parameters)))
    far = layers[0].n_in * batch * dtype.itemsize > FAR_X
    if layers[0].n_out == 1 and far and 2 * per_example * LONG_RUN <= L2_TILE:
        tile = max(tile, LONG_RUN // dtype.itemsize)
    tile = min(max(tile // panel, 1) * panel, LARGEST_TILE, _up(batch, panel))
    while tile < min(batch, LEAST_BLOCK) and LEAST_BLOCK % tile:  # so that blocks, and threads' work, are equal
        tile -= panel
    prediction = max(fits, PREDICTION_TILE // (per_example * dtype.itemsize), with_parameters)
    transposed = [_transposed_pays(layer, tile, lanes, kernels.shared_rows) for layer in layers]
    widths = [_up(layer.n_in, panel) * turn for layer, turn in zip(layers, transposed, strict=True)]

    if few_examples is None:
        few_examples = _few_examples_pay(layers, batch, panel)
    # Inputs of all layers, outputs and targets; deltas below all layers; float64 totals of a layer.
    inputs = [layer.n_in for layer in layers]
    few_scratch = batch * sum(_up(n, panel) for n in (*inputs, *inputs, layers[-1].n_out, layers[-1].n_out)) + panel
    few_scratch += (
        _up(batch * max(inputs), panel) * (8 // dtype.itemsize) * (max(layer.n_out for layer in layers) > 512)
    )
    # Where deltas come later: a panel one vector wide, or pairs of examples; or panels of outputs, targets and weights.
    narrow = lanes * max(_up(layer.n_in, lanes) + layer.n_out for layer in layers)
    few_scratch += max(narrow, _up(batch, panel) * (2 * layers[-1].n_out + 1))
    most_blocks = max(1, min(MOST_BLOCKS, PARTIAL_BYTES // (layers[-1].end * dtype.itemsize)))
    least = LEAST_BLOCK if layers[-1].end * dtype.itemsize <= L2_GRADIENT else 2 * LEAST_BLOCK
    block = _up(max(least, -(-batch // most_blocks)), tile)
    n_blocks = -(-batch // block)
    n_threads = worthwhile_threads(step_work(layers, batch), n_blocks, n_threads)
    one_tile = batch <= tile and not few_examples and layers == members
    deferred = _deferred_layers(layers, transposed, batch, dtype, lanes) if one_tile else [False] * len(layers)
    places, end = _transposed_places(widths, deferred, tile, tile * (per_example + 1))  # 1: weights of examples
    columns = [end if layer.n_in * dtype.itemsize >= LONG_ROW else -1 for layer in layers]
    end += kernels.packed_columns * max(
        layer.n_out * (place >= 0) for layer, place in zip(layers, columns, strict=True)
    )
    first, rows = (few_scratch, batch) if few_examples else (end, tile)
    derivatives, scratch = _stored_derivatives(layers, kernels, first, rows, panel)

    return Plan(
        layers=layers,
        members=members,
        dtype=dtype,
        n_parameters=members[-1].end,
        n_folded=layers[-1].end,
        batch=batch,
        tile=tile,
        prediction_tile=min(tile, max(prediction // (2 * panel), 1) * 2 * panel),
        block=block,
        n_blocks=n_blocks,
        n_threads=n_threads,
        few_examples=few_examples,
        small_batch=small_batch_of(layers, members) if n_threads == 1 else 0,
        defers=any(deferred),
        scratch=max(scratch, end),
        fold_scratch=fold_scratch,
        layer_table=_table(layers, kernels, list(map(_Choice, transposed, deferred, places, derivatives, columns))),
        member_table=_table(linear, kernels),
        fold_table=tuple(fold_table),
    )
