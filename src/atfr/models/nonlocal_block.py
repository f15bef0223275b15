"""The non-local block (Wang et al. 2018, https://arxiv.org/abs/1711.07971): every position of a clip sees all others.

Parameters carry PyTorchVideo's names (conv_theta, conv_phi, conv_g, conv_out, norm). The affinity is the dot product
over the number of positions seen, as in the SlowFast networks; without a softmax the three matrices may be multiplied
in the order whose cost grows with the length of a clip, not with its square. In the res4 of SlowFast at 256 x 256
pixels that is 0.7 of the block's multiply-adds for 16 slow maps, 0.9 for 8, 1 for 5 and 1.2 for a single one.

N batch, C channels, K inner channels, T frames, H, W.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from atfr.ragged import PackedClips, windows
from atfr.ragged.clipwise import each_clip
from atfr.ragged.operations import packed_like


class NonLocal(nn.Module):
    """Adds to each position a weighted sum over all positions of its clip, of which every other row and column is seen.

    Args:
        channels: Channels C; half of them inside.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.conv_theta = nn.Conv3d(channels, inner, 1)
        self.conv_phi = nn.Conv3d(channels, inner, 1)
        self.conv_g = nn.Conv3d(channels, inner, 1)
        self.conv_out = nn.Conv3d(inner, channels, 1)
        self.norm = nn.BatchNorm3d(channels)

    def forward(self, features: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N C T H W"]:
        """Features of the same shape; those of a packed batch see their own clip only."""
        height, width = features.shape[3:]
        seen = F.max_pool3d(features, (1, min(2, height), min(2, width)))
        projected = self.conv_theta(features), self.conv_phi(seen), self.conv_g(seen)
        packed = isinstance(features, PackedClips) and windows.all_at_once(features)
        attended = attend_at_once(*projected) if packed else each_clip(attend, *projected)
        return features + self.norm(self.conv_out(attended))


def attend(
    theta: Float[Tensor, "N K T H W"], phi: Float[Tensor, "N K T H2 W2"], g: Float[Tensor, "N K T H2 W2"]
) -> Float[Tensor, "N K T H W"]:
    """The mean over seen positions q of g(q) times the dot product of theta(p) and phi(q), for each position p."""
    queries, keys, values = theta.flatten(2), phi.flatten(2), g.flatten(2)
    context = values @ (keys / keys.shape[2]).transpose(1, 2)  # N K K; divided first: half precision holds no sum
    return (context @ queries).reshape(theta.shape)


def attend_at_once(theta: PackedClips, phi: PackedClips, g: PackedClips) -> PackedClips:
    """`attend` of packed clips, in a number of calls that does not depend on how many there are."""
    layout, device = theta.clip_layout, theta.device
    clip_S = layout.clip_index(device)
    queries_SKP, keys_SKQ, values_SKQ = (maps.plain()[0].transpose(0, 1).flatten(2) for maps in (theta, phi, g))
    seen_S11 = (layout.device_lengths(device) * keys_SKQ.shape[2])[clip_S].view(-1, 1, 1)
    context_SKK = values_SKQ @ (keys_SKQ / seen_S11.to(keys_SKQ.dtype)).transpose(1, 2)
    wide = context_SKK.float() if context_SKK.dtype in (torch.float16, torch.bfloat16) else context_SKK
    context_NKK = wide.new_zeros(len(layout), *wide.shape[1:]).index_add(0, clip_S, wide)
    attended_SKP = context_NKK.to(queries_SKP.dtype)[clip_S] @ queries_SKP
    return packed_like(attended_SKP.unflatten(2, theta.shape[3:]).transpose(0, 1).unsqueeze(0), layout)
