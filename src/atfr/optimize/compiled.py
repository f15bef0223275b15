"""compile: torch.compile for an adapted network, in inference and in training.

Behind a sampler each batch has other lengths, which a compiled graph cannot know. So the network is recorded as two
graphs of plain tensors. The first ends where the sampler has found what becomes of each map; then the lengths are
waited for. The second begins where maps are merged: into few numbers of them, to the next of which a batch is filled up
by one more clip (`ragged.bucket`). Both have fixed shapes, so torch.compile takes them once, and CUDA graphs can replay
them.

N clips, T frames, S maps of all clips and of the one behind them, K classes.
"""

import copy
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.autograd.function import BackwardCFunction
from torch.nn.modules.batchnorm import _NormBase

from atfr.adapt.surgery import refuse_wrapped
from atfr.adapt.trace import site_names
from atfr.errors import AtfrError, InputError, UnsupportedNetworkError
from atfr.private import MAKE_FX, SET_GRAD, hooked, hooks_of, one_fake_mode
from atfr.ragged import PackedClips
from atfr.ragged.bucket import Bucket
from atfr.ragged.operations import packed_like
from atfr.samplers.sampler import TemporalSampler, check_features, merged_into
from atfr.samplers.sampling import Sampling

Graph = Callable[..., Any]
MARK = torch.ops.aten.alias_copy.default  # at what the graph behind takes; no network calls it
OF_OPERATIONS = "GeneratedBackwardFor"  # gradients of operations made with torch.library, which graphs hold
RECORDING = threading.RLock()  # PyTorch records for one thread at a time
SETTINGS = frozenset({bool, int, float, str, tuple, Tensor})  # types of what a module computes with
STATES = 64  # of a network; the graphs of the oldest go when there are more
STEP = 16  # a number of maps is rounded up to the next of a row that grows by a 16th


