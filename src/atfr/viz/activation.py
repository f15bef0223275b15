"""Class-activation maps over the frames of a clip, also of networks whose last maps are bins of frames."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atfr.errors import InputError
from atfr.ragged import PackedClips
from atfr.viz.watch import carried, last_layers, longest_other, origins, watch


@dataclass(frozen=True)
class Activation:
    """What each place of a clip contributes to the logit of one class.

    Attributes:
        class_index: the class.
        logit: its logit.
        maps: by pathway ("" in a network with one), the contribution of each place of the last maps' H x W, over all
            frames of the clip. Where the classifier is one linear layer behind an average over time and space, they
            add up to the logit but for the classifier's bias.
    """

    class_index: int
    logit: float
    maps: dict[str, Float[Tensor, "T _ _"]]

    @property
    def total(self) -> Float[Tensor, "T H W"]:
        """The contributions of all pathways together."""
        return torch.stack(list(self.maps.values())).sum(0)

    @property
    def by_frame(self) -> Float[Tensor, " T"]:
        """What each frame contributes."""
        return self.total.sum((1, 2))


def class_activation(
    model: nn.Module, clip: Any, class_index: int, last: Mapping[str, str] | None = None
) -> Activation:
    """Return what each place of each frame contributes to the logit of a class: gradient x map at the last maps.

    That is the class-activation map (Zhou et al. 2016) where a linear classifier follows the average of the maps, and
    HiResCAM (Draelos and Carin 2020) elsewhere. Behind SGS a map is a bin of frames: it goes back to them in the
    shares of their weights, through all layers. Behind temporal strides a map stands for the part of the clip that it
    comes from. The network is copied, not changed.

    Args:
        model: any network that returns logits, 1 x K for one clip.
        clip: one clip, 1 x C x T x H x W, or what else the network takes for one clip.
        class_index: the class, 0..K-1.
        last: the path of the last module with maps of each pathway, by the pathway's name; not needed for our networks.

    Raises:
        InputError: there is no such class, more clips than one, or a network that is not ours without `last`.
    """
    layers = dict(last_layers(model) if last is None else last)
    if not layers:
        raise InputError(
            f"{type(model).__name__} does not name its stages: tell the last module whose output is N x C x T x H x W, "
            "as class_activation(model, clip, class_index, last={'': 'layer4'})"
        )
    network = copy.deepcopy(model).requires_grad_(False).eval()
    leaves: dict[str, Tensor] = {}

    def cut(name: str, output: Any) -> Tensor:
        """Start the graph here: what comes before needs no gradient."""
        packed = isinstance(output, PackedClips)
        leaf = leaves[name] = (output.plain() if packed else output).detach().requires_grad_()
        return PackedClips(leaf.clone(), output.clip_layout) if packed else leaf.clone()

    for name, path in layers.items():
        network.get_submodule(path).register_forward_hook(lambda _module, _args, output, name=name: cut(name, output))
    with torch.inference_mode(False), torch.enable_grad(), watch(network, layers) as watched:
        logits = network(clip)
        if logits.dim() != 2 or len(logits) != 1 or not 0 <= class_index < logits.shape[1]:
            raise InputError(
                f"class_activation takes one clip and one of its classes, got {class_index=} and logits of shape "
                f"{tuple(logits.shape)}"
            )
        gradients = torch.autograd.grad(logits[0, class_index], list(leaves.values()))
    frames = max(leaf.shape[2] for leaf in torch.utils._pytree.tree_leaves(clip))
    behind = origins(watched, frames)
    latest = {watched.pathways[site]: matrix for site, matrix in behind.items()}
    maps = {}
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        contribution_MHW = (leaf * gradient).detach().sum(1)[0].float().cpu()
        way = carried(len(contribution_MHW), latest.get(name), longest_other(latest, name), frames)
        maps[name] = torch.einsum("mf,mhw->fhw", way, contribution_MHW)
    return Activation(class_index, float(logits[0, class_index].detach()), maps)
