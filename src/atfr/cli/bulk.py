"""`atfr bulk`: predictions of an archive, on one machine or on a Ray cluster, each video exactly once."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from atfr.checks import Precision, at_least_one, in_range
from atfr.cli import common
from atfr.cli.plain import FAILED
from atfr.errors import InputError
from atfr.words import counted

if TYPE_CHECKING:
    from atfr.bulk.summary import Summary
    from atfr.bulk.verify import Verified


def bulk(
    manifest: str,
    *,
    checkpoint: Path | None = None,
    bundle: Path | None = None,
    out: str,
    views: str = "1x1",
    num_bins: int | list[int] | None = None,
    batch_size: int = 8,
    address: str | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    decoders: int | None = None,
    runners: int | None = None,
    tries: int = 3,
    time_limit: float = 600.0,
    commit_rows: int = 10_000,
    commit_s: float = 60.0,
    take_over: Path | list[Path] | None = None,
    price: float | None = None,
    again: bool = False,
    json: bool = False,
) -> int:
    """Predict an archive into Parquet files, each video exactly once, on this machine or a Ray cluster.

    The same line again does what is left. A video that does not decode, kills its worker or hangs is a row of the
    errors table; the exit code is then 2.

    Args:
        manifest: A CSV or Parquet file with a column path (and id, where that is not the path), a folder, or a pattern
            as 'videos/**/*.mp4'; each may be a URL (s3://, gs://).
        checkpoint: A folder that `atfr train` wrote, or i3d_inception.
        out: A folder or URL; each network, clip and number of views has a folder of its own in it.
        batch_size: Clips in one forward pass, at most, with all their maps; more where the input keeps fewer.
        device: cpu or cuda; auto takes GPUs where the cluster has any.
        decoders: Processes that decode; by default all cores, balanced with the runners.
        runners: Processes with the network; by default one a GPU, or as many as keep the decoders busy.
        tries: Workers that a video may kill or hold up before it is given up.
        time_limit: Seconds that a video may take in a worker.
        commit_rows: Rows of a Parquet file, at most.
        commit_s: Seconds after which there is one, however few rows.
        take_over: A file of `atfr predict --out`, or several as [A.jsonl,B.jsonl], of the same network and views, whose
            rows are taken.
        price: What all of it costs an hour, to tell the cost of a thousand videos.
        again: Try again what was given up.
    """
    asked = common.parse_views(views)
    if (checkpoint is None) == (bundle is None):
        raise InputError("give one network: --checkpoint FOLDER of `atfr train`, or --bundle FOLDER of `atfr export`")
    if bundle is not None:
        common.refuse(bulk, {"num_bins": num_bins}, "a bundle runs as it was exported")
    for name, value in (("--batch_size", batch_size), ("--commit_rows", commit_rows), ("--tries", tries - 1)):
        at_least_one(name, value)
    for name, count in (("--decoders", decoders), ("--runners", runners)):
        if count is not None:
            at_least_one(name, count)
    in_range("--time_limit", time_limit, 1, 10**6)
    with common.busy("loading the network"):
        from atfr.bulk import network as networks
        from atfr.bulk.cluster import cluster, resources
        from atfr.bulk.engine import Settings
        from atfr.bulk.manifest import LEFT
        from atfr.bulk.run import Commits, left_of, run, summary_of
        from atfr.bulk.tables import CONFIGURATION, Bulk, key_of

        identity, task, of_device = networks.chosen(checkpoint, bundle, num_bins, batch_size, precision)
    view_spec = common.views_of(asked, task, checkpoint or bundle or Path(), {"--num_bins": num_bins is not None})
    configuration = {**identity, **view_spec.made_by()}
    tables = Bulk(out, key_of(configuration))
    if take_over:
        from atfr.bulk.take_over import take_over as taken

        files = take_over if isinstance(take_over, list) else [take_over]
        common.note(f"{counted(taken(tables, files, configuration), 'row')} taken over")
    with common.busy("reading the manifest"):
        ledger = left_of(tables, manifest, again)
    if not ledger.count(LEFT):
        return told(summary_of(tables, ledger), tables.folder, json)
    tables.write(CONFIGURATION, configuration)
    with kept_where_interrupted(), cluster(address, (decoders or 1) + (runners or 1)):
        gpu = device == "cuda" or (device == "auto" and bundle is None and resources()[2] > 0)
        settings = Settings(decoders, runners, gpu, tries, time_limit, networks.together(batch_size, view_spec))
        read, make = networks.ViewReader(task.spec, view_spec), of_device("cuda" if gpu else "cpu", view_spec)
        commits, said_s = Commits(commit_rows, commit_s), time.monotonic()
        with common.progress("bulk") as shown:

            def progress(summary: "Summary") -> None:
                nonlocal said_s
                summary.price = price
                shown(summary.done, summary.listed)
                if time.monotonic() - said_s >= common.LOG_EVERY_S:
                    said_s = time.monotonic()
                    common.note(summary.line())

            found = run(tables, manifest, ledger, read, make, settings, commits, progress)
    return told(found, tables.folder, json)


@contextmanager
def kept_where_interrupted() -> Iterator[None]:
    """Say what becomes of what was done, also where all was and the cluster is being left."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("what was done is kept; go on with the same line") from None


def told(summary: "Summary", folder: str, json: bool) -> int:
    """Print what a run has done, and return the exit code."""
    values = summary.to_dict()
    failed = summary.failed.total() + summary.had_failed
    if json:
        common.print_json(values | {"folder": folder})
        return FAILED if failed else 0
    print(
        f"Predicted: {counted(summary.predicted, 'video')}; {counted(summary.were_there, 'was', 'were')} there "
        f"already; {failed} could not be."
    )
    if summary.predicted:
        print(summary.line())
    if "cost_per_thousand_videos" in values:
        print(f"Cost: {values['cost_per_thousand_videos']:.4g} a thousand videos, at {summary.price:g} an hour.")
    print(f"Written: {folder}")
    return FAILED if failed else 0


def verify(folder: str, manifest: str, *, json: bool = False) -> int:
    """Prove that each video of a manifest is in the tables exactly once, or list which are not.

    A video counts as there with one prediction, or with none and an error that names it. The exit code is 0 where all
    are there exactly once, in each configuration of the folder.

    Args:
        folder: What `atfr bulk --out` wrote; or one configuration in it.
        manifest: What it was given.
    """
    with common.busy("verifying"):
        from atfr.bulk.tables import bulks_in
        from atfr.bulk.verify import verify as verified

        found = [verified(one, manifest) for one in bulks_in(folder)]
    if json:
        common.print_json([one.to_dict() for one in found])
    else:
        for one in found:
            print_verified(one)
    return 0 if all(one.whole for one in found) else FAILED


def print_verified(found: "Verified") -> None:
    """Print what a configuration has of the manifest."""
    failed = ", ".join(f"{count} {kind}" for kind, count in found.failed.items()) or "0"
    state = "each exactly once" if found.whole else "NOT each exactly once"
    of = f"{found.configuration}: {counted(found.videos, 'video')}"
    print(f"{of}, {state}: {found.predicted} predicted, errors: {failed}")
    if found.unlisted:
        print(f"  {counted(found.unlisted, 'row is', 'rows are')} of videos that the manifest does not list")
    if found.foreign:
        print(f"  {counted(found.foreign, 'row is', 'rows are')} of another configuration")
    for what, ids, count in (("missing", found.missing, found.num_missing), ("twice", found.twice, found.num_twice)):
        for id_ in ids:
            print(f"  {what}: {os.fsencode(id_).decode(errors='backslashreplace')}")
        if count > len(ids):
            print(f"  {what}: {count - len(ids)} more")
