"""The lines of the paper's tables: their figures, and the network of ours that each is held against.

Source: Fayyaz et al. 2021 (arXiv 2011.08652v4), Tables 1 to 10 and A.2 to A.6. Sizes: Sec. 5 (224 x 224 for validation,
256 x 256 for testing); X3D is tested as in its own paper (Feichtenhofer 2020).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

MINI, K400, K600 = "mini_kinetics200", "kinetics400", "kinetics600"


@dataclass(frozen=True)
class Network:
    """One of our networks at a clip size, static or with a sampler.

    Attributes:
        name: as `create_model` knows it.
        frames: T of the clip.
        size: its height and width.
        strides: the temporal strides of R(2+1)D where they are not its own.
        after: where the sampler stands; None for the static network.
        options: what else `adapt_` is given, by name.
    """

    name: str
    frames: int
    size: int
    strides: tuple[int, ...] | None = None
    after: str | None = None
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """C, T, H, W."""
        return (3, self.frames, self.size, self.size)

    @property
    def arguments(self) -> dict[str, Any]:
        """What `create_model` is given beside the name."""
        return {"temporal_strides": self.strides} if self.strides else {}

    @property
    def sampler(self) -> str | None:
        """What `adapt_` calls it."""
        return None if self.after is None else dict(self.options).get("sampler", "sgs")

    @property
    def adaptive(self) -> bool:
        """Whether a clip's cost depends on what is in it."""
        return self.sampler == "sgs"

    @property
    def static(self) -> "Network":
        """The same network with all maps."""
        return Network(self.name, self.frames, self.size, self.strides)

    @property
    def sampled(self) -> str:
        """What stands where, as the name of a file.

        Examples:
            >>> sgs(X3D_S, num_bins=(4, 8)).sampled
            'sgs_res2_num_bins_4x8'
        """
        if self.after is None:
            return "static"
        told = [
            f"{name}_{'x'.join(map(str, value)) if isinstance(value, tuple) else value}"
            for name, value in self.options
            if name != "sampler"
        ]
        return "_".join([str(self.sampler), self.after, *told])


@dataclass(frozen=True)
class Line:
    """A line of a table of the paper.

    Attributes:
        table: its number in the paper.
        model: the paper's name.
        setting: what sets the line apart from others of the same model.
        network: ours, as it is tested; None where the line is cited alone.
        paper: the paper's figures: top1 and top5 in percent, gflops (multiply-adds / 1e9; of an adaptive network the
            mean over clips), and those of Table A.2.
        trained: the network as it is trained, where that is another than the one that is tested.
        stride: of a test clip, as a share of the training's.
        data: the data set.
        note: why ours differs, where it does; of a cited line, its source.
    """

    table: str
    model: str
    setting: str
    network: Network | None
    paper: Mapping[str, float] = field(hash=False)
    trained: Network | None = None
    stride: float = 1.0
    data: str = MINI
    note: str = ""

    @property
    def name(self) -> str:
        """The model, and its setting if it has one."""
        return f"{self.model}, {self.setting}" if self.setting else self.model


def line(
    table: str, model: str, setting: str, network: Network | None, note: str = "", *, data: str = MINI, **paper: float
) -> Line:
    """Return a line, with the paper's figures by name."""
    return Line(table, model, setting, network, MappingProxyType(paper), data=data, note=note)


def sgs(network: Network, after: str = "res2", **options: Any) -> Network:
    """Return the network with SGS."""
    return replace(network, after=after, options=tuple(options.items()))


def at_strides(
    model: str, network: Network, gflops: Mapping[int, float], top: Mapping[int, str], note: str = ""
) -> tuple[Line, ...]:
    """Return the lines of Table 4 of a network that is trained with 32 frames and stride 2.

    Args:
        gflops: by the frames of a test clip.
        top: by the frames: top-1 with stride 1 and 2, then top-5.
    """
    found = []
    for frames, figures in top.items():
        values = [float(one) for one in figures.split()]
        for stride in (1, 2):
            paper = {"gflops": gflops[frames], "top1": values[stride - 1], "top5": values[stride + 1]}
            tested = replace(network, frames=frames)
            one = line("4", model, f"frames={frames} stride={stride}", tested, note, **paper)
            found.append(replace(one, trained=network, stride=stride / 2))
    return tuple(found)


def fewer_bins(bins: int, gflops: float, top1: float, top5: float) -> Line:
    """Return a line of Table A.4: trained with 32 bins, tested with fewer."""
    tested = sgs(RESNET3D_18, num_bins=bins) if bins < RESNET3D_18.frames else sgs(RESNET3D_18)
    one = line("A.4", "3DResNet-18+ATFR", f"B={bins} test only", tested, gflops=gflops, top1=top1, top5=top5)
    return replace(one, trained=sgs(RESNET3D_18))


