"""Fine-tune: from videos in folders to a trained network, then the same network with SGS, both tested.

    python examples/02_finetune.py

Under a minute on two CPU cores, on generated videos. So few of them, for so few epochs, teach a network of random
weights next to nothing: with videos of your own, `read_folder("FOLDER")` takes the place of `generated_videos()`, and
more epochs that of three. `make demo` trains the same network on 480 of these videos until it knows them.
"""

from pathlib import Path

import torch

import atfr
from atfr.data.dataset import ClipDataset
from atfr.data.records import VideoList, read_folder
from atfr.data.samples import render_samples
from atfr.evaluate.task import load_checkpoint
from atfr.evaluate.test import test
from atfr.train.fit import fit
from atfr.video.spec import ClipSpec

OUT = Path("runs/examples/finetune")
SPEC = ClipSpec(frames=16, stride=2, size=32, resize=32, jitter=(32, 36), flip=False)  # left and right are classes


def generated_videos() -> dict[str, VideoList]:
    """Return the lists "train" and "test" of short videos in which a shape moves, grows or shrinks."""
    return read_folder(render_samples(OUT / "videos", clips_per_class_train=6, clips_per_class_test=2))


def main() -> None:
    """Train, adapt, train on, test."""
    torch.manual_seed(0)
    lists = generated_videos()
    train = ClipDataset(lists["train"], SPEC, train=True)
    classes = len(train.video_list.labels)

    # A static network first.
    options = {"batch_size": 8, "optimizer": "adamw", "learning_rate": 0.003, "warmup_epochs": 0.5, "num_workers": 0}
    static = atfr.create_model("resnet3d_18", num_classes=classes)
    result = fit(static, train, out=OUT / "static", epochs=3, **options)
    print("static:   loss by epoch", [round(epoch["train/loss"], 2) for epoch in result.history])

    # The same weights, with SGS behind the second stage. `load_weights` takes checkpoints of other libraries too.
    adaptive = atfr.create_model("resnet3d_18", num_classes=classes)
    atfr.adapt_(adaptive, after="res2")
    atfr.load_weights(adaptive, OUT / "static")
    result = fit(adaptive, train, out=OUT / "adaptive", epochs=2, **options)
    print("adaptive: loss by epoch", [round(epoch["train/loss"], 2) for epoch in result.history])

    # A checkpoint folder holds the network, its SGS, its classes and its clip.
    for name in ("static", "adaptive"):
        model, task = load_checkpoint(OUT / name)
        found = test(model, lists["test"], task.spec, num_clips=1, num_crops=1)
        print(f"{name}: top-1 {found.top1:.2f}, {found.gflops_per_clip.mean:.3f} GFLOPs a clip, {found.active_bins}")


if __name__ == "__main__":
    main()
