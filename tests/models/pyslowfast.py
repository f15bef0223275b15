"""PySlowFast's X3D, I3D and SlowFast with its parameter names, written anew from a reading of its source.

Independent of the tables in atfr.weights.names: modules are nested and named as in PySlowFast, and they compute, so
that a checkpoint of them has an output to compare with. Time and space are pooled whole.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(c_in: int, c_out: int, kernel: tuple[int, int, int], stride: tuple = (1, 1, 1), groups: int = 1) -> nn.Conv3d:
    padding = tuple(k // 2 for k in kernel)
    return nn.Conv3d(c_in, c_out, kernel, stride=stride, padding=padding, groups=groups, bias=False)


class SplitNorm(nn.Module):
    """A batch norm whose statistics are those of two parts of a batch; in evaluation their aggregate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.bn = nn.BatchNorm3d(channels, affine=False)
        self.split_bn = nn.BatchNorm3d(2 * channels, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        means, variances = self.split_bn.running_mean.chunk(2), self.split_bn.running_var.chunk(2)
        mean = (means[0] + means[1]) / 2
        variance = (variances[0] + variances[1]) / 2 + ((means[0] - mean) ** 2 + (means[1] - mean) ** 2) / 2
        return F.batch_norm(x, mean, variance, self.weight, self.bias, training=False)


class SE(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = rounded(channels / 16)
        self.fc1, self.fc2 = nn.Conv3d(channels, squeezed, 1), nn.Conv3d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.fc1(x.mean((2, 3, 4), keepdim=True)).relu()).sigmoid()


class Branch2(nn.Module):
    def __init__(
        self, c_in: int, inner: int, c_out: int, kernels: list, stride: int, x3d: bool, se: bool, norm
    ) -> None:
        super().__init__()
        self.a, self.a_bn = conv(c_in, inner, kernels[0]), norm(inner)
        self.b = conv(inner, inner, kernels[1], (1, stride, stride), inner if x3d else 1)
        self.b_bn = norm(inner)
        self.se = SE(inner) if se else None
        self.c, self.c_bn = conv(inner, c_out, (1, 1, 1)), norm(c_out)
        self.act = F.silu if x3d else F.relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.b_bn(self.b(self.a_bn(self.a(x)).relu()))
        return self.c_bn(self.c(self.act(self.se(x) if self.se else x)))


class ResBlock(nn.Module):
    def __init__(
        self,
        c_in: int,
        inner: int,
        c_out: int,
        kernels: list,
        stride: int,
        x3d: bool = False,
        se: bool = False,
        norm=None,
    ) -> None:
        super().__init__()
        norm = norm or nn.BatchNorm3d
        self.branch1 = None
        if c_in != c_out or stride != 1:
            self.branch1, self.branch1_bn = conv(c_in, c_out, (1, 1, 1), (1, stride, stride)), norm(c_out)
        self.branch2 = Branch2(c_in, inner, c_out, kernels, stride, x3d, se, norm)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.branch1 is None else self.branch1_bn(self.branch1(x))
        return (shortcut + self.branch2(x)).relu()


class Nonlocal(nn.Module):
    """Dot-product or softmax attention over all positions, theirs pooled by 2 in space."""

    def __init__(self, channels: int, softmax: bool) -> None:
        super().__init__()
        self.inner, self.softmax = channels // 2, softmax
        self.conv_theta, self.conv_phi, self.conv_g = (nn.Conv3d(channels, self.inner, 1) for _ in range(3))
        self.conv_out, self.norm = nn.Conv3d(self.inner, channels, 1), nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        small = F.max_pool3d(x, (1, 2, 2))
        theta, phi, g = self.conv_theta(x).flatten(2), self.conv_phi(small).flatten(2), self.conv_g(small).flatten(2)
        affinity = theta.transpose(1, 2) @ phi
        affinity = (affinity * self.inner**-0.5).softmax(2) if self.softmax else affinity / affinity.shape[2]
        y = (g @ affinity.transpose(1, 2)).view(x.shape[0], self.inner, *x.shape[2:])
        return x + self.norm(self.conv_out(y))


class Holder(nn.Module):
    """Children under the given names."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


class X3D(nn.Module):
    """X3D of width factor 2 and depth factor 2.2: XS, S and M."""

    def __init__(self, classes: int, norm=nn.BatchNorm3d) -> None:
        super().__init__()
        stem = Holder(conv_xy=conv(3, 24, (1, 3, 3), (1, 2, 2)), conv=conv(24, 24, (5, 1, 1), groups=24), bn=norm(24))
        self.s1 = Holder(pathway0_stem=stem)
        c_in = 24
        for stage, (repeats, width) in enumerate(zip((1, 2, 5, 3), (12, 24, 48, 96), strict=True), start=2):
            c_out = rounded(2 * width)
            sizes = (int(2.25 * c_out), c_out, [(1, 1, 1), (3, 3, 3)])
            blocks = {}
            for i in range(math.ceil(2.2 * repeats)):
                block = ResBlock(c_out if i else c_in, *sizes, 1 if i else 2, True, (i + 1) % 2 == 1, norm)
                blocks[f"pathway0_res{i}"] = block
            self.add_module(f"s{stage}", Holder(**blocks))
            c_in = c_out
        inner = int(2.25 * c_in)
        self.head = Holder(
            conv_5=conv(c_in, inner, (1, 1, 1)),
            conv_5_bn=norm(inner),
            lin_5=conv(inner, 2048, (1, 1, 1)),
            projection=nn.Linear(2048, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        stem, head = self.s1.pathway0_stem, self.head
        x = stem.bn(stem.conv(stem.conv_xy(x))).relu()
        for stage in (self.s2, self.s3, self.s4, self.s5):
            for block in stage.children():
                x = block(x)
        x = head.conv_5_bn(head.conv_5(x)).relu().mean((2, 3, 4), keepdim=True)
        return head.projection(head.lin_5(x).relu().flatten(1))


class ResNet(nn.Module):
    """I3D-50: temporal kernels of 3 in some blocks, time halved behind res2."""

    KERNELS = ((3, 3, 3), (3, 1, 3, 1), (3, 1, 3, 1, 3, 1), (1, 3, 1))

    def __init__(self, classes: int) -> None:
        super().__init__()
        stem = Holder(conv=conv(3, 64, (5, 7, 7), (1, 2, 2)), bn=nn.BatchNorm3d(64))
        self.s1 = Holder(pathway0_stem=stem)
        c_in = 64
        for stage, kernels in enumerate(self.KERNELS, start=2):
            inner = 64 * 2 ** (stage - 2)
            blocks = {}
            for i, k in enumerate(kernels):
                stride = 2 if stage > 2 and i == 0 else 1
                blocks[f"pathway0_res{i}"] = ResBlock(c_in, inner, 4 * inner, [(k, 1, 1), (1, 3, 3)], stride)
                c_in = 4 * inner
            self.add_module(f"s{stage}", Holder(**blocks))
        self.head = Holder(projection=nn.Linear(c_in, classes))

    def forward(self, x: Tensor) -> Tensor:
        stem = self.s1.pathway0_stem
        x = F.max_pool3d(stem.bn(stem.conv(x)).relu(), (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for number, stage in enumerate((self.s2, self.s3, self.s4, self.s5)):
            for block in stage.children():
                x = block(x)
            if number == 0:
                x = F.max_pool3d(x, (2, 1, 1))
        return self.head.projection(x.mean((2, 3, 4)))


class SlowFast(nn.Module):
    """SlowFast of any depths, its fast pathway an eighth as wide, with a non-local block behind some blocks of res4."""

    def __init__(self, classes: int, depths: tuple, alpha: int, fusion_kernel: int, nonlocals: tuple = ()) -> None:
        super().__init__()
        self.alpha = alpha
        widths, time = (64, 8), ((1, 1, 3, 3), (3, 3, 3, 3))
        stems = {
            f"pathway{p}_stem": Holder(conv=conv(3, widths[p], (k, 7, 7), (1, 2, 2)), bn=nn.BatchNorm3d(widths[p]))
            for p, k in enumerate((1, 5))
        }
        self.s1 = Holder(**stems)
        c_in = list(widths)
        for stage, depth in enumerate(depths, start=2):
            fuse = conv(c_in[1], 2 * c_in[1], (fusion_kernel, 1, 1), (alpha, 1, 1))
            self.add_module(f"s{stage - 1}_fuse", Holder(conv_f2s=fuse, bn=nn.BatchNorm3d(2 * c_in[1])))
            c_in[0] += 2 * c_in[1]
            children = {}
            for p in (0, 1):
                inner = widths[p] * 2 ** (stage - 2)
                for i in range(depth):
                    kernels = [(time[p][stage - 2] if i < 6 else 1, 1, 1), (1, 3, 3)]
                    stride = 2 if stage > 2 and i == 0 else 1
                    children[f"pathway{p}_res{i}"] = ResBlock(c_in[p], inner, 4 * inner, kernels, stride)
                    c_in[p] = 4 * inner
                    if (stage, p) == (4, 0) and i in nonlocals:
                        children[f"pathway0_nonlocal{i}"] = Nonlocal(4 * inner, softmax=False)
            self.add_module(f"s{stage}", Holder(**children))
        self.head = Holder(projection=nn.Linear(sum(c_in), classes))

    def forward(self, clips: Tensor) -> Tensor:
        x = [clips[:, :, :: self.alpha], clips]
        for p, stem in enumerate(self.s1.children()):
            x[p] = F.max_pool3d(stem.bn(stem.conv(x[p])).relu(), (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for stage in (2, 3, 4, 5):
            fuse = self.get_submodule(f"s{stage - 1}_fuse")
            x[0] = torch.cat([x[0], fuse.bn(fuse.conv_f2s(x[1])).relu()], 1)
            for name, block in self.get_submodule(f"s{stage}").named_children():
                p = int(name.removeprefix("pathway")[0])
                x[p] = block(x[p])
        return self.head.projection(torch.cat([y.mean((2, 3, 4)) for y in x], 1))


def rounded(width: float) -> int:
    """A multiple of 8."""
    down = max(8, int(width + 4) // 8 * 8)
    return down + 8 if down < 0.9 * width else down


def alive(model: nn.Module) -> nn.Module:
    """Fill every parameter and statistic with numbers of its own, in evaluation mode and float64."""
    for name, tensor in model.double().state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(7)
        elif name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            nn.init.uniform_(tensor, 0.5, 1.5)
        elif tensor.ndim == 1:
            nn.init.normal_(tensor, std=0.3)
        else:
            nn.init.normal_(tensor, std=(2 / tensor[0].numel()) ** 0.5)
    return model.eval()
