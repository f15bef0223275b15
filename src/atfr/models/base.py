"""VideoModel: what all networks of atfr share: stages with names, a checked input, initialisation, saving and loading.

A network's stages after an inserted SGS layer receive a `PackedClips`, so forwards use only operations that it knows:
no reshaping of feature maps and no look at their batch size before the global pool.

N batch, C channels, T frames in, H, W, K classes.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from atfr.adapt import adaptation
from atfr.adapt.surgery import put_samplers_
from atfr.errors import AtfrError, CheckpointError, InputError
from atfr.kernels.conv3d import channels_last
from atfr.ragged import PackedClips
from atfr.weights import checkpoint

M = TypeVar("M", bound="VideoModel")

MIN_SIDE = 8
"""The smallest height and width of a clip in pixels."""

BLOCKS = MappingProxyType({stage: f"blocks.{i}" for i, stage in enumerate(("stem", "res2", "res3", "res4", "res5"))})
"""The `stage_paths` of networks whose stages are their first blocks."""

_MODEL_CARD = """---
{{ card_data }}
---

# {{ model_name }}

A video network of atfr. Load it with `atfr.from_pretrained("this folder")`; it takes clips
N x C x T x H x W and returns logits. The network was designed for clips of {{ clip_shape }} (C x T x H x W);
`task.json`, where it is here, says what clips it was trained on.
"""


class VideoModel(
    nn.Module,
    PyTorchModelHubMixin,
    model_card_template=_MODEL_CARD,
    library_name="atfr",
    pipeline_tag="video-classification",
    paper_url="https://arxiv.org/abs/2011.08652",
):
    """A 3D CNN for video classification, made by its name; `create_model` picks the class.

    Args:
        name: One of the class's `variants`.
        num_classes: Classes K, 1 or more.
        dropout: Probability with which a pooled feature is dropped in training, in [0, 1).
        arguments: What else the class takes, checked, as plain JSON (lists, not tuples).

    Attributes:
        config: How to make the network again: ``{"model": name, "arguments": {...}}``, plain JSON, without SGS.
        clip_shape: The clip the network was designed for, C T H W; it takes others.
    """

    variants: ClassVar[Mapping[str, Any]] = {}
    """The names this class can make, each with what sets it apart."""

    stage_paths: ClassVar[Mapping[str, str | tuple[str, ...]]] = {}
    """Submodule path of each stage: stem, res2, res3, res4, res5; several where a stage has parallel pathways."""

    mean: ClassVar[tuple[float, float, float]] = (0.45, 0.45, 0.45)
    std: ClassVar[tuple[float, float, float]] = (0.225, 0.225, 0.225)
    """How published weights expect pixels of [0, 1] to be normalised, by channel R, G, B; PyTorchVideo's and
    PySlowFast's where a class does not say otherwise."""

    clip_shape: tuple[int, int, int, int]
    blocks: nn.Module
    """What clips go through, where a class has no `forward` of its own."""

    def __init__(self, name: str, num_classes: int, dropout: float, **arguments: Any) -> None:
        super().__init__()
        if name not in self.variants:
            raise InputError(f"unknown {unknown_name(f'{type(self).__name__} network', name, self.variants)}")
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
            raise InputError(f"num_classes must be a whole number of 1 or more, got {num_classes!r} for {name}")
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise InputError(f"dropout must be a probability in [0, 1), got {dropout!r} for {name}")
        self.config: dict[str, Any] = {
            "model": name,
            "arguments": {"num_classes": num_classes, "dropout": float(dropout), **arguments},
        }

    def forward(self, clips: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N K"]:
        """Logits of clips with 3 channels, any number of frames and any size from 8 x 8 pixels."""
        check_clips(clips)
        return self.blocks(channels_last(clips))

    def modules_up_to(self, stage: str) -> list[nn.Module]:
        """The modules that a clip goes through up to the end of a stage; those of all pathways."""
        names = list(self.stage_paths)
        paths = [self.stage_paths[name] for name in names[: names.index(stage) + 1]]
        return [self.get_submodule(path) for stage in paths for path in ([stage] if isinstance(stage, str) else stage)]

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_options: Any,
    ) -> str | None:
        """Write config.json and model.safetensors (and a README.md where there is none), whole or not at all.

        An SGS layer in the network is saved with it. A checkpoint that was there is replaced; other files stay.

        Args:
            save_directory: Made with its parents when missing.
            repo_id: The Hub id to upload to; the folder's name when not given.
            push_to_hub: Upload the checkpoint to the Hugging Face Hub as well.
            model_card_kwargs: Further fields for the README.md.
            push_options: As for `huggingface_hub.PyTorchModelHubMixin.push_to_hub`.

        Raises:
            CheckpointError: The folder cannot be written, or the network is no longer the one that its configuration
                describes, as layers were changed by hand or it is a copy of `optimize_for_inference`.
        """
        folder = Path(save_directory)
        with torch.device("meta"), Uninitialised():
            described = made(type(self), {**self.config, "sgs": adaptation(self)})
        if troubles := checkpoint.misfits(self.state_dict(), described.state_dict()):
            raise CheckpointError(
                f"cannot save this network to {str(folder)!r}: it is not the {self.config['model']} that config.json"
                f" would describe ({troubles}), and could not be loaded again; save the network that"
                " optimize_for_inference has copied, or keep layers of your own with torch.save"
            )
        push_options.pop("config", None)  # the mixin passes one; ours is always the network's own
        try:
            with checkpoint.staged(folder) as scratch:
                super().save_pretrained(scratch, model_card_kwargs=model_card_kwargs)
                if (folder / "README.md").exists():
                    (scratch / "README.md").unlink()
        except OSError as error:
            raise CheckpointError(f"cannot write a checkpoint to {str(folder)!r}: {error}") from error
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or folder.name, model_card_kwargs=model_card_kwargs, **push_options)

    def _save_pretrained(self, save_directory: Path) -> None:
        checkpoint.write(save_directory, {**self.config, "sgs": adaptation(self)}, self.state_dict())

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The README.md of a checkpoint folder."""
        shape = " x ".join(map(str, self.clip_shape))
        return super().generate_model_card(*args, model_name=self.config["model"], clip_shape=shape, **kwargs)

    @classmethod
    def from_pretrained(cls: type[M], pretrained_model_name_or_path: str | Path, **hub_options: Any) -> M:
        """The network of a checkpoint, with its SGS layer if it had one, in evaluation mode on the CPU.

        Weights come back bit for bit, in the type they were saved in.

        Args:
            pretrained_model_name_or_path: A folder that `save_pretrained` wrote (read without the network), or the id
                ``owner/name`` of a model on the Hugging Face Hub.
            hub_options: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ... for a model on the Hub.

        Raises:
            CheckpointError: Files are missing or damaged, do not fit together, hold numbers that are not finite, or a
                network of another class.
        """
        return load(dict.fromkeys(cls.variants, cls), pretrained_model_name_or_path, **hub_options)


def load(classes: Mapping[str, type[M]], source: str | Path, **hub_options: Any) -> M:
    """The network of a checkpoint, of one of ``classes`` (model name -> class); see `VideoModel.from_pretrained`."""
    config_path, weights_path = checkpoint.locate(source, **hub_options)
    config = checkpoint.read_config(config_path)
    weights = checkpoint.read_weights(weights_path)
    name = config["model"]
    if name not in classes:
        raise CheckpointError(
            f"{config_path} holds {unknown_name('model', name, classes)}; atfr.from_pretrained loads any model of atfr"
        )
    with torch.random.fork_rng(devices=[]):  # the first weights are thrown away: spare the caller's random state
        try:
            model = made(classes[name], config)
        except (AtfrError, TypeError, RuntimeError) as error:
            reason = checkpoint.first_line(error)
            raise CheckpointError(f"{config_path} does not describe a network that can be made: {reason}") from error
    checkpoint.check_fit(weights, model.state_dict(), weights_path, name)
    checkpoint.check_finite(weights, weights_path)
    model.load_state_dict(weights, assign=True)  # assigned, not copied: the stored type stays
    return model.eval()


class Uninitialised(TorchFunctionMode):
    """`torch.nn.init` does nothing here: on the meta device it takes long, and imports all of `torch._dynamo`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def made(network: type[M], config: Mapping[str, Any]) -> M:
    """The network that a configuration describes, with first weights."""
    model = network(config["model"], **config["arguments"])
    if config["sgs"] is not None:
        put_samplers_(model, **config["sgs"])
    return model


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """The part of an error message that names what was not known, what is close to it, and what there is."""
    names = list(known)
    close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    return f"{kind} {name!r}{hint}, expected one of: {', '.join(names)}"


