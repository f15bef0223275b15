"""The closed list of operations on packed clips, and how each keeps the clips apart.

`OPERATIONS` maps a torch function to the handler that stands in for it on `PackedClips`, `REARRANGED` to the one on
`RearrangedClips`. A handler gets the function and its arguments. Four kinds: operations that never look across time run
as they are; those with a temporal kernel run clip by clip (`windows`); those that pool all of time give a plain batch
of one row a clip (`reductions`); those that combine tensors check that the clips match. What moves, cuts or joins axes
other than time is in `axes`. Here is what they share, and what works position by position.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from atfr.errors import UnsupportedOperationError
from atfr.ragged.layout import ClipLayout
from atfr.ragged.packed import TIME, PackedClips, operation_name
from atfr.ragged.rearranged import RearrangedClips, arranged, form_of, sizes_of

Handler = Callable[..., Any]
OPERATIONS: dict[Any, Handler] = {}
REARRANGED: dict[Any, Handler] = {}

POINTWISE = """relu relu_ relu6 hardtanh hardtanh_ leaky_relu leaky_relu_ elu elu_ celu selu gelu silu mish softplus
    hardswish hardsigmoid logsigmoid softsign hardshrink softshrink tanhshrink threshold threshold_ sigmoid sigmoid_
    tanh tanh_ neg abs sign exp expm1 log log1p sqrt rsqrt square reciprocal sin cos erf floor ceil round isfinite
    isnan isinf logical_not bitwise_not __invert__ bool clip clip_ clamp clamp_ clamp_min clamp_max nan_to_num dropout
    clone detach contiguous to float half double bfloat16 cpu cuda zeros_like ones_like rand_like randn_like""".split()
ARITHMETIC = """add add_ sub sub_ mul mul_ div div_ true_divide __radd__ __rsub__ __rmul__ __rdiv__ __rtruediv__
    __iadd__ __isub__ __imul__ __itruediv__ maximum minimum pow __rpow__ eq ne lt le gt ge __eq__ __ne__ __lt__
    __le__ __gt__ __ge__ logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor __and__ __or__
    __xor__""".split()
OF_SEVERAL = "where masked_fill masked_fill_ lerp addcmul addcdiv".split()
METADATA = """size dim stride storage_offset numel nelement element_size is_contiguous is_floating_point is_complex
    is_signed get_device data_ptr __len__ __hash__ register_hook retain_grad requires_grad_""".split()
SYNC_BATCH_NORM = """batch_norm_stats batch_norm_gather_stats_with_counts batch_norm_backward_reduce
    batch_norm_backward_elemt""".split()
"""What the autograd function of `nn.SyncBatchNorm` calls for plain figures of the real maps: it weighs those of each
process by how much it has, so processes may have different numbers of maps. With them `batch_norm_elemt`, which
normalises, is all that it does with its input."""
PROPERTIES = """shape ndim dtype device layout requires_grad grad_fn is_leaf retains_grad is_cuda is_cpu is_meta
    is_sparse is_quantized is_nested is_mkldnn is_mps is_xpu grad output_nr _version _backward_hooks""".split()


def without_override(func: Handler, *args: Any, **kwargs: Any) -> Any:
    """Call a torch function on the data itself."""
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


def packed_like(result: Tensor, layout: ClipLayout) -> PackedClips:
    """Name the clips of a tensor that an operation has just made."""
    if type(result) is Tensor:
        # The class of a fresh result is changed in place: an alias (as_subclass) would be a view, and autograd pays
        # for every in-place operation on a view with copies of the gradient.
        result.__class__ = PackedClips
        result.clip_layout = layout  # type: ignore[attr-defined]
    return result  # type: ignore[return-value]


def by_name(names: Sequence[str], handler: Handler, *listings: dict[Any, Handler]) -> None:
    """List every spelling (torch.x, Tensor.x, F.x) of the named operations under one handler."""
    for name in names:
        for namespace in (torch, Tensor, F):
            if callable(function := getattr(namespace, name, None)):  # torch.float is no function
                for listing in listings or (OPERATIONS,):
                    listing[function] = handler


def backward(func: Handler, tensors: Any, *args: Any, **kwargs: Any) -> None:
    """Start a backward pass from plain aliases: what it calls, a recomputed forward say, must still be looked up."""

    def plain(value: Tensor) -> Tensor:
        with torch.enable_grad():  # checkpointing calls this within a backward pass
            return value.as_subclass(Tensor)

    tensors, args = torch.utils._pytree.tree_map_only((PackedClips, RearrangedClips), plain, (tensors, args))
    func(tensors, *args, **kwargs)


def gradient(func: Handler, outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> tuple[Tensor | None, ...]:
    """Return gradients, those in packed clips packed like these (Grad-CAM)."""
    kinds, sources = (PackedClips, RearrangedClips), [inputs] if isinstance(inputs, Tensor) else list(inputs)
    edges = [torch.autograd.graph.get_gradient_edge(x) if isinstance(x, kinds) else x for x in sources]
    outputs, args, kwargs = torch.utils._pytree.tree_map_only(
        kinds, lambda value: value.as_subclass(Tensor), (outputs, args, kwargs)
    )
    return tuple(
        arranged(found, form_of(x), sizes_of(x), x.clip_layout) if isinstance(x, kinds) and found is not None else found
        for x, found in zip(sources, func(outputs, edges, *args, **kwargs), strict=True)
    )


def pointwise(func: Handler, clips: PackedClips | RearrangedClips, *args: Any, **kwargs: Any) -> Tensor:
    """Run an operation that treats every position alike."""
    if any(isinstance(value, Tensor) for value in (*args, *kwargs.values())):
        raise UnsupportedOperationError(f"{operation_name(func)} of packed clips with a further tensor")
    result = without_override(func, clips, *args, **kwargs)
    return arranged(result, form_of(clips), sizes_of(clips), clips.clip_layout)


def compiled(func: Handler, clips: PackedClips) -> Any:
    """Refuse what torch.compile asks first."""
    raise UnsupportedOperationError(
        "torch.compile itself does not take adapted networks, as behind a sampler each batch has other lengths; "
        "atfr.compile(model) does"
    )


def view_as(func: Handler, clips: PackedClips, other: Tensor) -> PackedClips:
    """View a tensor as itself, as full backward hooks of modules do."""
    if not isinstance(other, PackedClips) or other.clip_layout != clips.clip_layout or other.shape != clips.shape:
        raise UnsupportedOperationError("operation 'view_as' of packed clips and a tensor of another form")
    return packed_like(without_override(func, clips, other), clips.clip_layout)


def expand_as(func: Handler, value: Tensor, other: Tensor) -> PackedClips:
    """Repeat each clip's row over its maps, as squeeze-and-excitation does before it multiplies."""
    if not isinstance(other, PackedClips):
        raise UnsupportedOperationError("operation 'expand_as' of packed clips to an ordinary tensor")
    rows = without_override(spread(value, other, func).expand, 1, *other.shape[1:])
    return packed_like(rows.contiguous(), other.clip_layout)


