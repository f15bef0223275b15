"""compile: torch.compile for an adapted network, in inference and in training.

Behind a sampler each batch has other lengths, which a compiled graph cannot know. So the network is recorded as two
graphs of plain tensors (`recording`). The first ends where the samplers have found what becomes of each map; then the
lengths are waited for. The second begins where maps are merged: into few numbers of them, to the next of which a batch
is filled up by one more clip (`ragged.bucket`). Both have fixed shapes, so torch.compile takes them once, and CUDA
graphs can replay them.

N clips, T frames, S maps of all clips and of the one behind them, K classes.
"""

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from atfr.adapt.surgery import refuse_wrapped
from atfr.errors import InputError
from atfr.optimize.recording import ENDS, first_filling, recorded, samplers_of
from atfr.private import hooked, hooks_of
from atfr.ragged import PackedClips
from atfr.ragged.bucket import Filling, Told
from atfr.samplers.sampler import TemporalSampler
from atfr.samplers.sampling import Sampling

Graph = Callable[..., Any]
RECORDING = threading.RLock()  # PyTorch records for one thread at a time
SETTINGS = frozenset({bool, int, float, str, tuple, Tensor})  # types of what a module computes with
STATES = 64  # of a network; the graphs of the oldest go when there are more


def compile(model: nn.Module, **options: Any) -> "CompiledNetwork":
    """Return an adapted network that runs under torch.compile: in inference and in training, with the same parameters.

    `torch.compile` itself does not take adapted networks. This records what comes before the samplers and what comes
    behind, as graphs of fixed shapes, and compiles each when it is first needed: one for the layers before the
    samplers, and one for each of few numbers of maps that a batch is rounded up to (6 % apart; in SlowFast with a
    sampler in each pathway, one for each combination that comes). A batch of another size or type,
    another mode (training, gradients), a sampler with other settings, and modules that were exchanged, frozen, given
    hooks or other settings (numbers, words, tensors) in between are recorded anew (what changes at every step, at every
    step; the graphs of 64 such states are kept); lists and objects of a module's own are not looked into. Results are
    those of the network, but for rounding; batch norms in training see the real maps only. It pays on GPUs, where a
    network of many small operations is bound by their launches; on CPUs `atfr.optimize_for_inference` is faster.

    Graphs are recorded with `torch.fx`, as in torch.export: what a forward or a hook does besides computing (prints,
    counters, decisions by the maps' numbers) happens once a graph, with one clip more than there are, and once before,
    up to the samplers, to know the first numbers of maps. A network that mixes the clips of a batch behind a sampler
    (of which `adapt_` warns) mixes that one in.

    Args:
        model: a network with a sampler, or with several of which none stands behind another (SlowFast's pathways).
            Behind them, what is done across time must be known for all clips at once, as convolutions, pools, norms and
            strides are; `atfr.ragged.each_clip` is not.
        options: those of `torch.compile`, ``mode="reduce-overhead"`` for CUDA graphs.

    Returns:
        A module that takes clips and gives logits. It holds the network, whose parameters, samplers and modes are its
        own; a checkpoint of it is read by `atfr.load_weights`, as one of torch.compile is.

    Raises:
        InputError: it is no module; or options has `dynamic`.
        AdaptError: it is wrapped (DistributedDataParallel, torch.compile): compile the network itself, then wrap it.
        UnsupportedNetworkError: it has no sampler. (At the first call: something in it cannot be recorded, leads around
            the samplers, or one stands behind another.)

    Examples:
        >>> import torch
        >>> import atfr
        >>> model = atfr.create_model("resnet3d_18", num_classes=10).eval()
        >>> report = atfr.adapt_(model, after="res2")
        >>> compiled = atfr.compile(model, backend="eager")
        >>> with torch.inference_mode():
        ...     compiled(torch.rand(2, 3, 4, 32, 32)).shape
        torch.Size([2, 10])
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"atfr.compile takes a network, an nn.Module, got {type(model).__name__}")
    if "dynamic" in options:
        raise InputError("the graphs of atfr.compile have fixed shapes, few of them: leave out dynamic")
    refuse_wrapped(model)
    return CompiledNetwork(model, options)


class CompiledNetwork(nn.Module):
    """An adapted network whose graphs are compiled; made by `atfr.compile`.

    Attributes:
        graphs: what was recorded, by what it was recorded for.
    """

    def __init__(self, model: nn.Module, options: dict[str, Any]) -> None:
        super().__init__()
        self._orig_mod = model  # the name that torch.compile gives it, which readers of checkpoints know
        self.training = model.training
        self.options = options
        self.graphs: dict[Any, Graphs] = {}
        samplers_of(model)

    def forward(self, clips: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N K"]:
        """The logits."""
        model = self._orig_mod
        if not isinstance(clips, Tensor) or isinstance(clips, PackedClips) or clips.dim() != 5 or not len(clips):
            plain = isinstance(clips, Tensor) and not isinstance(clips, PackedClips)
            got = f"shape {tuple(clips.shape)}" if plain else type(clips).__name__
            raise InputError(f"a compiled network takes plain clips N x C x T x H x W, one at least, got {got}")
        if clips.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        key = state_of(model, clips)
        if (graphs := self.graphs.get(key)) is None:
            with RECORDING:
                if len(self.graphs) >= STATES:
                    self.graphs.pop(next(iter(self.graphs)))
                graphs = self.graphs.setdefault(key, Graphs(model, self.options))
        logits = graphs.run(clips)
        return logits.clone() if clips.device.type == "cuda" else logits  # a CUDA graph's own are written over

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"graphs": {}}  # a copy records its own


def state_of(model: nn.Module, clips: Tensor) -> tuple[Any, ...]:
    """Return what a recording holds for: the clips' form, modules, their settings, and which tensors learn."""
    kind = clips.device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    of_modules: list[Any] = []
    for module in model.modules():  # in one pass: parameters() and buffers() would take as long again, each
        of_modules += [id(module), type(module)]
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            of_modules += [id(tensor), tensor is not None and tensor.requires_grad]
        if isinstance(module, TemporalSampler):
            of_modules += [module.training, repr(module.settings())]
            continue
        of_modules += [
            id(value) if type(value) is Tensor else value for value in vars(module).values() if type(value) in SETTINGS
        ]
        if hooked(module):
            of_modules.append(tuple(map(id, hooks_of(module))))
    state = (
        *(tuple(clips.shape), clips.stride(), clips.dtype, clips.device, autocast),
        *(torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *of_modules),
    )
    try:
        hash(state)
    except TypeError:  # a tuple with lists in it
        return tuple(map(repr, state))
    return state


