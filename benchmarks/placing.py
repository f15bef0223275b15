"""Which frames to keep, without training for it: rules of change-guided sampling against uniform frames, real videos.

    python benchmarks/placing.py ut_interaction/manifest.csv --out docs/studies/placing.csv

For each fold a network from ImageNet weights learns from 8 frames spread over the whole video. Then A of 32 frames of
each held-out video are chosen, evenly or by a rule, and only these go through the network; the same for the video
embedded in still footage of 64 frames, its first and last frame repeated, with sensor noise. A rule is (k, mix): the
noise floor is the median step, at most a k-th of the largest ("-": none). OUT gets a row for each footage, A and rule.
"""

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

import atfr
from atfr.data.dataset import ClipDataset
from atfr.data.records import VideoList, read_csv
from atfr.evaluate.task import load_checkpoint
from atfr.models import VideoModel
from atfr.samplers import ChangeGuidedSampling, TemporalSampler, Uniform, change
from atfr.train.fit import fit
from atfr.train.recipe import FROM_IMAGES

FRAMES, EMBEDDED_FRAMES, NOISE = 32, 64, 0.01
KEPT = (8, 6, 4)
RULES = [(k, mix) for k in (None, 2, 4, 6, 8) for mix in (0.0, 0.15, 0.3)]
COLUMNS = "footage kept rule videos top1 loss top1_over_uniform se loss_over_uniform se_loss".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="a CSV file with the columns path, label and fold")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/placing"), help="where the networks are kept")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    found: dict[tuple[str, int, str], list[Tensor]] = {}
    for fold in options.folds:
        splits = read_csv(options.data, test_fold=fold)
        network = trained(splits["train"], options.work / str(fold))
        model = atfr.optimize_for_inference(network)
        clips, labels = held_out(network, splits["test"])
        for footage, batch in (("plain", clips), ("embedded", embedded(clips))):
            for kept, rule, layer in layers():
                logs = log_probabilities(model, batch, layer)
                found.setdefault((footage, kept, rule), []).append(logs.gather(1, labels[:, None])[:, 0])
                found.setdefault((footage, kept, f"{rule} right"), []).append((logs.argmax(1) == labels).float())
        print(f"fold {fold} is done", flush=True)
    write({key: torch.cat(parts) for key, parts in found.items()}, options.out)


def trained(videos: VideoList, folder: Path) -> VideoModel:
    """Return the network of a fold, trained if it is not there."""
    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        recipe = FROM_IMAGES
        model = atfr.create_model(recipe.model, num_classes=len(videos.labels), pretrained=True)
        spec = replace(recipe.clip, frames=8, stride="video", mean=model.mean, std=model.std)
        fit(
            model, ClipDataset(videos, spec, train=True, seed=0), out=folder, epochs=10, warmup_epochs=0.5,
            batch_size=recipe.batch_size, optimizer=recipe.optimizer, learning_rate=recipe.learning_rate, num_workers=0,
            seed=0, tuning=recipe.tuning, logger=False,
        )  # fmt: skip
    return load_checkpoint(folder)[0]


def held_out(model: VideoModel, videos: VideoList) -> tuple[Tensor, Tensor]:
    """Return the whole of each video as clips, and their labels."""
    spec = replace(FROM_IMAGES.clip, frames=FRAMES, stride="video", mean=model.mean, std=model.std)
    dataset = ClipDataset(videos, spec, train=False)
    return torch.cat([dataset[i][0] for i in range(len(dataset))]), torch.tensor([r.label for r in videos.records])


def embedded(clips: Tensor) -> Tensor:
    """Return the clips somewhere within still footage, with sensor noise."""
    generator = torch.Generator().manual_seed(0)
    starts = torch.randint(EMBEDDED_FRAMES - FRAMES + 1, (len(clips),), generator=generator)
    times = (torch.arange(EMBEDDED_FRAMES) - starts[:, None]).clamp(0, FRAMES - 1)
    longer = torch.stack([clip[:, time] for clip, time in zip(clips, times, strict=True)])
    noise = NOISE / sum(FROM_IMAGES.clip.std) * 3
    return longer + noise * torch.randn(longer.shape, generator=generator)


def layers() -> list[tuple[int, str, TemporalSampler | tuple[int | None, ChangeGuidedSampling] | None]]:
    """Return all that is compared."""
    made: list[tuple[int, str, TemporalSampler | tuple[int | None, ChangeGuidedSampling] | None]] = [(0, "all", None)]
    for kept in KEPT:
        made.append((kept, "uniform", Uniform(3, kept)))
        for k, mix in RULES:
            layer = ChangeGuidedSampling(3, kept, mix, None if k else 0.0)
            made.append((kept, f"k={k or '-'} mix={mix}", (k, layer)))
    return made


@torch.inference_mode()
def log_probabilities(
    model: nn.Module, clips: Tensor, layer: TemporalSampler | tuple[int | None, ChangeGuidedSampling] | None
) -> Tensor:
    """Return what the network says of the frames that a layer keeps."""
    if isinstance(layer, tuple):
        k, layer = layer
        change.NOISE_OF_LARGEST = 1 / (k or 1)
    kept = list(clips) if layer is None else layer(clips).unpack()
    return torch.cat([model(clip[None]).log_softmax(1) for clip in kept])


def write(found: dict[tuple[str, int, str], Tensor], out: Path) -> None:
    """Write each rule's figures, and their differences from uniform frames of the same videos."""
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for (footage, kept, rule), logs in found.items():
            if rule.endswith(" right"):
                continue
            right = found[footage, kept, f"{rule} right"]
            row = [footage, kept or "all", rule, len(logs), f"{right.mean():.4f}", f"{-logs.mean():.4f}"]
            if kept:
                gained = right - found[footage, kept, "uniform right"]
                lost = found[footage, kept, "uniform"] - logs
                for difference in (gained, lost):
                    row += [f"{difference.mean():.4f}", f"{difference.std() / len(logs) ** 0.5:.4f}"]
            writer.writerow(row)


if __name__ == "__main__":
    main()
