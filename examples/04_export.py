"""Export: a trained network as a bundle for an inference runtime, and answers from the bundle.

    python examples/04_export.py

Under a minute, on generated videos and a network of random weights, whose answers mean nothing. With a network of your
own: `model, task = load_checkpoint("RUN")`, or `atfr export RUN BUNDLE` on the command line.
"""

import importlib.util
from pathlib import Path

import torch

import atfr
from atfr.data.samples import SAMPLE_CLASSES, render_samples
from atfr.evaluate.task import Task
from atfr.models import VideoModel
from atfr.video.spec import ClipSpec

OUT = Path("runs/examples/export")


def untrained() -> tuple[VideoModel, Task]:
    """Return what `load_checkpoint` returns: a network, and the classes and the clip that it is made for."""
    model = atfr.create_model("resnet3d_18", num_classes=len(SAMPLE_CLASSES))
    atfr.adapt_(model, after="res2", kernel="linear_mean", num_bins=64)
    return model.eval(), Task(SAMPLE_CLASSES, ClipSpec(frames=16, stride=2, size=48, resize=56, jitter=(56, 64)))


def main() -> None:
    """Export, load, predict, compare."""
    torch.manual_seed(0)
    model, task = untrained()

    # The stages up to SGS and those behind it become graphs, the latter with a time axis of any length. The bundle is
    # tried before it is put in its place.
    runtime = "openvino" if importlib.util.find_spec("openvino") else "torch"
    atfr.export_bundle(model, task, OUT / "bundle", runtime)
    print(f"for {runtime}: {', '.join(sorted(path.name for path in (OUT / 'bundle').iterdir()))}")

    # Elsewhere, without the checkpoint: from videos to answers, with what each has cost.
    bundle = atfr.load_bundle(OUT / "bundle")
    videos = render_samples(OUT / "videos", clips_per_class_train=1, clips_per_class_test=1)
    for prediction in bundle.predict(sorted((videos / "test").rglob("*.mp4"))):
        label, probability = prediction.top(1)[0]
        kept = prediction.active_bins["res2"][0]
        print(f"{prediction.path.parent.name:10}  {label} ({probability:.2f}), {kept} maps, ", end="")
        print(f"{prediction.total_gflops:.3f} of {prediction.static_gflops:.3f} GFLOPs")

    # Or from clips, normalised as `bundle.task.spec` says: the logits are the network's own.
    clips = torch.randn(4, *task.clip_shape)
    with torch.no_grad():
        difference = (bundle(clips).logits - model(clips)).abs().max()
    print(f"the logits differ by {difference:.0e} from PyTorch's")


if __name__ == "__main__":
    main()
