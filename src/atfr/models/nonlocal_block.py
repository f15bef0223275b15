"""The non-local block (Wang et al. 2018, https://arxiv.org/abs/1711.07971): every position of a clip sees all others.

Parameters carry PyTorchVideo's names (conv_theta, conv_phi, conv_g, conv_out, norm). The affinity is the dot product
over the number of positions seen, as in the SlowFast networks; without a softmax the three matrices may be multiplied
in the order whose cost grows with the length of a clip, not with its square. In the res4 of SlowFast at 256 x 256
pixels that is 0.7 of the block's multiply-adds for 16 slow maps, 0.9 for 8, 1 for 5 and 1.2 for a single one.

N batch, C channels, K inner channels, T frames, H, W.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from atfr.ragged.clipwise import each_clip


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
        attended = each_clip(attend, self.conv_theta(features), self.conv_phi(seen), self.conv_g(seen))
        return features + self.norm(self.conv_out(attended))


def attend(
    theta: Float[Tensor, "N K T H W"], phi: Float[Tensor, "N K T H2 W2"], g: Float[Tensor, "N K T H2 W2"]
) -> Float[Tensor, "N K T H W"]:
    """The mean over seen positions q of g(q) times the dot product of theta(p) and phi(q), for each position p."""
    queries, keys, values = theta.flatten(2), phi.flatten(2), g.flatten(2)
    context = values @ (keys / keys.shape[2]).transpose(1, 2)  # N K K; divided first: half precision holds no sum
    return (context @ queries).reshape(theta.shape)
