"""Explain: what a network merges in one video, why, and what that saves, as a page and as figures.

    python examples/03_explain.py

A few seconds, on a generated video and a network of random weights, whose answer means nothing. With a network of your
own: `model, task = load_checkpoint("RUN")`.
"""

from pathlib import Path

import torch

import atfr
from atfr import viz
from atfr.data.samples import SAMPLE_CLASSES, render_samples
from atfr.evaluate.task import Task
from atfr.models import VideoModel
from atfr.video.spec import ClipSpec

OUT = Path("runs/examples/explain")


def untrained() -> tuple[VideoModel, Task]:
    """Return what `load_checkpoint` returns: a network, and the classes and the clip that it is made for."""
    model = atfr.create_model("resnet3d_18", num_classes=len(SAMPLE_CLASSES))
    atfr.adapt_(model, after="res2", kernel="linear_mean", num_bins=64, order="time")
    return model.eval(), Task(SAMPLE_CLASSES, ClipSpec(frames=16, stride=2, size=64, resize=72, jitter=(72, 80)))


def main() -> None:
    """Explain one video."""
    torch.manual_seed(0)
    model, task = untrained()
    videos = render_samples(OUT / "videos", clips_per_class_train=1, clips_per_class_test=1)
    video = videos / "test" / "move_left" / "0000.mp4"

    # Everything at once: one HTML file that opens from disk. On the command line this is `atfr explain`.
    explanation = viz.explain(model, video, task)
    (OUT / "page.html").write_text(viz.explanation_page(explanation), encoding="utf-8")

    # The same figures one by one, as matplotlib figures.
    viz.frame_strip(explanation.watched, explanation.frames).savefig(OUT / "frames.png")
    viz.magnitudes(explanation.watched).savefig(OUT / "magnitudes.png")
    viz.flow(explanation.watched.trace).savefig(OUT / "flow.png")
    viz.saving(explanation.prediction, explanation.timing).savefig(OUT / "saving.png")

    # And the numbers behind them.
    site = explanation.to_dict()["sites"]["res2"]
    print(f"{site['maps']} maps came in, {site['active_bins']} went out")
    print(f"the output map of each frame: {site['output_map_of_frame']}")
    prediction = explanation.prediction
    print(f"GFLOPs: {prediction.total_gflops:.3f}, without SGS {prediction.static_gflops:.3f}")
    print(f"Written: {', '.join(sorted(path.name for path in OUT.iterdir() if path.is_file()))} in {OUT}")


if __name__ == "__main__":
    main()
