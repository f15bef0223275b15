"""Every GFLOPs figure of the paper, and which of our networks at which clip size it is compared with.

Source: Fayyaz et al. 2021 (arXiv 2011.08652v4), Tables 4, 6 to 10 and A.3 to A.6. Sizes: Sec. 5 (224 x 224 for
validation, 256 x 256 for testing); X3D is tested as in its own paper (Feichtenhofer 2020).
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Network:
    """One of our networks at a clip size, static or adaptive.

    Attributes:
        name: as `create_model` knows it.
        frames: T of the clip.
        size: its height and width.
        strides: the temporal strides of R(2+1)D where they are not its own.
        after: the stage that the layer stands behind; None for the static network.
        sampler: the layer, see `adapt_`.
        num_bins: see `adapt_`.
        temporal_block: see `adapt_`.
    """

    name: str
    frames: int
    size: int
    strides: tuple[int, ...] | None = None
    after: str | None = None
    sampler: str = "sgs"
    num_bins: int | None = None
    temporal_block: tuple[int, ...] | None = None

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """C, T, H, W."""
        return (3, self.frames, self.size, self.size)

    @property
    def adaptive(self) -> bool:
        """Whether a clip's cost depends on what is in it."""
        return self.after is not None and self.sampler == "sgs"


@dataclass(frozen=True)
class Figure:
    """A figure of the paper.

    Attributes:
        table: its number in the paper.
        model: the paper's name.
        setting: what sets the row apart from others of the same model.
        gflops: multiply-adds / 1e9; of an adaptive network the mean over clips.
        network: ours; None where we have none.
        note: why ours differs, where it does.
    """

    table: str
    model: str
    setting: str
    gflops: float
    network: Network | None
    note: str = ""


def sgs(network: Network, after: str = "res2", num_bins: int | None = None) -> Network:
    """Return the network with SGS."""
    return replace(network, after=after, num_bins=num_bins)


RESNET3D_18, RESNET3D_18_64 = Network("resnet3d_18", 32, 224), Network("resnet3d_18", 64, 224)
RESNET3D_50 = Network("resnet3d_50", 32, 256)
SLOWFAST_18, SLOWFAST_18_64 = Network("slowfast_8x8_r18", 32, 224), Network("slowfast_8x8_r18", 64, 224)
SLOWFAST_4X16_50 = Network("slowfast_4x16_r50", 32, 256)
SLOWFAST_50_64 = Network("slowfast_8x8_r50", 64, 256)
R2PLUS1D_18 = Network("r2plus1d_18", 32, 112, strides=(2, 2, 2, 2))
R2PLUS1D_18_64 = replace(R2PLUS1D_18, frames=64)
R2PLUS1D_50 = Network("r2plus1d_50", 32, 256, strides=(1, 2, 2, 2))
I3D_50 = Network("i3d_50", 32, 256)
X3D_S = Network("x3d_s", 13, 160)
X3D_M = Network("x3d_m", 16, 256)
X3D_XL, X3D_XL_LARGE = Network("x3d_xl", 16, 312), Network("x3d_xl", 16, 356)

R2PLUS1D = (
    "The paper does not say which R(2+1)D this is. R(2+1)D-18 as published costs 324 GFLOPs at 32 x 224 x 224, and "
    "still 183 with a temporal stride of 2 in each of its four stages. Nearest is the latter at 112 x 112, the size it "
    "is made for; it leaves SGS half of the frames, and what comes before SGS costs more than the paper's 54.9."
)
R2PLUS1D_BOTTLENECK = (
    "The paper does not give the temporal strides; 1, 2, 2, 2 in res2 to res5 is nearest at 256 x 256. At 224 x 224 "
    "strides of 1, 2, 1, 1 give 101.81, the paper's figure."
)
X3D_S_CUT = "1.96 in X3D's own paper and here: cut off after one decimal, not rounded."
X3D_M_SIZE = "X3D-M is made for 224 x 224 (4.73 GFLOPs); 30 views are crops of 256 x 256."
X3D_XL_SIZE = "10 views (alpha) are at 312 x 312; 30 (beta) are crops of 356 x 356."
TWICE = "Ours is twice that of 32 frames, 65.71; the paper's is 1.4 more than twice its own 65.7."
ATTENTION = "1.963 without the attention and 1.970 with it; the paper has 1.9 for both, cut off after one decimal."
NO_NETWORK = "Not a network of atfr."

