"""Static, adaptive and control networks on real videos: folds x seeds, every run written down as it ends.

    python benchmarks/study.py ut_interaction/manifest.csv --out docs/studies/ut_interaction --work runs/study \
        --folds 0 1 2 3 4 --seeds 0 --variants static linear_mean_32_in_time uniform average random linear

For each fold and seed a base (static, from ImageNet weights) is trained on the other folds. Each variant goes on from
it for as many epochs, on the same clips in the same order. A control keeps the mean number of maps that
`linear_mean_32_in_time` kept on the same held-out videos. Runs that are in OUT/runs.csv already are passed over, so
that an interrupted study goes on where it stopped; several processes may share it, each with folds of its own.
benchmarks/study_report.py reads what they write.

OUT/runs.csv     one row a run: variant, classes, fold, seed, figures, what it takes to run it again
OUT/videos.csv   one row a held-out video of a run: scores of each class, and of each view maps kept and motion energy
"""

import argparse
import csv
import fcntl
import gc
import json
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import atfr
from atfr.comparison.recipes import SAMPLES
from atfr.data.dataset import ClipDataset
from atfr.data.records import VideoList, VideoRecord, read_csv, read_folder
from atfr.evaluate.predict import Prediction, predict
from atfr.evaluate.task import Task, load_checkpoint
from atfr.models import VideoModel
from atfr.train.fit import fit
from atfr.train.recipe import FROM_IMAGES, Recipe

WARMUP_EPOCHS = 0.5
TUNE_RATE = 2 / 3  # of the base's learning rate
AFTER = "res2"
REFERENCE = "linear_mean_32_in_time"  # whose number of maps the controls keep
VARIANTS: dict[str, dict[str, Any] | None] = {
    "static": None,
    "linear_mean_32": {"kernel": "linear_mean", "num_bins": 32},
    "linear_mean": {"kernel": "linear_mean"},
    "linear": {"kernel": "linear"},
    "kronecker": {"kernel": "kronecker"},
    "linear_32": {"kernel": "linear", "num_bins": 32},
    "linear_mean_32_in_time": {"kernel": "linear_mean", "num_bins": 32, "order": "time"},
    "linear_mean_32_paper_edge": {"kernel": "linear_mean", "num_bins": 32, "top_edge": "paper"},
    "linear_in_time": {"kernel": "linear", "order": "time"},
    "linear_paper_edge": {"kernel": "linear", "top_edge": "paper"},
    "uniform": {"sampler": "uniform"},
    "average": {"sampler": "average"},
    "random": {"sampler": "random"},
}
RUNS = "variant classes fold seed top1 videos gflops gflops_std active_bins train_s adapt settings".split()
VIDEOS = "variant classes fold seed video label scores gflops active_bins motion".split()
KEY = ("variant", "classes", "fold", "seed")


@dataclass(frozen=True)
class Plan:
    """What is trained on a data set.

    Attributes:
        views: clips of a held-out video, centre crop.
        tune_freeze: the last stage that the variants keep from the base; SGS trains what lies behind it.
    """

    recipe: Recipe
    base_epochs: int
    tune_epochs: int
    tune_freeze: str | None
    views: int