def by_channel(func: Handler, input: PackedClips, *args: Any, **kwargs: Any) -> PackedClips:
    """Run PReLU, or what `nn.SyncBatchNorm` normalises with."""
    return packed_like(without_override(func, input, *args, **kwargs), input.clip_layout)


def is_gradient_of(value: Tensor, clips: Tensor) -> bool:
    """Whether a plain tensor is the gradient of such clips, which autograd hands to a network's own functions.

    PyTorchVideo's Swish multiplies it with the packed clips it has saved.
    """
    return in_backward() and value.shape == clips.shape


def in_backward() -> bool:
    """Whether a backward pass is running, also where it runs a checkpointed forward again (which asks the same)."""
    return torch._C._current_graph_task_id() != -1


def spread(value: Tensor, clips: PackedClips, func: Handler) -> Tensor:
    """Return an operand so that it meets each clip with its own row.

    A plain tensor of N rows and one map in time (what pooling over time gives) is repeated over each clip's maps.
    """
    if isinstance(value, PackedClips):
        if value.clip_layout == clips.clip_layout:
            return value
        if value.clip_layout.one_map_each and len(value.clip_layout) == len(clips.clip_layout):  # pooled over time
            return without_override(value.index_select, TIME, clips.clip_layout.clip_index(value.device))
        raise UnsupportedOperationError(
            f"{operation_name(func)} of packed clips of lengths {clips.lengths} and {value.lengths}: every clip must "
            "have the same length on both sides; pool or merge both paths alike"
        )
    if is_gradient_of(value, clips):
        return value
    shape = (1,) * (5 - value.dim()) + tuple(value.shape)
    if len(shape) == 5 and shape[TIME] == 1:
        if shape[0] == 1:
            return value
        if shape[0] == len(clips.clip_layout):
            rows = without_override(value.index_select, 0, clips.clip_layout.clip_index(value.device))
            return rows.transpose(0, TIME)  # S C 1 H W -> 1 C S H W
    raise UnsupportedOperationError(
        f"{operation_name(func)} of {len(clips.clip_layout)} packed clips of lengths {clips.lengths} and a tensor of "
        f"shape {tuple(value.shape)}: it must have one map in time, and one row or as many as there are clips"
    )


def arithmetic(func: Handler, *operands: Any, **kwargs: Any) -> PackedClips:
    """Combine packed clips with numbers, with packed clips of the same lengths, or with one row a clip."""
    clips = next(value for value in (*operands, *kwargs.values()) if isinstance(value, PackedClips))
    if "out" in kwargs or (not isinstance(operands[0], PackedClips) and operation_name(func).endswith("_'")):
        raise UnsupportedOperationError(f"{operation_name(func)} would write packed clips into an ordinary tensor")
    met = [spread(x, clips, func) if isinstance(x, Tensor) else x for x in operands]
    named = {name: spread(x, clips, func) if isinstance(x, Tensor) else x for name, x in kwargs.items()}
    result = without_override(func, *met, **named)
    if result.shape[TIME] != clips.clip_layout.total or result.dim() != 5 or result.shape[0] != 1:
        raise UnsupportedOperationError(f"{operation_name(func)} gave {tuple(result.shape)}: not clips end to end")
    return packed_like(result, clips.clip_layout)