def compile(model: nn.Module, **options: Any) -> "CompiledNetwork":
    """Return an adapted network that runs under torch.compile: in inference and in training, with the same parameters.

    `torch.compile` itself does not take adapted networks. This records what comes before the sampler and what comes
    behind, as graphs of fixed shapes, and compiles each when it is first needed: one for the layers before the sampler,
    and one for each of few numbers of maps that a batch is rounded up to (6 % apart). A batch of another size or type,
    another mode (training, gradients), a sampler with other settings, and modules that were exchanged, frozen, given
    hooks or other settings (numbers, words, tensors) in between are recorded anew (what changes at every step, at every
    step; the graphs of 64 such states are kept); lists and objects of a module's own are not looked into. Results are
    those of the network, but for rounding; batch norms in training see the real maps only. It pays on GPUs, where a
    network of many small operations is bound by their launches; on CPUs `atfr.optimize_for_inference` is faster.

    Graphs are recorded with `torch.fx`, as in torch.export: what a forward or a hook does besides computing (prints,
    counters, decisions by the maps' numbers) happens once a graph, with one clip more than there are, and once before,
    up to the sampler, to know the first number of maps. A network that
    mixes the clips of a batch behind the sampler (of which `adapt_` warns) mixes that one in.

    Args:
        model: a network with one sampler. Behind it, what is done across time must be known for all clips at once, as
            convolutions, pools, norms and strides are; `atfr.ragged.each_clip` is not.
        options: those of `torch.compile`, ``mode="reduce-overhead"`` for CUDA graphs.

    Returns:
        A module that takes clips and gives logits. It holds the network, whose parameters, samplers and modes are its
        own; a checkpoint of it is read by `atfr.load_weights`, as one of torch.compile is.

    Raises:
        InputError: it is no module; or options has `dynamic`.
        AdaptError: it is wrapped (DistributedDataParallel, torch.compile): compile the network itself, then wrap it.
        UnsupportedNetworkError: it has no sampler, or several. (At the first call: something in it cannot be recorded,
            or leads around the sampler.)

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
        only_sampler(model)

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
                graphs = self.graphs.setdefault(key, Graphs(model, only_sampler(model), self.options))
        logits = graphs.run(clips)
        return logits.clone() if clips.device.type == "cuda" else logits  # a CUDA graph's own are written over

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"graphs": {}}  # a copy records its own


def only_sampler(model: nn.Module) -> TemporalSampler:
    """Return the sampler of a network that has one."""
    samplers = site_names(model)
    if len(samplers) != 1:
        sites = f"samplers at {', '.join(samplers)}" if samplers else "no sampler"
        remedy = "put one at one place" if samplers else "put one in with atfr.adapt_, or use torch.compile"
        raise UnsupportedNetworkError(f"{type(model).__name__} has {sites}, atfr.compile takes one: {remedy}")
    return next(iter(samplers.values()))


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


def bucket_of(maps: int, clips: int, frames: int) -> int:
    """Return the number to which the maps of a batch, and one behind them, are filled up."""
    size = clips + 1
    while size < maps + 1:
        size = max(size + 1, size * (STEP + 1) // STEP)
    return min(size, clips * frames + 1)


@dataclass
class Graphs:
    """The graphs of a network in one state.

    Attributes:
        before: clips to the maps that come to the sampler, and what becomes of them; None until it was recorded.
        behind: those maps, their weights, slots and active bins to logits, by the number of maps there.
        run_before: which of the latter have run, and are compiled.
    """

    model: nn.Module
    sampler: TemporalSampler
    options: dict[str, Any]
    before: Graph | None = None
    behind: dict[int, Graph] = field(default_factory=dict)
    run_before: set[int] = field(default_factory=set)

    def run(self, clips: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N K"]:
        """Return the logits."""
        if self.before is None:
            self._record(clips, first_bucket(self.model, clips))
        assert self.before is not None
        features, *found = self.before(clips)
        sampling = self.sampler.observed(Sampling(*found, one_each=self.sampler.one_each))
        total = bucket_of(sampling.layout.total, len(clips), features.shape[2])
        if total not in self.behind:
            self._record(clips, total)
        inputs = (features, sampling.weights, sampling.slots, sampling.active_bins)
        if total in self.run_before:
            return self.behind[total](*inputs)
        with RECORDING, warnings.catch_warnings():
            # torch.compile looks at the gradients of what comes in, and warns of that
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
            logits = self.behind[total](*inputs)
        self.run_before.add(total)
        return logits

    def _record(self, clips: Float[Tensor, "N C T H W"], total: int) -> None:
        with RECORDING:
            if total in self.behind:
                return  # by another thread
            before, behind = recorded(self.model, clips, total)
            self.behind[total] = self._compiled(behind)
            self.before = self._compiled(before) if self.before is None else self.before

    def _compiled(self, graph: fx.GraphModule) -> Graph:
        return torch.compile(graph, dynamic=False, **self.options)


class Cut:
    """A sampler's forward while its network is recorded.

    Args:
        total: how many maps there are behind it; None: it ends the pass where that is known.

    Attributes:
        ends: the maps that come in, and the assignment, weights, slots, active bins and lengths of their sampling.
    """

    ends: tuple[Tensor, ...]

    def __init__(self, sampler: TemporalSampler, total: int | None) -> None:
        self.sampler, self.total = sampler, total

    def __call__(self, features: Float[Tensor, "N C T H W"]) -> PackedClips:
        """Do what the sampler does, but for one clip more, which takes what is left of the maps."""
        check_features(features, self.sampler.channels)
        found = self.sampler.sampling_of(features)
        if self.total is None:
            raise Reached(bucket_of(found.layout.total, *features.shape[:3:2]))
        self.ends = (features, found.assignment, found.weights, found.slots, found.active_bins, found.maps)
        *sampled, active_bins = map(MARK, (features, found.weights, found.slots, found.active_bins))
        maps = merged_into(self.total, *sampled, one_each=self.sampler.one_each)
        lengths = torch.cat([active_bins, self.total - active_bins.sum(0, keepdim=True)])
        return packed_like(torch.ops.aten.alias(maps), Bucket(lengths, self.total))


class Reached(Exception):  # noqa: N818  no error: it ends a pass
    """The number of maps behind the sampler is known."""


def with_cut(model: nn.Module, total: int | None) -> tuple[nn.Module, Cut]:
    """Return a copy of a network, whose parameters are the network's own, with a cut in its sampler's place."""
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in model.parameters()})  # its buffers are written to
    sampler = only_sampler(twin)
    sampler.forward = cut = Cut(sampler, total)  # type: ignore[method-assign]
    return twin, cut


def first_bucket(model: nn.Module, clips: Float[Tensor, "N C T H W"]) -> int:
    """Return the number to which the maps of these clips are filled up, by a pass that ends at the sampler."""
    with torch.no_grad(), randomness_kept(clips):
        try:
            with_cut(model, None)[0](clips.detach().clone())
        except Reached as reached:
            return reached.args[0]
    raise UnsupportedNetworkError(f"{type(model).__name__} does not run its sampler")


def randomness_kept(clips: Tensor) -> AbstractContextManager[None]:
    """Give random state back."""
    return torch.random.fork_rng([clips.device] if clips.device.type == "cuda" else [])


def recorded(model: nn.Module, clips: Float[Tensor, "N C T H W"], total: int) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Record a network for clips of one form.

    Args:
        total: how many maps there are behind the sampler, one more than the clips have at least.

    Returns:
        What comes before the sampler, with its sampling, and what comes behind.

    Raises:
        UnsupportedOperationError: something in it cannot be recorded.
    """
    name = type(model).__name__
    if MAKE_FX is None:
        raise UnsupportedNetworkError("this version of PyTorch records no graphs (make_fx): run without atfr.compile")
    refuse_counting_norms(model)
    twin, cut = with_cut(model, total)
    own = {id(tensor): path for path, tensor in (*twin.named_parameters(), *twin.named_buffers())}

    def run(clips: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        logits = twin(clips)
        refuse_own_gradients(logits, name)
        if not isinstance(logits, Tensor) or isinstance(logits, PackedClips) or len(logits) != len(clips) + 1:
            raise UnsupportedNetworkError(f"atfr.compile takes networks that give one row a clip; {name} does not")
        return cut.ends, logits[:-1]

    with randomness_kept(clips), one_fake_mode():
        try:
            module = MAKE_FX(run, pre_dispatch=True)(clips.detach().clone())  # it may be written over
        except (AtfrError, torch.OutOfMemoryError):
            raise
        except RuntimeError as error:
            raise UnsupportedNetworkError(
                f"{name} cannot be recorded for atfr.compile: {(str(error).strip().splitlines() or [''])[0]} (What is "
                "computed must not depend on the maps' numbers. Behind the sampler a batch has one clip more than goes "
                "in, so nothing may lead around it.)"
            ) from error
    before, behind = halves(module, own, name)
    constants = {node.target: getattr(module, node.target) for node in module.graph.find_nodes(op="get_attr")}
    tensors: dict[str, Any] = {**constants, **dict(model.named_parameters()), **dict(model.named_buffers())}
    return fx.GraphModule(tensors, before), fx.GraphModule(tensors, behind)


def refuse_own_gradients(logits: Any, name: str) -> None:
    """Raise where a network has an autograd function, whose backward pass is not recorded."""
    seen, ahead = set[Any](), [getattr(logits, "grad_fn", None)]
    while ahead:
        if (node := ahead.pop()) is None or node in seen:
            continue
        if isinstance(node, BackwardCFunction) and not type(node).__name__.startswith(OF_OPERATIONS):
            raise UnsupportedNetworkError(
                f"{name} has an autograd function of its own ({type(node).__name__.removesuffix('Backward')}), whose "
                "gradient atfr.compile does not record; train without it"
            )
        seen.add(node)
        ahead += [after for after, _ in node.next_functions]


def refuse_counting_norms(model: nn.Module) -> None:
    """Raise where a batch norm in training weighs each batch by how many there were: a graph would hold that number."""
    for path, module in model.named_modules():
        if isinstance(module, _NormBase) and module.training and module.momentum is None and module.track_running_stats:
            raise UnsupportedNetworkError(
                f"{path} is a batch norm with momentum=None, whose weights of batches change with each; give it a "
                "momentum, or train without atfr.compile"
            )
        if isinstance(module, nn.SyncBatchNorm | nn.BatchNorm1d) and module.training:
            raise UnsupportedNetworkError(f"{path} is a {type(module).__name__}, which atfr.compile does not train")


def halves(module: fx.GraphModule, own: dict[int, str], name: str) -> tuple[fx.Graph, fx.Graph]:
    """Return the part of a recorded graph before the cut, and the one behind it, as graphs of their own.

    Args:
        own: paths of the network's tensors by their ids; others are constants.
        name: the network's, for errors.
    """
    outputs: Any = module.graph.output_node().args[0]
    ends, logits = outputs
    (clips,) = module.graph.find_nodes(op="placeholder")
    inputs = module.graph.find_nodes(op="call_function", target=MARK)
    before, behind = graphs = fx.Graph(), fx.Graph()
    copies = ({clips: before.placeholder("clips")}, {node: behind.placeholder(node.name) for node in inputs})
    half, learns = 0, torch.is_grad_enabled()
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target is SET_GRAD:
            (learns,) = node.args
        if node in inputs and not half and learns != torch.is_grad_enabled():
            raise UnsupportedNetworkError(
                f"{name} has its sampler within torch.no_grad() or torch.enable_grad(): let that end before the "
                "sampler, or freeze what is before it by requires_grad_(False)"
            )
        half = 1 if node in inputs else half
        if node.op == "call_function" and node not in inputs:
            graph, known = graphs[half], copies[half]
            for source in node.all_input_nodes:
                if source.op == "get_attr":
                    known[source] = graph.get_attr(own.get(id(getattr(module, source.target)), source.target))
                elif source not in known:
                    if "autocast" in source.name:
                        raise UnsupportedNetworkError(
                            f"{name} has its sampler within torch.autocast: let that end before the sampler, or put it "
                            "around the whole network"
                        )
                    raise UnsupportedNetworkError(
                        f"{name} has a way around its sampler ({source.name} is used behind it) and cannot be compiled "
                        'there; put the sampler where all later layers depend on it, after="input" for one'
                    )
            known[node] = graph.node_copy(node, known.__getitem__)
    before.output(tuple(copies[0][node] for node in ends))
    behind.output(copies[1][logits])
    for graph in graphs:
        for node in reversed(graph.nodes):
            is_operation = isinstance(node.target, torch._ops.OpOverload)
            if is_operation and not node.users and not node.all_input_nodes:
                graph.erase_node(node)  # promote_types, which gives no tensor, would break a graph of torch.compile
    return before, behind