PLANS = {"videos": Plan(FROM_IMAGES, 10, 4, "res2", 4), "samples": Plan(SAMPLES, 8, 5, None, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="a CSV file with the columns path, label and fold, or a folder")
    parser.add_argument("--plan", choices=list(PLANS), default="videos")
    parser.add_argument("--out", type=Path, required=True, help="where the CSV files are")
    parser.add_argument("--work", type=Path, default=Path("runs/study"), help="where the bases are kept")
    parser.add_argument("--folds", type=int, nargs="+", default=[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--without", nargs="+", default=[], help="classes to leave out")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for fold in options.folds:
            folder = options.data.is_dir()
            splits = read_folder(options.data) if folder else read_csv(options.data, test_fold=fold)
            study = Study(PLANS[options.plan], without(splits, options.without), fold, seed, options.out, options.work)
            for variant in options.variants:
                study.run(variant)
                gc.collect()  # Lightning's objects hold each other, and with them the decoded videos


def without(splits: Mapping[str, VideoList], names: Iterable[str]) -> dict[str, VideoList]:
    """Leave classes out."""
    kept = {}
    for split, videos in splits.items():
        labels = [name for name in videos.labels if name not in set(names)]
        records = [r for r in videos.records if videos.labels[r.label] in labels]
        renumbered = [VideoRecord(r.path, labels.index(videos.labels[r.label])) for r in records]
        kept[split] = VideoList(tuple(renumbered), tuple(labels))
    return kept


@dataclass(frozen=True)
class Study:
    """The runs of one fold and one seed."""

    plan: Plan
    splits: Mapping[str, VideoList]
    fold: int
    seed: int
    out: Path
    work: Path

    def run(self, variant: str) -> None:
        """Train and test a variant, unless that is done."""
        classes = len(self.splits["train"].labels)
        key = {"classes": classes, "fold": self.fold, "seed": self.seed}
        rows = read_rows(self.out / "runs.csv")
        if find(rows, {"variant": variant, **key}):
            return
        adapt = VARIANTS[variant]
        if adapt is not None and "sampler" in adapt:
            reference = find(rows, {"variant": REFERENCE, **key})
            if reference is None:
                raise SystemExit(f"{variant} of fold {self.fold}, seed {self.seed} needs {REFERENCE}: run it first")
            adapt = adapt | {"active_bins": float(reference["active_bins"])}
        model, task = load_checkpoint(self.base(classes))
        torch.manual_seed(self.seed)
        if adapt is not None:
            atfr.adapt_(model, AFTER, **adapt)
        start_s = time.monotonic()
        folder = self.work / f"{classes}_classes_fold_{self.fold}_seed_{self.seed}_{variant}"
        self.train(model, folder, self.tune_stage, self.seed + 100)
        train_s = time.monotonic() - start_s
        write({"variant": variant, **key}, list(self.tested(model, task)), adapt, self.settings, train_s, self.out)

    def base(self, classes: int) -> Path:
        """Return the folder of the base, trained if it is not there."""
        folder = self.work / f"{classes}_classes_fold_{self.fold}_seed_{self.seed}"
        if not (folder / "config.json").exists():
            torch.manual_seed(self.seed)
            start = {"pretrained": True} if self.plan.recipe.pretrained else {}
            model = atfr.create_model(self.plan.recipe.model, num_classes=classes, **start)
            self.train(model, folder, self.base_stage, self.seed)
        return folder

    @property
    def base_stage(self) -> dict[str, Any]:
        recipe = self.plan.recipe
        return {"epochs": self.plan.base_epochs, "learning_rate": recipe.learning_rate, "tuning": recipe.tuning}

    @property
    def tune_stage(self) -> dict[str, Any]:
        recipe = self.plan.recipe
        tuning = replace(recipe.tuning, freeze=self.plan.tune_freeze)
        return {"epochs": self.plan.tune_epochs, "learning_rate": recipe.learning_rate * TUNE_RATE, "tuning": tuning}

    @property
    def training(self) -> dict[str, Any]:
        recipe = self.plan.recipe
        return {"batch_size": recipe.batch_size, "optimizer": recipe.optimizer, "warmup_epochs": WARMUP_EPOCHS}

    @property
    def settings(self) -> dict[str, Any]:
        """What it takes to run it again, but for the variant."""
        return {"base": self.base_stage, "tune": self.tune_stage, **self.training, "clip": self.plan.recipe.clip}

    def train(self, model: VideoModel, out: Path, stage: Mapping[str, Any], seed: int) -> None:
        """Train a network in place on random clips, and write it."""
        spec = replace(self.plan.recipe.clip, mean=model.mean, std=model.std)
        data = ClipDataset(self.splits["train"], spec, train=True, seed=seed)
        fit(model, data, out=out, seed=seed, logger=False, num_workers=0, **self.training, **stage)

    def tested(self, model: VideoModel, task: Task) -> Iterable[tuple[Prediction, VideoRecord, list[float]]]:
        """Predict each held-out video; with the motion energy of each view: the mean change from frame to frame."""
        videos, views = self.splits["test"], self.plan.views
        clips = ClipDataset(videos, task.spec, train=False, num_clips=views)
        predictions = predict(model, [record.path for record in videos.records], task, num_clips=views)
        for index, (prediction, record) in enumerate(zip(predictions, videos.records, strict=True)):
            yield prediction, record, clips[index][0].diff(dim=2).abs().mean((1, 2, 3, 4)).tolist()


def write(
    key: Mapping[str, Any],
    results: list[tuple[Prediction, VideoRecord, list[float]]],
    adapt: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
    train_s: float,
    out: Path,
) -> None:
    """Append a run: its videos first, so that a run that is listed has them all."""
    rows = []
    for prediction, record, motion in results:
        kept = next(iter(prediction.active_bins.values()), ())
        rows.append(
            {
                "video": f"{record.path.parent.name}/{record.path.name}",
                "label": record.label,
                "scores": " ".join(f"{score:.6f}" for score in prediction.scores.tolist()),
                "gflops": " ".join(f"{value:.4f}" for value in prediction.gflops),
                "active_bins": " ".join(map(str, kept)),
                "motion": " ".join(f"{value:.5f}" for value in motion),
            }
        )
    append(out / "videos.csv", VIDEOS, [{**key, **row} for row in rows])
    gflops = [value for prediction, _, _ in results for value in prediction.gflops]
    kept = [count for prediction, _, _ in results for site in prediction.active_bins.values() for count in site]
    run = {
        "top1": statistics.fmean(int(p.scores.argmax()) == record.label for p, record, _ in results),
        "videos": len(results),
        "gflops": f"{statistics.fmean(gflops):.5f}",
        "gflops_std": f"{statistics.pstdev(gflops):.5f}",
        "active_bins": f"{statistics.fmean(kept):.4f}" if kept else "",
        "train_s": f"{train_s:.0f}",
        "adapt": "" if adapt is None else json.dumps({"after": AFTER, **adapt}),
        "settings": json.dumps(settings, default=asdict),
    }
    append(out / "runs.csv", RUNS, [{**key, **run}])
    print(f"{dict(key)}: top-1 {100 * run['top1']:.1f} %, {run['gflops']} GFLOPs, A {run['active_bins']}", flush=True)


def read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def find(rows: Iterable[Mapping[str, str]], key: Mapping[str, Any]) -> Mapping[str, str] | None:
    """Return the row of a run, if there is one."""
    return next((row for row in rows if all(row[name] == str(key[name]) for name in KEY)), None)


def append(path: Path, columns: list[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows in one piece, also where several processes do."""
    with path.open("a", newline="", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0, 2)
        writer = csv.DictWriter(file, columns)
        if file.tell() == 0:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
