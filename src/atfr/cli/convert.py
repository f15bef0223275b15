"""`atfr convert`: turn a file of weights, of whatever library, into a checkpoint folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from atfr.cli import common
from atfr.errors import CheckpointError
from atfr.files import claimed
from atfr.words import counted

if TYPE_CHECKING:
    from atfr.weights.load import Weights


def convert(
    file: Path,
    out: Path,
    *,
    model: str | None = None,
    num_classes: int | None = None,
    prefix: str | None = None,
    strict: bool = True,
    json: bool = False,
) -> None:
    """Turn a file of weights into a checkpoint folder that atfr.from_pretrained and every command reads.

    The file may be of PyTorchVideo's or torchvision's zoo, of PySlowFast, Lightning, DeepSpeed or safetensors, or a
    plain state dict; what wrappers put before all names (module., net., model.backbone., ...) is taken off. No code in
    it is run. The file does not say how classes are called: `atfr predict` tells them by number.

    Args:
        file: The file of weights.
        out: A new or empty folder.
        model: The network's name, as x3d_s; found by the shapes of the weights where only one fits.
        num_classes: Classes K; by default those of the file. With another number the classifier gets new weights.
        prefix: Take only the tensors below this name, where the file has several networks: what their names begin with,
            as ema_model, or the entry of the file that holds them, as model_ema.
        strict: Refuse a file that lacks a tensor, has one too many or one of another shape; false loads what fits and
            lists the rest; it needs --model.
    """
    if file.is_dir():
        state = "a checkpoint already" if (file / "config.json").is_file() else "a folder"
        raise CheckpointError(f"expected a file of weights, '{file}' is {state}")
    if file.suffix == ".ckpt" and all((file.parent / name).is_file() for name in ("config.json", "model.safetensors")):
        raise CheckpointError(
            f"'{file}' lies in a checkpoint already, which has the sampler too: every command reads '{file.parent}'"
        )
    with common.busy("converting"), new_folder(out):
        import atfr
        from atfr.weights.load import read

        weights = read(file, prefix)
        name = model or guess(weights, file)
        classes = classes_of(weights, name) if num_classes is None else num_classes
        network = atfr.create_model(name, num_classes=400 if classes is None else classes)
        report = atfr.load_weights(network, file, strict, prefix)
        network.eval().save_pretrained(out)
    summary = {"out": str(out), "model": name, "num_classes": network.config["arguments"]["num_classes"]}
    summary |= {key: value for key, value in asdict(report).items() if key != "new"}  # there is no SGS
    if json:
        common.print_json(summary)
        return
    rows: list[list[object]] = [
        ["model", f"{name}, {counted(summary['num_classes'], 'class', 'classes')}"],
        ["tensors", report.loaded],
    ]
    kinds = {"new weights": report.reinitialised, "folded": report.folded, "missing, random": report.missing}
    kinds |= {"left out": report.unexpected, "of another shape": report.misshapen}
    rows += [[kind, ", ".join(names)] for kind, names in kinds.items() if names]
    common.print_table(f"{file.name}, of {report.source}", ["", ""], rows, f"Written to {out}", left=(0, 1))


@contextmanager
def new_folder(out: Path) -> Iterator[None]:
    """Keep OUT to this process, before anything long begins."""
    try:
        with claimed(out):
            yield
    except FileExistsError:
        raise CheckpointError(f"OUT '{out}' exists and is no empty folder; choose a new one") from None
    except BlockingIOError:
        raise CheckpointError(f"another process writes to OUT '{out}': wait for it, or choose a new folder") from None


def guess(weights: "Weights", file: Path) -> str:
    """Return the one network whose tensors have the names and shapes of those in a file.

    Raises:
        CheckpointError: None fits, or several do.
    """
    from atfr.models.zoo import list_models, outline

    fitting = [name for name in list_models() if classes_of(weights, name, whole=True)]
    if len(fitting) > 1 and weights.frames:
        fitting = [name for name in fitting if outline(name).clip_shape[1] == weights.frames] or fitting
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise CheckpointError(
            f"'{file}' ({weights.source}) fits {', '.join(fitting)}, which differ in no shape; choose one with --model"
        )
    raise CheckpointError(
        f"'{file}' ({weights.source}) fits no network of atfr: it holds {counted(len(weights.tensors), 'tensor')}, as"
        f" {', '.join([*weights.tensors][:3])}; with --model NAME the error says what differs, and --prefix NAME"
        " takes only what is below that name"
    )


def classes_of(weights: "Weights", name: str, whole: bool = False) -> int | None:
    """Return the classes of the file's classifier if it is one of this network, and with `whole` if all else is too."""
    from atfr.models.zoo import outline
    from atfr.weights.load import compare, troubles

    found = compare(weights, outline(name))
    return None if whole and troubles(found.report) else found.num_classes