RESNET3D_18 = Network("resnet3d_18", 32, 224)
RESNET3D_50 = Network("resnet3d_50", 32, 256)
SLOWFAST_18 = Network("slowfast_8x8_r18", 32, 224)
SLOWFAST_4X16_50 = Network("slowfast_4x16_r50", 32, 256)
SLOWFAST_50_64 = Network("slowfast_8x8_r50", 64, 256)
R2PLUS1D_18 = Network("r2plus1d_18", 32, 112, strides=(2, 2, 2, 2))
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
NO_NETWORK = "Xie et al. 2018; not a network of atfr."

EIGHTEEN = "3DResNet-18+ATFR"
OTHERS = (
    ("C3D-R18", "Tran et al. 2015", 89.8, 62.1),
    ("RGB-I3D", "Carreira & Zisserman 2017", 95.6, 74.8),
    ("R(2+1)D-50", "Tran et al. 2018", 96.8, 74.5),
    ("DynamoNet-R101", "Diba et al. 2019", 96.6, 74.9),
    ("HATNet-50", "Diba et al. 2020", 97.8, 76.5),
)
"""Of Table A.5: network, source, top-1 on UCF101 and on HMDB51."""

LINES = (
    line("1", EIGHTEEN, "magnitude", sgs(RESNET3D_18), top1=69.6, top5=88.8),
    line(
        "1",
        EIGHTEEN,
        "angular",
        sgs(RESNET3D_18, similarity="angular", num_bins=(4, 8), embedding_dim=3),
        top1=68.5,
        top5=87.8,
    ),
    line(
        "1",
        EIGHTEEN,
        "spherical",
        sgs(RESNET3D_18, similarity="spherical", num_bins=(2, 4, 4), embedding_dim=3),
        top1=68.7,
        top5=88.1,
    ),
    line("2", EIGHTEEN, "linear", sgs(RESNET3D_18), top1=69.6, top5=88.8),
    line("2", EIGHTEEN, "kronecker", sgs(RESNET3D_18, kernel="kronecker"), top1=68.9, top5=88.6),
    line("3", EIGHTEEN, "L=1", sgs(RESNET3D_18, embedding_dim=1), top1=67.3, top5=87.7),
    line("3", EIGHTEEN, "L=4", sgs(RESNET3D_18, embedding_dim=4), top1=68.4, top5=88.1),
    line("3", EIGHTEEN, "L=8", sgs(RESNET3D_18), top1=69.6, top5=88.8),
    line("3", EIGHTEEN, "L=16", sgs(RESNET3D_18, embedding_dim=16), top1=64.7, top5=86.1),
    *at_strides(
        "SlowFast-8x8-R18", SLOWFAST_18, {32: 30.9, 64: 61.8}, {32: "67.5 69.7 87.1 89.1", 64: "72.1 74.6 89.9 91.9"}
    ),
    *at_strides(
        "R(2+1)D", R2PLUS1D_18, {32: 46.5, 64: 93.1}, {32: "67.4 69.3 86.2 87.5", 64: "70.8 73.7 88.8 91.5"}, R2PLUS1D
    ),
    *at_strides(
        "R(2+1)D+ATFR",
        sgs(R2PLUS1D_18),
        {32: 32.3, 64: 54.9},
        {32: "67.4 69.3 86.4 87.6", 64: "71.4 73.8 88.6 90.7"},
        R2PLUS1D,
    ),
    *at_strides(
        EIGHTEEN, sgs(RESNET3D_18), {32: 14.0, 64: 21.1}, {32: "67.3 69.6 87.1 88.8", 64: "72.1 74.8 89.8 91.4"}
    ),
    line("6", "X3D-S", "no SGS", X3D_S, X3D_S_CUT, gflops=1.9, top1=77.9),
    line("6", "X3D-S+ATFR", "first conv", sgs(X3D_S, "stem"), gflops=0.9, top1=77.8),
    line("6", "X3D-S+ATFR", "res2", sgs(X3D_S), gflops=1.1, top1=78.0),
    line("6", "X3D-S+ATFR", "res3", sgs(X3D_S, "res3"), gflops=1.3, top1=78.0),
    line("7", "Fast-S3D", "64 frames", None, NO_NETWORK, gflops=43.5, top1=78.0),
    line("7", "SlowFast-8x8-R18", "", replace(SLOWFAST_18, size=256), gflops=40.4, top1=77.5, top5=93.3),
    line("7", "SlowFast-8x8-R50", "", replace(SLOWFAST_50_64, frames=32), gflops=65.7, top1=79.3, top5=94.2),
    line("7", "R(2+1)D-50", "", R2PLUS1D_50, R2PLUS1D_BOTTLENECK, gflops=101.8, top1=78.7, top5=93.4),
    line("7", "R(2+1)D-50+ATFR", "", sgs(R2PLUS1D_50), R2PLUS1D_BOTTLENECK, gflops=67.3, top1=78.2, top5=92.9),
    line("7", "I3D-50", "", I3D_50, gflops=148.4, top1=79.3, top5=94.4),
    line("7", "I3D-50+ATFR", "", sgs(I3D_50), gflops=105.2, top1=78.8, top5=93.6),
    line("7", "X3D-S", "", X3D_S, X3D_S_CUT, gflops=1.9, top1=77.9, top5=93.4),
    line("7", "X3D-S+ATFR", "", sgs(X3D_S), gflops=1.1, top1=78.0, top5=93.5),
    line("7", "3DResNet-50", "", RESNET3D_50, gflops=40.8, top1=79.2, top5=94.6),
    line("7", "3DResNet-50+ATFR", "", sgs(RESNET3D_50), gflops=23.4, top1=79.3, top5=94.6),
    line("8", "I3D", "", None, "Carreira & Zisserman 2017, from ImageNet", data=K400, gflops=108, top1=71.1, top5=90.3),
    line("8", "I3D+SCSampler", "10 views", None, "Korbar et al. 2019, from ImageNet", data=K400, gflops=108, top1=75.1),
    line(
        "8",
        "Two-Stream I3D",
        "from ImageNet",
        None,
        "Carreira & Zisserman 2017",
        data=K400,
        gflops=216,
        top1=75.7,
        top5=92.0,
    ),
    line("8", "Two-Stream S3D-G", "", None, "Xie et al. 2018, from ImageNet", data=K400, gflops=143, top1=77.2),
    line("8", "TSM R50", "10 views", None, "Lin et al. 2019, from ImageNet", data=K400, gflops=65, top1=74.4),
    line("8", "HATNET", "", None, "Diba et al. 2020", data=K400, top1=77.2),
    line("8", "STC", "", None, "Diba et al. 2018", data=K400, top1=68.7, top5=88.5),
    line("8", "Two-Stream I3D", "", None, "Carreira & Zisserman 2017", data=K400, gflops=216, top1=75.7, top5=92.0),
    line("8", "R(2+1)D", "115 views", None, "Tran et al. 2018", data=K400, gflops=152, top1=72.0, top5=90.0),
    line("8", "Two-Stream R(2+1)D", "115 views", None, "Tran et al. 2018", data=K400, gflops=304, top1=73.9, top5=90.9),
    line("8", "FASTER32", "8 views", None, "Zhu et al. 2020", data=K400, gflops=67.7, top1=75.3),
    line(
        "8",
        "SlowFast-8x8-R101+NL",
        "30 views",
        Network("slowfast_8x8_r101_nl", 32, 256),
        data=K400,
        gflops=116.0,
        top1=78.7,
        top5=93.5,
    ),
    line(
        "8",
        "SlowFast-16x8-R101+NL",
        "30 views",
        Network("slowfast_16x8_r101_nl", 64, 256),
        data=K400,
        gflops=234.0,
        top1=79.8,
        top5=93.9,
    ),
    line("8", "X3D-L", "alpha", None, "Feichtenhofer 2020", data=K400, gflops=18.3, top1=76.8, top5=92.5),
    line("8", "X3D-L", "beta", None, "Feichtenhofer 2020", data=K400, gflops=24.8, top1=77.5, top5=92.9),
    line("8", "SlowFast-4x16-R50", "30 views", SLOWFAST_4X16_50, data=K400, gflops=36.1, top1=75.6, top5=92.1),
    line(
        "8", "SlowFast-4x16-R50+ATFR", "30 views", sgs(SLOWFAST_4X16_50), data=K400, gflops=20.8, top1=75.8, top5=92.4
    ),
    line("8", "X3D-S", "alpha", X3D_S, X3D_S_CUT, data=K400, gflops=1.9, top1=72.9, top5=90.5),
    line("8", "X3D-S+ATFR", "alpha", sgs(X3D_S), data=K400, gflops=1.0, top1=73.5, top5=91.2),
    line("8", "X3D-XL", "alpha", X3D_XL, X3D_XL_SIZE, data=K400, gflops=35.8, top1=78.4, top5=93.6),
    line("8", "X3D-XL+ATFR", "alpha", sgs(X3D_XL), X3D_XL_SIZE, data=K400, gflops=20.0, top1=78.6, top5=93.9),
    replace(
        line("8", "X3D-XL", "beta", X3D_XL_LARGE, X3D_XL_SIZE, data=K400, gflops=48.4, top1=79.1, top5=93.9),
        trained=X3D_XL,
    ),
    replace(
        line("8", "X3D-XL+ATFR", "beta", sgs(X3D_XL_LARGE), X3D_XL_SIZE, data=K400, gflops=26.3, top1=79.3, top5=94.1),
        trained=sgs(X3D_XL),
    ),
    line(
        "9", "Oct-I3D+NL", "30 views", None, "as the paper cites it, from ImageNet", data=K600, gflops=25.6, top1=76.0
    ),
    line("9", "HATNET", "from HVU", None, "Diba et al. 2020", data=K600, top1=81.6),
    line("9", "HATNET", "", None, "Diba et al. 2020", data=K600, top1=80.2),
    line("9", "I3D", "", None, "Carreira & Zisserman 2017", data=K600, gflops=108, top1=71.9, top5=90.1),
    line(
        "9",
        "SlowFast-16x8-R101+NL",
        "30 views",
        None,
        "Feichtenhofer et al. 2019",
        data=K600,
        gflops=234,
        top1=81.8,
        top5=95.1,
    ),
    line(
        "9",
        "SlowFast-4x16-R50",
        "30 views",
        None,
        "Feichtenhofer et al. 2019",
        data=K600,
        gflops=36.1,
        top1=78.8,
        top5=94.0,
    ),
    line("9", "X3D-M", "30 views", X3D_M, X3D_M_SIZE, data=K600, gflops=6.2, top1=78.8, top5=94.5),
    line("9", "X3D-M+ATFR", "30 views", sgs(X3D_M), X3D_M_SIZE, data=K600, gflops=3.3, top1=79.0, top5=94.9),
    line("9", "X3D-XL", "30 views", X3D_XL_LARGE, X3D_XL_SIZE, data=K600, gflops=48.4, top1=81.9, top5=95.5),
    line("9", "X3D-XL+ATFR", "30 views", sgs(X3D_XL_LARGE), X3D_XL_SIZE, data=K600, gflops=25.6, top1=82.1, top5=95.6),
    line("10", "SlowFast-8x8-R50", "64 frames", SLOWFAST_50_64, TWICE, data="ssv2", gflops=132.8, top1=61.7, top5=87.8),
    line(
        "10",
        "SlowFast-8x8-R50+ATFR",
        "64 frames",
        sgs(SLOWFAST_50_64, temporal_block=(8, 2)),
        TWICE,
        data="ssv2",
        gflops=87.8,
        top1=61.8,
        top5=87.9,
    ),
    line("A.2", "X3D-S", "", X3D_S, data=K400, train_hours=131, inference_fps=2834, max_batch=208),
    line("A.2", "X3D-S+ATFR", "", sgs(X3D_S), data=K400, train_hours=121, inference_fps=4295, max_batch=256),
    line("A.3", EIGHTEEN, "B=4 train and test", sgs(RESNET3D_18, num_bins=4), gflops=3.5, top1=61.4, top5=86.3),
    line("A.3", EIGHTEEN, "B=8 train and test", sgs(RESNET3D_18, num_bins=8), gflops=4.2, top1=64.7, top5=85.8),
    line("A.3", EIGHTEEN, "B=16 train and test", sgs(RESNET3D_18, num_bins=16), gflops=5.5, top1=64.7, top5=86.2),
    line("A.3", EIGHTEEN, "B=32 train and test", sgs(RESNET3D_18), gflops=14.0, top1=69.6, top5=88.8),
    fewer_bins(4, 3.5, 51.1, 75.1),
    fewer_bins(8, 5.0, 61.4, 83.5),
    fewer_bins(16, 8.0, 64.4, 85.5),
    fewer_bins(32, 14.0, 69.6, 88.8),
    *(
        line("A.5", model, split, None, source, data=split.lower(), top1=top1)
        for model, source, *both in OTHERS
        for split, top1 in zip(("UCF101", "HMDB51"), both, strict=True)
    ),
    line("A.5", "3DResNet-50+ATFR", "UCF101", sgs(RESNET3D_50), data="ucf101", gflops=22.2, top1=97.9),
    line("A.5", "3DResNet-50+ATFR", "HMDB51", sgs(RESNET3D_50), data="hmdb51", gflops=23.1, top1=76.7),
    line("A.6", "X3D-S", "", X3D_S, X3D_S_CUT, gflops=1.9, top1=77.9),
    line("A.6", "X3D-S+ATFR", "", sgs(X3D_S), gflops=1.1, top1=78.0),
    line(
        "A.6",
        "X3D-S+temporal attention",
        "",
        replace(X3D_S, after="res2", options=(("sampler", "attention"),)),
        ATTENTION,
        gflops=1.9,
        top1=78.3,
    ),
)

FIGURES = tuple(
    {
        (one.table, one.model, one.network, one.paper["gflops"]): one
        for one in LINES
        if one.network and "gflops" in one.paper
    }.values()
)
"""Those with GFLOPs, of networks of ours; the cost does not depend on the stride."""
