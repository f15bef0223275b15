"""What `atfr bulk` costs beside decoding and the network, and how near it comes to the network alone.

    python benchmarks/bulk.py start [--rows 1000000]
    python benchmarks/bulk.py rows [--rows 5000] [--decoders 1] [--runners 1 2 ...] [--sleep_ms 50]
    python benchmarks/bulk.py share MANIFEST CHECKPOINT [--decoders 1] [--runners 1 2 ...] [--views 1x1]

- start: a manifest of a tenth of the rows and of all of them, of which none, half or all are done: CPU seconds until
  the first video would be handed out, and what memory that takes, each in a process of its own.
- rows: as many rows for each runner, of one tiny file, with a decoder that reads it and a network that does nothing:
  rows a second, the driver's milliseconds a row, its memory at the end. Everything else is there: Ray, hashes, Parquet,
  commits. With --sleep_ms the network waits for so long a video, and needs no core: how many runners one driver keeps
  busy.
- share: real videos and a real network; videos a second against the ceiling of the runners, for each number of them.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyarrow as pa
import pyarrow.parquet as pq

from atfr.bulk.cluster import cluster
from atfr.bulk.engine import Settings
from atfr.bulk.manifest import LEFT, read_manifest
from atfr.bulk.run import Commits, left_of, run
from atfr.bulk.tables import Bulk
from atfr.video.spec import ViewSpec

KEY = "0" * 16


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def name(number: int) -> str:
    return f"s3://bucket/archive/{number % 1000:03d}/video-{number:09d}.mp4"


def write_rows(folder: Path, rows: int, done: int) -> None:
    pq.write_table(pa.table({"path": [name(number) for number in range(rows)]}), folder / "manifest.parquet")
    table = Bulk(str(folder), KEY).predictions
    for start in range(0, done, 10_000):
        table.append(
            [
                {"id": name(number), "uri": name(number), "content": "0" * 64, "configuration": KEY, "label": "a"}
                for number in range(start, min(done, start + 10_000))
            ]
        )


def started(folder: str, rows: int, done: int) -> dict[str, float]:
    before_mb, start_s = peak_mb(), time.process_time()
    ledger = left_of(Bulk(folder, KEY), f"{folder}/manifest.parquet")
    assert ledger.count(LEFT) == rows - done
    next(ledger.left(read_manifest(f"{folder}/manifest.parquet")), None)
    return {"rows": rows, "done": done, "cpu_s": time.process_time() - start_s, "mb": peak_mb() - before_mb}


def start(rows: int) -> list[dict[str, float]]:
    found = []
    for count in (rows // 10, rows):
        for done in (0, count // 2, count):
            with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as pool:
                pool.submit(write_rows, Path(folder), count, done).result()
                with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
                    found.append(fresh.submit(started, folder, count, done).result())
                print("{rows:>9} rows, {done:>9} done: {cpu_s:6.2f} CPU s, {mb:4.0f} MB".format(**found[-1]))
    return found


def nothing(path: os.PathLike[str]) -> tuple[bytes, int]:
    return b"", 0


@dataclass(frozen=True)
class Idle:
    sleep_s: float = 0.0

    def __call__(self, payloads: Any) -> list[dict[str, Any]]:
        time.sleep(self.sleep_s * len(payloads))
        return [{"label": "a", "probability": 1.0} for _ in payloads]


def rows_per_s(rows: int, decoders: int, runners: int, sleep_s: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder, cluster(num_cpus=decoders + runners):
        Path(folder, "tiny.mp4").write_bytes(b"0")
        ids = [f"video-{number:09d}" for number in range(rows)]
        pq.write_table(
            pa.table({"id": ids, "path": [f"{folder}/tiny{number}.mp4" for number in range(rows)]}),
            f"{folder}/manifest.parquet",
        )
        for number in range(rows):
            os.link(f"{folder}/tiny.mp4", f"{folder}/tiny{number}.mp4")
        bulk = Bulk(folder, KEY)
        marks: list[tuple[float, float, int]] = []

        def progress(summary: Any) -> None:
            if summary.predicted:
                marks.append((time.perf_counter(), time.process_time(), summary.predicted))

        manifest = f"{folder}/manifest.parquet"
        settings = Settings(decoders=decoders, runners=runners)
        network = partial(Idle, sleep_s)
        run(bulk, manifest, left_of(bulk, manifest), nothing, network, settings, Commits(), progress)
        (wall_s, cpu_s, first), (end_s, end_cpu_s, last) = marks[0], marks[-1]
        found = (last - first) / (end_s - wall_s)
        return {
            "rows": rows,
            "decoders": decoders,
            "runners": runners,
            "rows_per_s": found,
            "share": found * sleep_s / runners,
            "driver_ms_per_row": 1000 * (end_cpu_s - cpu_s) / (last - first),
            "driver_mb": peak_mb(),
        }


def share(manifest: str, checkpoint: Path, decoders: int, runners: int, views: str) -> dict[str, Any]:
    from atfr.bulk import network

    view_spec = ViewSpec(*map(int, views.split("x")))
    _, task, of_device = network.chosen(checkpoint, None, None, 8)
    with tempfile.TemporaryDirectory() as folder, cluster(num_cpus=decoders + runners):
        bulk = Bulk(folder, KEY)
        settings = Settings(decoders=decoders, runners=runners, together=network.together(8, view_spec))
        reader = network.ViewReader(task.spec, view_spec)
        found = run(bulk, manifest, left_of(bulk, manifest), reader, of_device("cpu", view_spec), settings, Commits())
        return {"decoders": decoders, "runners": runners, **found.to_dict()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["start", "rows", "share"])
    parser.add_argument("manifest", nargs="?")
    parser.add_argument("checkpoint", nargs="?", type=Path)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--decoders", type=int, default=1)
    parser.add_argument("--runners", type=int, nargs="+", default=[1])
    parser.add_argument("--sleep_ms", type=float, default=0)
    parser.add_argument("--views", default="1x1")
    parser.add_argument("--out", type=Path, help="write the result as JSON to this file")
    given = parser.parse_args()
    found: Any
    if given.what == "start":
        found = start(given.rows or 1_000_000)
    elif given.what == "rows":
        rows, sleep_s = given.rows or 5000, given.sleep_ms / 1000
        found = [rows_per_s(rows * one, given.decoders, one, sleep_s) for one in given.runners]
    else:
        found = [share(given.manifest, given.checkpoint, given.decoders, one, given.views) for one in given.runners]
    print(json.dumps(found, indent=2))
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
