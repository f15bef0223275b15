"""Run the benchmarks, and put what they found into docs/performance.md: `make bench`.

    python benchmarks/page.py                 # those that have no result of this code yet, then the page
    python benchmarks/page.py scale training  # these, whether they have a result or not
    python benchmarks/page.py --page          # only the page, from the result files that there are
    python benchmarks/page.py --quick         # all, small, into build/: proves that they run, is no result

Results are in docs/benchmarks/, one file a script, each written when its script has ended: what is interrupted goes on
with the next script. A script that fails is named at the end, and the page keeps what it had from it. What a script
says of its result (`tables`) stands in the page between two comments, `<!-- NAME -->` and `<!-- end NAME -->`.
"""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

from atfr.files import write_whole
from atfr.measure.machine import CODE, in_the_same_run

HERE = Path(__file__).parent
ROOT = HERE.parent
SCRIPTS = ("inference", "batches", "runtime", "early_stages", "training", "end_to_end", "scale", "bf16")
"""What `make bench` runs, in the order of the page."""

RUNTIMES = ("openvino", "onnxruntime", "pytorchvideo")
MOST_S = 900
"""Seconds after which a script is ended."""


def load(script: Path) -> ModuleType:
    """Import a script."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{script.stem}", script)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def is_of_this_code(result: Path) -> bool:
    """Whether a result was measured with the code as it is now."""
    if not result.exists():
        return False
    report = json.loads(result.read_text(encoding="utf-8"))
    commit = report["conditions"]["commit"]
    if commit is None or commit["dirty"]:
        return False
    same = subprocess.run(
        ["git", "-C", ROOT, "diff", "--quiet", commit["id"], "--", *CODE], capture_output=True, check=False
    )
    return same.returncode == 0


def run(script: Path, out: Path, quick: bool) -> bool:
    """Run a script; tell whether it wrote its result."""
    command = [sys.executable, str(script), "--out", os.path.relpath(out), *(["--quick"] if quick else [])]
    print(f"== {script.stem}: {time.strftime('%H:%M:%S')}", flush=True)
    start_s = time.perf_counter()
    code: int | str
    try:
        code = subprocess.run(command, timeout=MOST_S, check=False).returncode
    except subprocess.TimeoutExpired:
        code = f"more than {MOST_S} s"
    print(f"== {script.stem}: {time.perf_counter() - start_s:.0f} s{f', failed: {code}' if code else ''}", flush=True)
    return not code


def filled(text: str, scripts: Path, results: Path) -> str:
    """Return a page with the tables of all result files in their places."""
    for result in sorted(results.glob("*.json")):
        script = scripts / f"{result.stem}.py"
        if result.stem not in SCRIPTS or not script.exists():
            continue
        report = json.loads(result.read_text(encoding="utf-8"))
        for name, table in (load(script).tables(report) | {f"{result.stem} conditions": conditions(report)}).items():
            place = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)", re.DOTALL)
            if not place.search(text):
                raise SystemExit(
                    f"the page has no place for {name!r} of {script.name}: <!-- {name} --> <!-- end {name} -->"
                )
            text = place.sub(lambda found, table=table: f"{found[1]}\n{table}\n\n{found[2]}", text)
    return text


def conditions(report: dict) -> str:
    """Return how a result was measured, in two lines."""
    found = report["conditions"]
    hardware, versions, commit = found["hardware"], found["versions"], found["commit"] or {"id": "none", "dirty": False}
    others = [f"{name} {versions[name]}" for name in ("torch", *RUNTIMES) if name in versions]
    return (
        f"`{report['command']}`: {found['date'][:10]}, commit {commit['id'][:8]}{' and changes' * commit['dirty']}; "
        f"{hardware.get('gpu', hardware['cpu'])} ({hardware['cpu_capability']}), {hardware['cores']} cores, "
        f"{found['threads']} threads, {', '.join(others)}. "
        f"{in_the_same_run(report['limits'])}"
    )


def draw(scripts: Path, results: Path, images: Path) -> None:
    """Draw the pictures of all result files."""
    import matplotlib

    images.mkdir(parents=True, exist_ok=True)
    for result in sorted(results.glob("*.json")):
        script = scripts / f"{result.stem}.py"
        if result.stem in SCRIPTS and script.exists() and (figures := getattr(load(script), "figures", None)):
            with matplotlib.rc_context({"svg.hashsalt": script.stem}):  # the same picture of the same result
                figures(json.loads(result.read_text(encoding="utf-8")), images)


def main(arguments: list[str] | None = None, scripts: Path = HERE, root: Path = ROOT) -> int:
    """Run what is asked for, and write the page; return 1 where a script failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="scripts to run, whether they have a result or not")
    parser.add_argument("--page", action="store_true", help="run nothing")
    parser.add_argument("--quick", action="store_true", help="run all, small, and write into build/")
    options = parser.parse_args(arguments)
    docs = root / "docs"
    target = root / "build" / "quick" if options.quick else docs
    names = options.names or [name for name in SCRIPTS if (scripts / f"{name}.py").exists()]
    failed = []
    for name in () if options.page else names:
        result = target / "benchmarks" / f"{name}.json"
        if not (options.names or options.quick) and is_of_this_code(result):
            print(f"== {name}: has a result of this code")
        elif not run(scripts / f"{name}.py", result, options.quick):
            failed.append(name)
    page = (docs / "performance.md").read_text(encoding="utf-8")
    write_whole(target / "performance.md", filled(page, scripts, target / "benchmarks"))
    draw(scripts, target / "benchmarks", target / "images")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
