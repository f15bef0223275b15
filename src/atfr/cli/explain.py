"""`atfr explain`: one page that shows what a network merges in a video, why, and what that saves."""

from pathlib import Path
from typing import TYPE_CHECKING

from atfr.cli import common
from atfr.errors import InputError
from atfr.files import write_whole

if TYPE_CHECKING:
    from atfr.viz import Explanation


def explain(
    video: Path,
    *,
    checkpoint: Path,
    out: Path = Path("explanation.html"),
    num_bins: int | list[int] | None = None,
    label: str | None = None,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Show what a network merges in a video, why, and what that saves, on one HTML page.

    The page needs nothing else: it opens from disk, without a network.

    Args:
        video: A video file.
        out: The page; what is there is replaced.
        label: The class whose places in the frames are shown; by default the most probable.
        json: Print the page's data as JSON too.
    """
    if problem := trouble(out):
        raise InputError(f"--out is the page to write, as explanation.html; '{out}' {problem}")
    model, task = common.load(checkpoint, device, num_bins)
    with common.busy("explaining the video"):
        from atfr import viz

        explanation = viz.explain(model, video, task, label=label)
        write_whole(out, viz.explanation_page(explanation))
    if explanation.prediction.warning:
        common.warn(explanation.prediction.warning)
    if json:
        common.print_json(explanation.to_dict())
    else:
        print_explanation(explanation, out)


def trouble(out: Path) -> str | None:
    """Return why no page can be written to a path; a page in place of the video would be one, too."""
    if out.is_dir():
        return "is a folder"
    if not out.parent.is_dir():
        return f"would lie in '{out.parent}', which is no folder"
    is_page = out.suffix.lower() in (".html", ".htm") or (out.exists() and not out.is_file())  # a pipe or a device
    return None if is_page else "does not end in .html"


def print_explanation(explanation: "Explanation", out: Path) -> None:
    """Print the answer and the bill, and where the page is."""
    from atfr.cli.predict import print_predictions
    from atfr.viz.figures import brief

    print_predictions([explanation.prediction], most_views=1)
    if timing := explanation.timing:
        adaptive, static = (brief(timing.ms(name).median) for name in ("adaptive", "static"))
        how = f"in turns, medians of {timing.rounds}; threads: {explanation.conditions['threads']}"
        print(f"ms of a clip: {adaptive}, without the sampler {static} ({how}).")
    print(f"Written: {out}")
