"""How parameters are called in other people's files, and their names in our networks (which are PyTorchVideo's).

`translate` takes wrappers' prefixes off, joins split batch norms, and turns PySlowFast's names into PyTorchVideo's by
the tables below: each row is a regular expression and what replaces it, all rows of a table are applied in order. Where
PyTorchVideo's networks lack a batch norm that PySlowFast's have, it is folded into its neighbours.

Source: facebookresearch/SlowFast (slowfast/models) and PyTorchVideo 0.1.5 (pytorchvideo/models).
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from atfr.errors import CheckpointError

AVERAGED = "n_averaged"
"""The steps that torch.optim.swa_utils.AveragedModel counts beside a network's tensors."""

EPSILON = 1e-5
"""Of the batch norms of PySlowFast."""

Table = tuple[tuple[str, str], ...]

BLOCK: Table = (
    (r"\.branch1\.", r".branch1_conv."),
    (r"\.branch1_bn\.", r".branch1_norm."),
    (r"\.branch2\.([abc])\.", r".branch2.conv_\1."),
    (r"\.branch2\.([abc])_bn\.", r".branch2.norm_\1."),
)


def resnet(*blocks: int) -> Table:
    """The names of a network in which s1 is the stem, and s2 to s5 (res2 to res5) and the head are these blocks."""
    *stages, head = blocks
    return (
        *BLOCK,
        (r"^s1\.pathway0_stem\.conv\.", r"blocks.0.conv."),
        (r"^s1\.pathway0_stem\.bn\.", r"blocks.0.norm."),
        *((rf"^s{s}\.pathway0_res(\d+)\.", rf"blocks.{i}.res_blocks.\1.") for s, i in enumerate(stages, 2)),
        (r"^head\.projection\.", rf"blocks.{head}.proj."),
    )


RESNET = resnet(1, 2, 3, 4, 5)
POOLED = resnet(1, 3, 4, 5, 6)  # I3D and C2D: PyTorchVideo counts the pool behind res2

X3D: Table = (
    # conv_xy is the spatial convolution in PySlowFast and the temporal one in PyTorchVideo.
    (r"^s1\.pathway0_stem\.conv_xy\.", r"blocks.0.conv.conv_t."),
    (r"^s1\.pathway0_stem\.conv\.", r"blocks.0.conv.conv_xy."),
    (r"\.branch2\.b_bn\.", r".branch2.norm_b.0."),
    (r"\.branch2\.se\.fc1\.", r".branch2.norm_b.1.block.0."),
    (r"\.branch2\.se\.fc2\.", r".branch2.norm_b.1.block.2."),
    (r"^head\.conv_5\.", r"blocks.5.pool.pre_conv."),
    (r"^head\.conv_5_bn\.", r"blocks.5.pool.pre_norm."),
    (r"^head\.lin_5\.", r"blocks.5.pool.post_conv."),
    (r"^head\.lin_5_bn\.", r"blocks.5.pool.post_norm."),
    *RESNET,
)

# pathway0 is the slow one. The pools of both are blocks.5, without parameters.
SLOWFAST: Table = (
    *BLOCK,
    (r"^s1\.pathway(\d)_stem\.conv\.", r"blocks.0.multipathway_blocks.\1.conv."),
    (r"^s1\.pathway(\d)_stem\.bn\.", r"blocks.0.multipathway_blocks.\1.norm."),
    *(
        (rf"^s{i + 1}\.pathway(\d)_{kind}(\d+)\.", rf"blocks.{i}.multipathway_blocks.\1.{kind}_blocks.\2.")
        for kind in ("res", "nonlocal")
        for i in (1, 2, 3, 4)
    ),
    *((rf"^s{i + 1}_fuse\.conv_f2s\.", rf"blocks.{i}.multipathway_fusion.conv_fast_to_slow.") for i in (0, 1, 2, 3)),
    *((rf"^s{i + 1}_fuse\.bn\.", rf"blocks.{i}.multipathway_fusion.norm.") for i in (0, 1, 2, 3)),
    (r"^head\.projection\.", r"blocks.6.proj."),
)


@dataclass(frozen=True)
class Translation:
    """A file's tensors under the names of a network."""

    tensors: dict[str, Tensor]  # by the network's names where they are known, else by the file's
    pyslowfast: bool  # whether the names were PySlowFast's
    folded: tuple[str, ...]  # the batch norms that were folded into their neighbours


def translate(tensors: Mapping[str, Tensor], expected: Collection[str]) -> Translation:
    """Give a file's tensors the names that a network has for them.

    Args:
        expected: The names of the network's state dict.

    Raises:
        CheckpointError: Two tensors get the same name, or those of a batch norm do not fit together.
    """
    tensors = strip_prefixes(tensors, expected)
    pyslowfast = is_pyslowfast(tensors)
    if not pyslowfast or is_pyslowfast(expected):
        return Translation(tensors, pyslowfast, ())
    table = choose_table(tensors, expected)
    try:
        tensors, folded = fold_shortcut_norms(rename(join_split_norms(tensors), table), expected)
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"the tensors of a batch norm in the file do not fit together: {error}") from error
    return Translation(tensors, pyslowfast, folded)


