"""`atfr calibrate`: set the noise floor and the number of bins of a checkpoint by some unlabelled videos."""

from dataclasses import asdict
from pathlib import Path

from atfr.checks import at_least_one
from atfr.cli import common


def calibrate(
    checkpoint: Path,
    videos: list[Path],
    *,
    share: float | None = None,
    gflops: float | None = None,
    most: int = 100,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Set a network's sampler by some unlabelled videos, and keep that in its checkpoint folder.

    The noise floor of change-guided sampling becomes what most of the videos have. With --share or --gflops the number
    of bins becomes the largest whose mean cost is not above. Labels are not used.

    Args:
        checkpoint: A folder that `atfr train` wrote; its config.json is changed.
        videos: Video files, or folders of them; the centred clip of each is looked at.
        share: The wanted mean cost of a clip, as a share of the network without a sampler.
        gflops: The same in GFLOPs (multiply-adds / 1e9).
        most: So many of the videos are looked at, spread over all of them.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.
        json: Print JSON instead of a table.
    """
    at_least_one("--most", most)
    from atfr.data.walk import videos_below

    files = [file for path in videos for file in (videos_below(path) if path.is_dir() else [path])]
    model, task = common.load(checkpoint, device)
    from atfr.adapt.calibrate import calibrate_
    from atfr.evaluate.task import save_checkpoint
    from atfr.video.file import VideoFile
    from atfr.video.transforms import test_clips

    chosen = files[:: -(-len(files) // most)]
    clips = []
    with common.progress("reading videos", len(chosen)) as progress:
        for number, file in enumerate(chosen, 1):
            clips.append(test_clips(VideoFile(file, shorter_side=task.spec.decode_side), task.spec))
            progress(number, len(chosen))
    with common.busy("calibrating"):
        found = calibrate_(model, clips, share=share, gflops=gflops)
    save_checkpoint(model.cpu(), task, checkpoint)
    if json:
        common.print_json(asdict(found))
        return
    rows: list[list[object]] = [[f"noise floor at {site}", f"{zone:.3g}"] for site, zone in found.dead_zone.items()]
    if found.num_bins is not None:
        rows.append(["bins", found.num_bins])
    rows.append(["maps a clip keeps", told(found.active_bins)])
    if found.gflops is not None:
        rows.append(["GFLOPs of a clip", told(found.gflops)])
    rows.append(["GFLOPs without the sampler", f"{found.static_gflops:.3g}"])
    note = "Mean ± spread over clips (least to most). GFLOPs are multiply-adds / 1e9."
    common.print_table(f"Calibrated with {found.clips} clips, kept in {checkpoint}", ["", ""], rows, note)


def told(spread: tuple[float, float, float, float]) -> str:
    """Return a spread in words."""
    mean, deviation, least, most = spread
    return f"{mean:.3g} ± {deviation:.2g} ({least:.3g} to {most:.3g})"
