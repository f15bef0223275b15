"""`atfr cost`: what one clip costs in a network, by its number of active bins, and the paper's figures beside ours."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from atfr.cli import common
from atfr.cli.reproduce import print_gflops
from atfr.errors import InputError
from atfr.words import counted

if TYPE_CHECKING:
    from atfr.models import VideoModel

AFTER, CLASSES = "res2", 400
NAMES = {"sgs": "SGS", "change": "change-guided sampling", "attention": "temporal attention"}


def cost(
    model: str | None = None,
    *,
    after: list[str] | str | None = None,
    num_bins: int | list[int] | None = None,
    embedding_dim: int = 8,
    similarity: Literal["magnitude", "angular", "spherical"] = "magnitude",
    temporal_block: int | list[int | None] | None = None,
    sampler: Literal["sgs", "change", "uniform", "average", "random", "attention"] = "sgs",
    active_bins: float | list[float] | None = None,
    frames: int | None = None,
    size: int | None = None,
    num_classes: int | None = None,
    paper: bool = False,
    json: bool = False,
) -> None:
    """Count the multiply-adds of a network for one clip, without SGS and by the number of active bins.

    With several layers, as in SlowFast's two pathways, the table is by the share of maps kept, the same behind each.

    Args:
        model: A name, as x3d_s, or a checkpoint folder.
        after: Where the sampler stands: input, or behind a stage (stem, res2, ...; several as [res2,res4]), or none; by
            default res2. A checkpoint has its own, and its own options below but for the number of bins.
        num_bins: Similarity bins, the most maps a clip keeps; by default as many as come in. With several coordinates
            a number for each, as [4,8].
        similarity: What bins are made of.
        frames: Frames T of the clip; by default those the network was designed for.
        size: Height and width of the clip in px; by default those the network was designed for.
        num_classes: Classes K; by default 400. A checkpoint has its own.
        paper: Compare with every GFLOPs figure of the paper instead; takes no MODEL and about a minute.
    """
    options: dict[str, Any] = {"num_bins": num_bins, "embedding_dim": embedding_dim, "similarity": similarity}
    options |= {"temporal_block": temporal_block, "sampler": sampler, "active_bins": active_bins}
    named = {"after": after, "num_classes": num_classes, "frames": frames, "size": size, **options}
    if paper:
        common.refuse(cost, named | {"MODEL": model}, "--paper compares networks of its own at the paper's sizes")
        print_gflops(as_json=json)
        return
    if model is None:
        raise InputError("expected MODEL, a name as x3d_s or a checkpoint folder; or --paper for the paper's figures")
    with common.busy("counting multiply-adds"):
        import atfr
        from atfr.adapt.trace import site_names
        from atfr.measure.saving import maps_that_come
        from atfr.paper.shares import by_share

        if Path(model).is_dir():
            given = named | {"num_bins": None, "frames": None, "size": None}
            common.refuse(cost, given, f"the checkpoint '{model}' is counted as it is")
            network, shape = read(Path(model), num_bins)
        else:
            network = make(
                model, AFTER if after is None else after, options, CLASSES if num_classes is None else num_classes
            )
            shape = network.clip_shape
        clip_shape = common.clip_shape(shape, frames, size)
        table = atfr.clip_cost(network, clip_shape)
        maps = maps_that_come(network, clip_shape)
        shares = by_share(network, table, clip_shape)
    for site, layer in site_names(network).items():
        if (mean := getattr(layer, "active_bins", 0)) > maps[site]:
            maps_come = counted(maps[site], "map comes", "maps come")
            common.warn(f"--active_bins {mean:g}: {maps_come} to {site}, and all are kept")
    report: dict[str, Any] = {
        **describe(network),
        "clip_shape": list(clip_shape),
        "gflops_are": "multiply-adds / 1e9",
        "maps": maps,
        "static_gflops": table.static / 1e9,
        "adaptive_gflops": {s.kept[0]: s.multiply_adds / 1e9 for s in shares} if len(maps) == 1 else {},
        "gflops_by_share": [
            {
                "share": s.share,
                "active_bins": dict(zip(table.sites, s.kept, strict=True)),
                "gflops": s.multiply_adds / 1e9,
            }
            for s in shares
        ],
    }
    if json:
        common.print_json(report)
    else:
        print_cost(report)


def read(folder: Path, num_bins: int | list[int] | None) -> "tuple[VideoModel, tuple[int, ...]]":
    """Return the network of a checkpoint folder, with another number of bins if one is given, and its clip shape."""
    import atfr
    from atfr.evaluate.task import TASK, load_checkpoint

    has_task = (folder / TASK).is_file()
    network, task = load_checkpoint(folder) if has_task else (atfr.from_pretrained(folder), None)
    if num_bins is not None:
        atfr.set_num_bins_(network, num_bins)
    return network, task.clip_shape if task else network.clip_shape


def make(name: str, after: str | list[str], options: dict[str, Any], num_classes: int) -> "VideoModel":
    """Return a new network with its layers, without weights."""
    import atfr
    from atfr.models.zoo import outline

    network = outline(name, num_classes)
    if after == "none":
        common.refuse(cost, options, "--after none leaves the sampler out")
    else:
        atfr.adapt_(network, after, **options)
    return network


def describe(network: "VideoModel") -> dict[str, Any]:
    """Return a network's name, what stands where in it, and its parameters, for JSON."""
    from atfr.adapt import adaptation
    from atfr.adapt.trace import CHILD

    settings = adaptation(network) or {"after": None}
    added = sum(p.numel() for name, p in network.named_parameters() if CHILD in name.split("."))
    return {
        "model": network.config["model"],
        "after": settings["after"],
        "sampler": settings.get("sampler", "sgs") if settings["after"] else None,
        "parameters": sum(p.numel() for p in network.parameters()) - added,
        "sgs_parameters": added,
    }


def print_cost(report: dict[str, Any]) -> None:
    """Print what a clip costs by the number of active bins, or by the share of maps kept at several sites."""
    static, sites = report["static_gflops"], list(report["maps"])
    several = len(sites) > 1
    columns = sites if several else ["active bins"]
    rows: list[list[object]] = []
    for row in report["gflops_by_share"]:
        kept = [str(row["active_bins"][site]) for site in sites]
        rows.append([*kept, f"{row['gflops']:.4g}", common.percent(row["gflops"] / static)])
    first = ("all", "") if report["sampler"] == "attention" else ("static", "100.0 %")  # attention is counted in it
    rows.insert(0, [first[0], *[""] * (len(columns) - 1), f"{static:.4g}", first[1]])
    title = f"{report['model']}, one clip {' x '.join(map(str, report['clip_shape']))}"
    what = NAMES.get(report["sampler"], report["sampler"])
    if report["after"]:
        after = [report["after"]] if isinstance(report["after"], str) else report["after"]
        title += f", {what} at the input" if after == ["input"] else f", {what} after {', '.join(after)}"
    note = f"GFLOPs are multiply-adds / 1e9. Parameters: {report['parameters'] / 1e6:.3f} M"
    note += f", {report['sgs_parameters'] / 1e3:.3g} k more of {what}." if report["sgs_parameters"] else "."
    if several and len(report["gflops_by_share"]) > 1:  # a control has one row, of the numbers it was given
        whole = ", ".join(f"{maps} at {site}" for site, maps in report["maps"].items())
        note += f" A row keeps the same share of the maps at every site (of {whole}), rounded up."
    common.print_table(title, [*columns, "GFLOPs", "of static"], rows, note)