def is_pyslowfast(names: Collection[str]) -> bool:
    """Whether names are those of PySlowFast's own networks."""
    return any(re.match(r"s\d\.pathway\d_", name) for name in names)


def strip_prefixes(tensors: Mapping[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """Take off what wrappers put before most names, as `module.`, `net.` or `model.backbone.`, until names are known.

    Where that leads to no name of the network, nor of PySlowFast, all stay as they are.
    """
    stripped = {name: tensor for name, tensor in tensors.items() if name != AVERAGED or name in expected}
    while not (is_pyslowfast(stripped) or any(name in expected for name in stripped)):
        firsts = Counter(name.partition(".")[0] for name in stripped if "." in name)
        first, count = firsts.most_common(1)[0] if firsts else ("", 0)
        if 2 * count <= len(stripped):
            return dict(tensors)
        stripped = rename(stripped, ((rf"^{re.escape(first)}\.", ""),))
    return stripped


def choose_table(names: Collection[str], expected: Collection[str]) -> Table:
    """The table for a file with PySlowFast's names and the network it goes into."""
    if any(".pathway1_" in name for name in names):
        return SLOWFAST
    if any(name.startswith("head.lin_5.") for name in names):
        return X3D
    return POOLED if "blocks.6.proj.weight" in expected else RESNET


def rename(tensors: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """Apply all rows of a table to every name.

    Raises:
        CheckpointError: Two tensors get the same name.
    """
    renamed: dict[str, Tensor] = {}
    for old, tensor in tensors.items():
        new = old
        for pattern, replacement in table:
            new = re.sub(pattern, replacement, new)
        if new in renamed:
            raise CheckpointError(f"two tensors of the file are {new!r}, the second is called {old!r} there")
        renamed[new] = tensor
    return renamed


def join_split_norms(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn PySlowFast's split batch norms (multigrid training) into plain ones.

    Such a norm X holds X.weight and X.bias, the statistics of each of n parts of a batch one behind the other in
    X.split_bn, and in X.bn those for evaluation, which may be out of date; files that PySlowFast wrote hold the latter
    alone, some of them still as X.bn.
    """
    joined = dict(tensors)
    for norm in {
        found[1] for name in tensors if (found := re.match(r"(.*(?:bn|norm))\.(?:split_)?bn\.running_", name))
    }:
        held = {name.removeprefix(f"{norm}."): joined.pop(name) for name in tensors if name.startswith(f"{norm}.")}
        weight = held["weight"].flatten()
        joined[f"{norm}.weight"], joined[f"{norm}.bias"] = weight, held["bias"].flatten()
        kind = "split_bn" if "split_bn.running_mean" in held else "bn"
        means = held[f"{kind}.running_mean"].view(-1, len(weight))
        variances = held[f"{kind}.running_var"].view(-1, len(weight))
        joined[f"{norm}.running_mean"] = means.mean(0)
        joined[f"{norm}.running_var"] = variances.mean(0) + means.var(0, correction=0)
        if (steps := held.get(f"{kind}.num_batches_tracked")) is not None:
            joined[f"{norm}.num_batches_tracked"] = steps
    return joined


def fold_shortcut_norms(
    tensors: Mapping[str, Tensor], expected: Collection[str]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Fold the batch norm of a shortcut that has none in the network, exact in evaluation mode.

    PySlowFast's X3D has one in the first block of res2, PyTorchVideo's has not. The norm is a factor and a shift for
    each channel: the convolution before it takes the factor, the norm that ends the other branch takes the shift.
    """
    folded = dict(tensors)
    paths = [name.removesuffix("branch1_norm.weight") for name in tensors if name.endswith(".branch1_norm.weight")]
    paths = [path for path in paths if f"{path}branch1_norm.weight" not in expected]
    paths = [path for path in paths if f"{path}branch1_conv.weight" in expected]
    for path in paths:
        norm = {
            name.removeprefix(f"{path}branch1_norm."): folded.pop(name)
            for name in tensors
            if name.startswith(f"{path}branch1_norm.")
        }
        factor = norm["weight"] / (norm["running_var"] + EPSILON).sqrt()
        conv, bias = f"{path}branch1_conv.weight", f"{path}branch2.norm_c.bias"
        folded[conv] = tensors[conv] * factor.view(-1, 1, 1, 1, 1)
        folded[bias] = tensors[bias] + norm["bias"] - norm["running_mean"] * factor
    return folded, tuple(f"{path}branch1_norm" for path in paths)