def rearranged_arithmetic(func: Handler, input: Any, other: Any, **kwargs: Any) -> Tensor:
    """Combine rearranged clips with a number, with clips of the same form and lengths, or with channels' parameters."""
    clips = input if isinstance(input, RearrangedClips) else other
    partner = other if clips is input else input
    if isinstance(partner, Tensor) and not fits(partner, clips):
        raise UnsupportedOperationError(
            f"{operation_name(func)} of rearranged packed clips of lengths {clips.lengths} and form {clips.form} and a "
            f"tensor of shape {tuple(partner.shape)}: it may have one row and one map in time only, or be clips of the "
            "same lengths, form and shape"
        )
    result = without_override(func, input, other, **kwargs)
    if "out" in kwargs or result.shape != clips.shape or (result is input and clips is not input):
        raise UnsupportedOperationError(f"{operation_name(func)} would not give clips of shape {tuple(clips.shape)}")
    return arranged(result, clips.form, clips.sizes, clips.clip_layout)


def fits(partner: Tensor, clips: RearrangedClips) -> bool:
    """Whether an operand meets every map of rearranged clips alike, or map by map."""
    if isinstance(partner, RearrangedClips):
        same = partner.form == clips.form and partner.clip_layout == clips.clip_layout
        return same and partner.shape == clips.shape
    if is_gradient_of(partner, clips):
        return True
    trailing = reversed(list(zip(reversed(clips.form), reversed(partner.shape), strict=False)))
    return partner.dim() <= clips.dim() and all(n == 1 or not {0, TIME} & set(group) for group, n in trailing)


def are_a_batch(clips: PackedClips) -> bool:
    """Whether clip by clip is a single call: clips of one length are a plain batch in memory; not in training."""
    layout = clips.clip_layout
    return len(layout) > 1 and not layout.traced and len(layout.runs) == 1 and not torch.is_grad_enabled()


def clip_by_clip(func: Callable[[Tensor], Tensor], clips: PackedClips) -> PackedClips:
    """Run a function that keeps the clips of a batch (N x C x A x H x W) apart on each clip; lengths may change.

    In inference, neighbours of one length are a call: they are a plain batch in memory.
    """
    runs = [(length, 1) for length in clips.lengths] if torch.is_grad_enabled() else clips.clip_layout.runs
    sizes = [length * count for length, count in runs]
    parts = [clips] if len(runs) == 1 else without_override(torch.split, clips, sizes, dim=TIME)
    lengths, results = list[int](), list[Tensor]()
    for part, (_, count) in zip(parts, runs, strict=True):
        result = without_override(func, part) if count == 1 else of_a_batch(func, part.as_subclass(Tensor), count)
        lengths += [result.shape[TIME] // count] * count
        results.append(result)
    if min(lengths) < 1:
        raise UnsupportedOperationError(f"an operation in time would leave nothing of clips of lengths {clips.lengths}")
    joined = results[0] if len(results) == 1 else torch.cat(results, dim=TIME)
    return packed_like(joined, clips.clip_layout if tuple(lengths) == clips.lengths else ClipLayout(lengths))


def of_a_batch(func: Callable[[Tensor], Tensor], maps: Tensor, count: int) -> Tensor:
    """Run a function on so many clips of one length, end to end before and after."""
    result = func(maps[0].unflatten(1, (count, -1)).transpose(0, 1))
    # maps before channels, so that the format is one that PyTorch knows, strides of sizes of 1 too
    return result.transpose(1, 2).flatten(0, 1)[None].transpose(1, 2)


by_name(POINTWISE, pointwise, OPERATIONS, REARRANGED)
by_name([*ARITHMETIC, *OF_SEVERAL], arithmetic)
by_name(ARITHMETIC, rearranged_arithmetic, REARRANGED)
by_name(METADATA, without_override, OPERATIONS, REARRANGED)
OPERATIONS[torch.autograd.backward] = OPERATIONS[Tensor.backward] = backward
OPERATIONS[torch.autograd.grad] = REARRANGED[torch.autograd.grad] = gradient
by_name(["view_as"], view_as)
by_name(["_is_view"], compiled)
by_name(["expand_as"], expand_as)
by_name(["channel_shuffle"], pointwise)
by_name(["batch_norm_elemt", "prelu"], by_channel)
by_name(SYNC_BATCH_NORM, without_override)
OPERATIONS[Tensor.requires_grad.__set__] = without_override  # type: ignore[attr-defined]  # reentrant checkpointing
SET_HOOKS: Any = Tensor._backward_hooks.__set__  # type: ignore  # torch, of a view whose base was written over
OPERATIONS[SET_HOOKS] = REARRANGED[SET_HOOKS] = without_override
for _name in PROPERTIES:
    OPERATIONS[getattr(Tensor, _name).__get__] = REARRANGED[getattr(Tensor, _name).__get__] = without_override
