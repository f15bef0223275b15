"""`atfr export`: write a checkpoint's network as a bundle for an inference runtime."""

from pathlib import Path
from typing import Literal

from atfr.cli import common


def export(
    checkpoint: Path,
    out: Path,
    *,
    runtime: Literal["openvino", "onnx", "torch"] = "openvino",
    num_bins: int | list[int] | None = None,
    json: bool = False,
) -> None:
    """Write a trained network as a bundle: the files of an inference runtime, and all that a prediction needs.

    The bundle is tried before it is put in its place: its logits must be PyTorch's. `atfr predict --bundle OUT` and
    atfr.load_bundle run it.

    Args:
        out: A new folder, or that of an older bundle, which is replaced.
        runtime: What runs it: openvino or onnx (each an extra of atfr), or torch.
    """
    model, task = common.load(checkpoint, "cpu", num_bins)
    with common.busy("exporting"):
        import atfr

        description = atfr.export_bundle(model, task, out, runtime).description
    size = sum((out / name).stat().st_size for name in description.files)
    summary = {"out": str(out), "bytes": size, **description.to_dict()}
    if json:
        common.print_json(summary)
        return
    rows = [
        ["network", description.network["model"]],
        ["sampler at", ", ".join(description.sites) or "nothing: a static network"],
        ["clip", " x ".join(map(str, task.clip_shape))],
        ["files", f"{', '.join(description.files)} ({size / 1e6:.1f} MB)"],
        ["tried", f"two clips: logits within {description.logits_within:.1g} of PyTorch's largest"],
    ]
    common.print_table(f"Bundle for {runtime}", ["", ""], rows, f"Written to {out}", left=(0, 1))
