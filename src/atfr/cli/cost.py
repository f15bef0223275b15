"""`atfr cost`: what one clip costs in a network, by its number of active bins."""

from pathlib import Path
from typing import Any

from atfr.cli import common


def cost(
    model: str,
    *,
    after: str = "res2",
    num_bins: int | None = None,
    frames: int | None = None,
    size: int | None = None,
    num_classes: int = 400,
    json: bool = False,
) -> None:
    """Count the multiply-adds of a network for one clip, without SGS and by the number of active bins.

    Args:
        model: A name, as x3d_s, or a checkpoint folder.
        after: The stage that SGS stands behind (stem, res2, ...), or none; a checkpoint has its own.
        num_bins: Similarity bins, the most maps a clip keeps; by default as many as come in.
        frames: Frames T of the clip; by default those the network was designed for.
        size: Height and width of the clip in px; by default those the network was designed for.
        num_classes: Classes K; a checkpoint has its own.
        json: Print JSON instead of a table.
    """
    with common.busy("counting multiply-adds"):
        import atfr
        from atfr.evaluate.task import TASK, load_checkpoint
        from atfr.trace import site_names

        if Path(model).is_dir():
            has_task = (Path(model) / TASK).is_file()
            network, task = load_checkpoint(model) if has_task else (atfr.from_pretrained(Path(model)), None)
            shape = task.clip_shape if task else network.clip_shape
            if num_bins is not None:
                atfr.set_num_bins_(network, num_bins)
        else:
            network = atfr.create_model(model, num_classes=num_classes)
            shape = network.clip_shape
            if after != "none":
                atfr.adapt_(network, after=after, num_bins=num_bins)
        given = (None, frames, size, size)
        clip_shape = tuple(own if asked is None else asked for asked, own in zip(given, shape, strict=True))
        table = atfr.clip_cost(network, clip_shape)
    sgs = sum(p.numel() for layer in site_names(network).values() for p in layer.parameters())
    report: dict[str, Any] = {
        "model": network.config["model"],
        "after": next(iter(site_names(network)), None),
        "clip_shape": list(clip_shape),
        "parameters": sum(p.numel() for p in network.parameters()) - sgs,
        "sgs_parameters": sgs,
        "gflops_are": "multiply-adds / 1e9",
        "static_gflops": table.static / 1e9,
        "adaptive_gflops": {active: count / 1e9 for active, count in table.adaptive.items()},
    }
    if json:
        common.print_json(report)
        return
    rows: list[list[object]] = [["static", f"{table.static / 1e9:.4g}", "100.0 %"]]
    for active, count in table.adaptive.items():
        rows.append([active, f"{count / 1e9:.4g}", common.percent(count / table.static)])
    title = f"{report['model']}, one clip {' x '.join(map(str, clip_shape))}"
    title += f", SGS after {report['after']}" if report["after"] else ""
    note = f"GFLOPs are multiply-adds / 1e9. Parameters: {report['parameters'] / 1e6:.3f} M"
    note += f", of SGS {sgs / 1e3:.3g} k more." if sgs else "."
    common.print_table(title, ["active bins", "GFLOPs", "of static"], rows, note)
