"""Networks in which nothing is at its default, so that parity says something."""

from collections.abc import Callable

import torch
from torch import nn

from tests.models.narrow import narrowed


def scramble_(network: nn.Module) -> nn.Module:
    """Leave no parameter or statistic at its default."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.5)
                nn.init.normal_(module.running_mean, std=0.5)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
            elif isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in")
                if module.bias is not None:
                    nn.init.normal_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.1)
                nn.init.normal_(module.bias)
    return network


def alike(make_expected: Callable[[], nn.Module], make: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module]:
    """Two networks whose tensors have the same names and shapes, with a quarter of their channels and the same weights.

    In float64 and evaluation mode, no parameter or statistic at its default. The second one may have non-local blocks
    that the first has not: new ones do nothing, as their norms are 0.
    """
    with torch.device("meta"):
        expected_shapes, shapes = ({k: x.shape for k, x in one().state_dict().items()} for one in (make_expected, make))
    assert expected_shapes == {key: shape for key, shape in shapes.items() if "nonlocal_blocks" not in key}
    torch.manual_seed(0)
    expected, network = (narrowed(one).double().eval() for one in (make_expected, make))
    for path, module in network.named_modules():
        if "nonlocal_blocks" in path and isinstance(module, nn.BatchNorm3d):
            nn.init.zeros_(module.weight)
    network.load_state_dict(scramble_(expected).state_dict(), strict=False)
    return expected, network