FIGURES = (
    Figure("4", "SlowFast-8x8-R18", "frames=32", 30.9, SLOWFAST_18),
    Figure("4", "SlowFast-8x8-R18", "frames=64", 61.8, SLOWFAST_18_64),
    Figure("4", "R(2+1)D", "frames=32", 46.5, R2PLUS1D_18, R2PLUS1D),
    Figure("4", "R(2+1)D", "frames=64", 93.1, R2PLUS1D_18_64, R2PLUS1D),
    Figure("4", "R(2+1)D+ATFR", "frames=32", 32.3, sgs(R2PLUS1D_18), R2PLUS1D),
    Figure("4", "R(2+1)D+ATFR", "frames=64", 54.9, sgs(R2PLUS1D_18_64), R2PLUS1D),
    Figure("4", "3DResNet-18+ATFR", "frames=32", 14.0, sgs(RESNET3D_18)),
    Figure("4", "3DResNet-18+ATFR", "frames=64", 21.1, sgs(RESNET3D_18_64)),
    Figure("6", "X3D-S", "no SGS", 1.9, X3D_S, X3D_S_CUT),
    Figure("6", "X3D-S+ATFR", "first conv", 0.9, sgs(X3D_S, "stem")),
    Figure("6", "X3D-S+ATFR", "res2", 1.1, sgs(X3D_S)),
    Figure("6", "X3D-S+ATFR", "res3", 1.3, sgs(X3D_S, "res3")),
    Figure("7", "Fast-S3D", "64 frames", 43.5, None, NO_NETWORK),
    Figure("7", "SlowFast-8x8-R18", "", 40.4, replace(SLOWFAST_18, size=256)),
    Figure("7", "SlowFast-8x8-R50", "", 65.7, replace(SLOWFAST_50_64, frames=32)),
    Figure("7", "R(2+1)D-50", "", 101.8, R2PLUS1D_50, R2PLUS1D_BOTTLENECK),
    Figure("7", "R(2+1)D-50+ATFR", "", 67.3, sgs(R2PLUS1D_50), R2PLUS1D_BOTTLENECK),
    Figure("7", "I3D-50", "", 148.4, I3D_50),
    Figure("7", "I3D-50+ATFR", "", 105.2, sgs(I3D_50)),
    Figure("7", "X3D-S", "", 1.9, X3D_S, X3D_S_CUT),
    Figure("7", "X3D-S+ATFR", "", 1.1, sgs(X3D_S)),
    Figure("7", "3DResNet-50", "", 40.8, RESNET3D_50),
    Figure("7", "3DResNet-50+ATFR", "", 23.4, sgs(RESNET3D_50)),
    Figure("8", "SlowFast-4x16-R50", "30 views", 36.1, SLOWFAST_4X16_50),
    Figure("8", "SlowFast-4x16-R50+ATFR", "30 views", 20.8, sgs(SLOWFAST_4X16_50)),
    Figure("8", "SlowFast-8x8-R101+NL", "30 views", 116.0, Network("slowfast_8x8_r101_nl", 32, 256)),
    Figure("8", "SlowFast-16x8-R101+NL", "30 views", 234.0, Network("slowfast_16x8_r101_nl", 64, 256)),
    Figure("8", "X3D-S", "alpha", 1.9, X3D_S, X3D_S_CUT),
    Figure("8", "X3D-S+ATFR", "alpha", 1.0, sgs(X3D_S)),
    Figure("8", "X3D-XL", "alpha", 35.8, X3D_XL, X3D_XL_SIZE),
    Figure("8", "X3D-XL+ATFR", "alpha", 20.0, sgs(X3D_XL), X3D_XL_SIZE),
    Figure("8", "X3D-XL", "beta", 48.4, X3D_XL_LARGE, X3D_XL_SIZE),
    Figure("8", "X3D-XL+ATFR", "beta", 26.3, sgs(X3D_XL_LARGE), X3D_XL_SIZE),
    Figure("9", "X3D-M", "30 views", 6.2, X3D_M, X3D_M_SIZE),
    Figure("9", "X3D-M+ATFR", "30 views", 3.3, sgs(X3D_M), X3D_M_SIZE),
    Figure("9", "X3D-XL", "30 views", 48.4, X3D_XL_LARGE, X3D_XL_SIZE),
    Figure("9", "X3D-XL+ATFR", "30 views", 25.6, sgs(X3D_XL_LARGE), X3D_XL_SIZE),
    Figure("10", "SlowFast-8x8-R50", "64 frames", 132.8, SLOWFAST_50_64, TWICE),
    Figure(
        "10", "SlowFast-8x8-R50+ATFR", "64 frames", 87.8, replace(sgs(SLOWFAST_50_64), temporal_block=(8, 2)), TWICE
    ),
    Figure("A.3", "3DResNet-18+ATFR", "B=4 train and test", 3.5, sgs(RESNET3D_18, num_bins=4)),
    Figure("A.3", "3DResNet-18+ATFR", "B=8 train and test", 4.2, sgs(RESNET3D_18, num_bins=8)),
    Figure("A.3", "3DResNet-18+ATFR", "B=16 train and test", 5.5, sgs(RESNET3D_18, num_bins=16)),
    Figure("A.3", "3DResNet-18+ATFR", "B=32 train and test", 14.0, sgs(RESNET3D_18)),
    Figure("A.4", "3DResNet-18+ATFR", "B=4 test only", 3.5, sgs(RESNET3D_18, num_bins=4)),
    Figure("A.4", "3DResNet-18+ATFR", "B=8 test only", 5.0, sgs(RESNET3D_18, num_bins=8)),
    Figure("A.4", "3DResNet-18+ATFR", "B=16 test only", 8.0, sgs(RESNET3D_18, num_bins=16)),
    Figure("A.4", "3DResNet-18+ATFR", "B=32 test only", 14.0, sgs(RESNET3D_18)),
    Figure("A.5", "3DResNet-50+ATFR", "UCF101", 22.2, sgs(RESNET3D_50)),
    Figure("A.5", "3DResNet-50+ATFR", "HMDB51", 23.1, sgs(RESNET3D_50)),
    Figure("A.6", "X3D-S", "", 1.9, X3D_S, X3D_S_CUT),
    Figure("A.6", "X3D-S+ATFR", "", 1.1, sgs(X3D_S)),
    Figure("A.6", "X3D-S+temporal attention", "", 1.9, replace(X3D_S, after="res2", sampler="attention"), ATTENTION),
)
