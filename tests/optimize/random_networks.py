"""Small random networks, each made of a seed: what people write in forwards, and what a rewriting must not touch."""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atfr.kernels.conv3d import Conv3d

CHANNELS = 4
SHAPE = (2, CHANNELS, 3, 5, 5)
"""All maps keep this shape, so that any of them can meet any other."""

Step = Callable[[list[Tensor]], None]
RECORDED: list[Tensor] = []
"""What recording hooks have seen since it was cleared; hooks are functions, so a copy of a network has the same."""


def record(module: nn.Module, args: Any, output: Tensor) -> None:
    RECORDED.append(output)


def record_input(module: nn.Module, args: Any) -> None:
    RECORDED.append(args[0])


def more(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output * 1.5 + 0.5


def less(module: nn.Module, args: Any) -> Any:
    return (args[0] * 0.5,)


def over_output(module: nn.Module, args: Any, output: Tensor) -> None:
    with torch.no_grad():
        output.mul_(0.5)


class OwnForward(nn.Module):
    """Runs steps; each reads some of the maps that there are, and adds what it makes."""

    def __init__(self, generator: random.Random, size: int, depth: int = 0) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        self.draw = generator
        self.depth = depth
        self.asks = generator.random() < 0.1  # a forward that torch.fx cannot read
        self.steps: list[Any] = [self.step() for _ in range(size)]
        self.end = generator.choice(["last", "sum", "all", "pooled"] if depth == 0 else ["last", "sum"])
        del self.draw

    def module(self, module: nn.Module) -> int:
        """Register a module, or take an earlier one of the same class; return its number."""
        same = [n for n, other in enumerate(self.parts) if type(other) is type(module)]
        if same and self.draw.random() < 0.15:
            return self.draw.choice(same)
        hook = self.draw.random()
        if hook < 0.12:
            kind = self.draw.choice([record, more, over_output, None, None])
            if kind:
                module.register_forward_hook(kind)
            else:
                module.register_forward_pre_hook(self.draw.choice([less, record_input]))
        self.parts.append(module)
        return len(self.parts) - 1

    def step(self) -> Any:
        names = [name for name, weight in STEPS.items() for _ in range(weight)]
        name = self.draw.choice(names)
        return name, *getattr(self, f"make_{name}", self.make_other)(), self.draw.randrange(1 << 30)

    def make_other(self) -> tuple[Any, ...]:
        return (None,)

    def make_conv(self) -> tuple[Any, ...]:
        return (self.module(conv_of(self.draw)),)

    def make_unit(self) -> tuple[Any, ...]:
        parts = [conv_of(self.draw), nn.BatchNorm3d(CHANNELS), activation_of(self.draw)]
        if self.draw.random() < 0.3:
            return ([self.module(nn.Sequential(*parts[: self.draw.choice([2, 3])]))],)
        return ([self.module(part) for part in parts[: self.draw.choice([2, 2, 3])]],)

    def make_norm(self) -> tuple[Any, ...]:
        return (self.module(nn.BatchNorm3d(CHANNELS)),)

    def make_activation(self) -> tuple[Any, ...]:
        return (self.module(activation_of(self.draw)),)

    def make_idle(self) -> tuple[Any, ...]:
        return (self.module(self.draw.choice([nn.Identity, nn.Dropout, nn.Dropout3d])()),)

    def make_gate(self) -> tuple[Any, ...]:
        parts = [nn.AdaptiveAvgPool3d(1), nn.Conv3d(CHANNELS, 2, 1), nn.ReLU(), nn.Conv3d(2, CHANNELS, 1), nn.Sigmoid()]
        return ([self.module(part) for part in parts],)

    def make_pool(self) -> tuple[Any, ...]:
        pools = [
            nn.MaxPool3d(3, 1, 1),
            nn.MaxPool3d((1, 3, 3), (1, 1, 1), (0, 1, 1)),
            nn.AvgPool3d((1, 3, 3), 1, (0, 1, 1)),
        ]
        return (self.module(self.draw.choice(pools)),)

    def make_block(self) -> tuple[Any, ...]:
        if self.depth > 1:
            return (self.module(nn.Identity()),)
        return (self.module(OwnForward(self.draw, self.draw.randint(1, 4), self.depth + 1)),)

    def forward(self, x: Tensor) -> Tensor:
        if self.asks and x.shape[2] > 100:
            return x
        maps = [x]
        for name, parts, seed in self.steps:
            draw = random.Random(seed)
            y = draw.choice([*maps[-2:], *maps])
            z = draw.choice([*maps[-2:], *maps])
            result = STEP[name](self.call, parts, y, z, draw)
            maps.append(result)
        if self.end == "last":
            return maps[-1] if self.depth else maps[-1].mean((2, 3, 4))
        if self.end == "sum":
            total = maps[-1]
            for other in maps[-4:-1]:
                total = total + other
            return total if self.depth else total.mean((2, 3, 4))
        if self.end == "pooled":
            return torch.cat([F.adaptive_avg_pool3d(maps[-1], 1).flatten(1), maps[-1].amax((2, 3, 4))], 1)
        return torch.cat([each.mean((2, 3, 4)) for each in maps[1:]], 1)

    def call(self, part: int, maps: Tensor) -> Tensor:
        return self.parts[part](maps)


def conv_of(draw: random.Random) -> nn.Module:
    """A convolution that keeps the shape."""
    kernel = draw.choice([(1, 1, 1), (1, 1, 1), (3, 3, 3), (3, 1, 1), (1, 3, 3)])
    options: dict[str, Any] = {"padding": tuple(k // 2 for k in kernel), "bias": draw.random() < 0.6}
    options["groups"] = draw.choice([1, 1, CHANNELS])
    if draw.random() < 0.1:
        options["padding"] = "same"
    elif draw.random() < 0.05:
        options["padding_mode"] = "replicate"
    return draw.choice([nn.Conv3d, Conv3d])(CHANNELS, CHANNELS, kernel, **options)


def activation_of(draw: random.Random) -> nn.Module:
    kinds = [nn.ReLU, nn.ReLU, nn.SiLU, nn.ReLU6, nn.Hardswish, nn.LeakyReLU, nn.Hardtanh]
    return nn.Sigmoid() if draw.random() < 0.1 else draw.choice(kinds)(inplace=draw.random() < 0.5)


Call = Callable[[int, Tensor], Tensor]


def in_order(call: Call, parts: list[int], y: Tensor, z: Tensor, draw: random.Random) -> Tensor:
    for part in parts:
        y = call(part, y)
    return y


def one(call: Call, part: int, y: Tensor, z: Tensor, draw: random.Random) -> Tensor:
    return call(part, y)


def function(call: Call, part: Any, y: Tensor, z: Tensor, draw: random.Random) -> Tensor:
    choices: list[Callable[[Tensor], Tensor]] = [
        F.relu,
        torch.relu,
        Tensor.relu,
        F.silu,
        F.relu6,
        torch.sigmoid,
        F.gelu,
    ]
    choices += [torch.relu_, Tensor.relu_, lambda y: F.relu(y, inplace=True), lambda y: F.relu(y, True)]
    choices += [lambda y: F.silu(y, inplace=True), lambda y: y.sigmoid(), lambda y: y.tanh(), lambda y: y.clamp(0, 6)]
    return draw.choice(choices)(y)


def total(call: Call, part: Any, y: Tensor, z: Tensor, draw: random.Random) -> Tensor:
    kind = draw.randrange(8)
    if kind == 0:
        y += z
        return y
    if kind == 1:
        return y.add_(z)
    if kind == 2:
        return torch.add(y, z, alpha=0.5)
    if kind == 3:
        return torch.add(y, z)
    if kind == 4:
        return y + draw.choice([0.5, y.shape[1], y.size(1)])
    return y.add(z) if kind == 5 else y + z


def product(call: Call, part: Any, y: Tensor, z: Tensor, draw: random.Random) -> Tensor:
    kind = draw.randrange(7)
    if kind == 0:
        y *= z.sigmoid()
        return y
    if kind == 1:
        return y.mul_(0.5)
    if kind == 2:
        return y * torch.sigmoid(z)
    if kind == 3:
        return torch.mul(z.sigmoid(), y)
    if kind == 4:
        return y * z.mean((2, 3, 4), keepdim=True).sigmoid()
    return y * torch.tanh(z) if kind == 5 else y * y.sigmoid()


def swish(call: Call, part: Any, y: Tensor, z: Tensor, draw: random.Random) -> Tensor:
    gate = draw.choice([torch.sigmoid, F.sigmoid, Tensor.sigmoid])(y)
    kind = draw.randrange(5)
    if kind == 0:
        z.mul_(0.5)  # of the same maps, perhaps
    if kind == 1:
        y *= gate
        return y
    return gate * y if kind == 2 else y * gate


def gated(call: Call, parts: list[int], y: Tensor, z: Tensor, draw: random.Random) -> Tensor:
    gate = in_order(call, parts, y, z, draw)
    kind = draw.randrange(4)
    if kind == 0:
        y *= gate
        return y
    return gate * y if kind == 1 else y * gate


def view(call: Call, part: Any, y: Tensor, z: Tensor, draw: random.Random) -> Tensor:
    """Take a view, perhaps write over it or over what it is of, and use it."""
    kind, write = draw.randrange(10), draw.randrange(4)
    if kind == 0:
        part = y[:, :, :1]
    elif kind == 1:
        part = y[:, 1:3].mean(1, keepdim=True) if write == 0 else y[:, :1]
    elif kind == 2:
        part = y.chunk(2, 1)[0].mean(1, keepdim=True)
    elif kind == 3:
        a, b = y.chunk(2, dim=1)
        b = F.relu(b, inplace=write == 0)
        return torch.cat([b, a], 1)
    elif kind == 4:
        part = y.flatten(2).mean(-1)[:, :, None, None, None]
    elif kind == 5:
        last = y.permute(0, 2, 3, 4, 1)
        if write == 0:
            last = last.mul_(0.5)
        return last.permute(0, 4, 1, 2, 3)
    elif kind == 6:
        part = y.detach() if write == 0 else y
    elif kind == 7:
        part = y.view_as(y)
    elif kind == 8:
        part = y.transpose(3, 4)
    else:
        part = y.contiguous()
    if write == 1:
        part = part.mul_(0.5)
    elif write == 2:
        y += 0.25
    elif write == 3 and kind in (6, 7, 9):
        part = torch.relu_(part)
    return y * part if draw.random() < 0.5 else part + y


def clone(call: Call, part: Any, y: Tensor, z: Tensor, draw: random.Random) -> Tensor:
    return y.clone()


STEPS = {"conv": 5, "unit": 8, "norm": 1, "activation": 3, "function": 4, "total": 7, "product": 3, "swish": 2}
STEPS |= {"gate": 2, "view": 4, "idle": 1, "pool": 1, "block": 2, "clone": 1}
STEP: dict[str, Callable[..., Tensor]] = {
    "conv": one, "unit": in_order, "norm": one, "activation": one, "function": function, "total": total,
    "product": product, "swish": swish, "gate": gated, "view": view, "idle": one, "pool": one, "block": one,
    "clone": clone,
}  # fmt: skip


def random_network(seed: int) -> nn.Module:
    """A network in evaluation mode of N C T H W maps to N K numbers."""
    generator = random.Random(seed)
    network = OwnForward(generator, generator.randint(3, 9)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            for name, low, high in (
                ("weight", 0.5, 1.5),
                ("bias", -1, 1),
                ("running_mean", -1, 1),
                ("running_var", 0.5, 1.5),
            ):
                nn.init.uniform_(getattr(module, name).data, low, high)
    return network