@dataclass
class Graphs:
    """The graphs of a network in one state.

    Attributes:
        before: clips to the maps that come to the samplers, and what becomes of them; None until it was recorded.
        samplers: in the order in which they are called there.
        joins: how long clips are where paths of different lengths are joined.
        behind: those maps, their weights, slots and active bins to logits, by the numbers of maps there.
        run_before: which of the latter have run, and are compiled.
    """

    model: nn.Module
    options: dict[str, Any]
    before: Graph | None = None
    samplers: tuple[TemporalSampler, ...] = ()
    joins: list[Told] = field(default_factory=list)
    behind: dict[tuple[int, ...], Graph] = field(default_factory=dict)
    run_before: set[tuple[int, ...]] = field(default_factory=set)

    def run(self, clips: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N K"]:
        """Return the logits."""
        if self.before is None:
            self._record(clips, first_filling(self.model, clips))
        assert self.before is not None
        ends, inputs, kept, frames = self.before(clips), list[Tensor](), list[Sequence[int]](), list[int]()
        for place, sampler in enumerate(self.samplers):
            features, *found = ends[place * ENDS : (place + 1) * ENDS]
            sampling = sampler.observed(Sampling(*found, one_each=sampler.one_each))
            inputs += [features, sampling.weights, sampling.slots, sampling.active_bins]
            kept.append(sampling.layout.lengths)
            frames.append(features.shape[2])
        totals = Filling(kept, frames, self.joins).totals()
        if totals not in self.behind:
            self._record(clips, Filling(kept, frames))
        if totals in self.run_before:
            return self.behind[totals](*inputs)
        with RECORDING, warnings.catch_warnings():
            # torch.compile looks at the gradients of what comes in, and warns of that
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
            logits = self.behind[totals](*inputs)
        self.run_before.add(totals)
        return logits

    def _record(self, clips: Float[Tensor, "N C T H W"], filling: Filling) -> None:
        with RECORDING:
            if replace(filling, joins=self.joins).totals() in self.behind:
                return  # by another thread
            found = recorded(self.model, clips, filling)
            self.behind[filling.totals()] = self._compiled(found.behind)
            if self.before is None:
                samplers = samplers_of(self.model)
                self.samplers, self.joins = tuple(samplers[site] for site in found.sites), filling.joins
                self.before = self._compiled(found.before)

    def _compiled(self, graph: fx.GraphModule) -> Graph:
        return torch.compile(graph, dynamic=False, **self.options)
