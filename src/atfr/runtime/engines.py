"""The inference runtimes: how each writes a graph to files, and how it runs one.

N batch is 1 here: what a graph takes and returns, `atfr.runtime.graphs` says.
"""

import functools
import importlib.util
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from atfr.checks import Precision
from atfr.errors import BundleError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Arrays = Sequence[np.ndarray]
Request = Callable[..., Arrays]
"""Runs a graph on arrays that lie in one piece each. What it returns is its own, and good until it is called again; for
one thread at a time."""


class Engine(Protocol):
    """A graph in a runtime; any number of requests may run it at the same time."""

    @staticmethod
    def write(program: "ExportedProgram", stem: Path) -> None:
        """Write a graph to one or more files whose names begin as the stem says."""

    def __init__(self, stem: Path, threads: int, precision: Precision) -> None:
        """Read a graph."""

    def request(self) -> Request:
        """Return one more way to run the graph."""


@functools.cache
def openvino_core() -> Any:
    """Return OpenVINO's core, which stays as long as the process.

    When the last reference to its CPU plugin goes, the plugin takes away the memory in which the thread that loaded it
    handles signals. If that happens in another thread, the first thread does not know, and its next signal, a loader's
    worker that ends, is the end of the process (OpenVINO 2026.4).
    """
    return needed("openvino").Core()


def longest() -> Any:
    """Return how OpenVINO computes the longer of two lengths, which it does not know of by itself.

    SlowFast's pathways keep different numbers of maps and are put together (`atfr.ragged.clipwise`).
    """
    import torch

    operations = needed("openvino.opset13")
    return needed("openvino.frontend.pytorch").ConversionExtension(
        str(torch.sym_max),  # as it names a function of Python in a graph
        lambda node: operations.maximum(node.get_input(0), node.get_input(1)).outputs(),
    )


class OpenVINO:
    """OpenVINO on the CPU.

    It is told to compute in float32: by default it takes bfloat16 where the CPU has it, which moves logits by percents.
    """

    @staticmethod
    def write(program: "ExportedProgram", stem: Path) -> None:
        """Write stem.xml and stem.bin."""
        openvino = needed("openvino")
        network = openvino.convert_model(program, extension=[longest()])
        inputs = program.graph.find_nodes(op="placeholder")[-len(network.inputs) :]  # behind the weights
        shapes = [[size if isinstance(size, int) else -1 for size in node.meta["val"].shape] for node in inputs]
        network.reshape(
            {given: openvino.PartialShape(shape) for given, shape in zip(network.inputs, shapes, strict=True)}
        )
        openvino.save_model(network, stem.with_suffix(".xml"), compress_to_fp16=False)

    def __init__(self, stem: Path, threads: int, precision: Precision, specialize: bool = False) -> None:
        """Compile a graph; `specialize`: for the lengths that come, when they first do, as open ones cost time."""
        openvino = needed("openvino")
        settings = {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        core, self.specialize = openvino_core(), specialize
        self.network = core.read_model(str(stem.with_suffix(".xml")))
        self.compile = lambda: core.compile_model(self.network, "CPU", settings)
        self.by_lengths, self.lock = dict[tuple[int, ...], Any](), threading.Lock()
        self.tensor, self.shape = openvino.Tensor, openvino.PartialShape
        if not specialize:
            self.compiled(())

    def compiled(self, lengths: tuple[int, ...]) -> Any:
        """Return the graph for inputs whose first axes are so long; none are given where they are open."""
        with self.lock:
            if lengths not in self.by_lengths:
                given = zip(self.network.inputs, lengths, strict=bool(lengths))
                if shapes := {one: self.shape([length, *list(one.partial_shape)[1:]]) for one, length in given}:
                    self.network.reshape(shapes)
                self.by_lengths[lengths] = self.compile()
            return self.by_lengths[lengths]

    def request(self) -> Request:
        """Return a request with buffers of its own, which are read and written without a copy."""
        requests: dict[tuple[int, ...], Any] = {}

        def run(*inputs: np.ndarray) -> Arrays:
            lengths = tuple(map(len, inputs)) if self.specialize else ()
            if lengths not in requests:
                requests[lengths] = self.compiled(lengths).create_infer_request()
            for place, array in enumerate(inputs):
                requests[lengths].set_input_tensor(place, self.tensor(array, shared_memory=True))
            requests[lengths].infer()
            return [output.data for output in requests[lengths].output_tensors]

        return run


class ONNXRuntime:
    """ONNX Runtime on the CPU."""

    @staticmethod
    def write(program: "ExportedProgram", stem: Path) -> None:
        """Write stem.onnx, which holds the weights too."""
        import torch.onnx

        needed("onnx")
        needed("onnxscript")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter, about its own insides
            network = torch.onnx.export(program, dynamo=True, verbose=False)
        assert network is not None
        network.save(stem.with_suffix(".onnx"), external_data=False)

    def __init__(self, stem: Path, threads: int, precision: Precision) -> None:
        onnxruntime = needed("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # a graph's idle threads would take the cores from the next graph: an adapted network took twice the time
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = str(stem.with_suffix(".onnx"))
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.names = [given.name for given in self.session.get_inputs()]

    def request(self) -> Request:
        """Return a request; the runtime makes new arrays in every run."""
        return lambda *inputs: self.session.run(None, dict(zip(self.names, inputs, strict=True)))


PACKAGES = {"openvino": ("openvino",), "onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": ()}
"""What each runtime needs, all in the extra of its name; onnx and onnxscript only write."""


def installed(package: str) -> bool:
    """Whether a package is installed."""
    return importlib.util.find_spec(package) is not None


def needed(package: str) -> ModuleType:
    """Import a package of a runtime. OpenVINO reports its use over the network when it is imported, but not to us.

    Raises:
        BundleError: it is not installed; says how to install it.
    """
    if package.partition(".")[0] == "openvino":
        sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))  # as if it were not installed
    try:
        return importlib.import_module(package)
    except ImportError as error:
        extra = next(runtime for runtime, packages in PACKAGES.items() if package.partition(".")[0] in packages)
        raise BundleError(
            f"{package} cannot be used ({error}); install it with: pip install 'atfr[{extra}]'"
        ) from error