def check_clips(clips: Tensor, channels: int = 3, min_side: int = MIN_SIDE) -> None:
    """Refuse what is no batch of clips N C T H W.

    Args:
        min_side: The smallest height and width in pixels.

    Raises:
        InputError: Not 5-D, not so many channels, no floating-point type, empty, or too small a picture.
    """
    form = f"N x {channels} x T x H x W"
    if isinstance(clips, PackedClips):  # from a sampler at the input, which has checked them
        return
    if not isinstance(clips, Tensor):
        raise InputError(f"clips must be a float tensor {form}, got {type(clips).__name__}")
    got = f"got {clips.dtype} of shape {list(clips.shape)}"
    if clips.ndim != 5:
        remedy = "; add the batch axis with clips.unsqueeze(0)" if clips.ndim == 4 else ""
        raise InputError(f"clips must be 5-D, {form}, {got}{remedy}")
    n, there, frames, height, width = clips.shape
    if there != channels:
        axis = next((axis for axis in (2, 4) if clips.shape[axis] == channels), None)
        remedy = f"; bring the channels to axis 1 with clips.movedim({axis}, 1)" if axis else ""
        raise InputError(f"clips must have {channels} channels on axis 1 ({form}), {got}{remedy}")
    if not clips.is_floating_point():
        raise InputError(f"clips must be normalised floating-point frames, {got}; scale and normalise them first")
    if n < 1 or frames < 1 or height < min_side or width < min_side:
        raise InputError(
            f"clips must hold at least 1 clip of 1 frame of {min_side} x {min_side} pixels ({form}), {got}"
        )


def initialise_(model: nn.Module, last_norms: Iterable[nn.BatchNorm3d]) -> None:
    """Set first weights: He et al. for convolutions, small ones for the classifier, residual branches that start at 0.

    On the meta device, where there are no numbers to set, PyTorch would take longer for it than for all the rest.

    Args:
        model: The network; batch norms are left at weight 1, bias 0.
        last_norms: The last batch norm of each residual branch; its weight becomes 0.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        return
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            fan_out = module.out_channels * math.prod(module.kernel_size) // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
    for norm in last_norms:
        nn.init.zeros_(norm.weight)
