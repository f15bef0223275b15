"""The wheel and the source distribution hold what the code reads, and the wheel works outside of the clone."""

import ast
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import atfr

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "atfr"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="the build backend is not installed: pip install hatchling")
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", out], cwd=ROOT, check=True, capture_output=True)
    return out


def test_the_wheel_holds_all_that_the_code_reads(built: Path) -> None:
    """Every file of the package; by name those that the code reads from beside itself."""
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        assert "Requires-Python: >=3.11" in wheel.read(metadata).decode()
    files = {f"atfr/{path.relative_to(SOURCE)}" for path in SOURCE.rglob("*") if path.is_file()}
    assert {name for name in files if "__pycache__" not in name} == {n for n in names if n.startswith("atfr/")}
    assert "atfr/py.typed" in names
    read = {
        (path.parent / call.args[0].value).relative_to(SOURCE)
        for path in SOURCE.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "with_name"
        and ast.unparse(call.func.value) == "Path(__file__)"
        and isinstance(call.args[0], ast.Constant)
    }
    assert {f"atfr/{name}" for name in read} <= names
    assert Path("web/page.css") in read


def test_the_source_distribution_holds_what_a_packager_needs(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "CITATION.cff", "tests/conftest.py", "src/atfr/py.typed"} <= names


def test_the_wheel_works_outside_of_the_clone(built: Path, tmp_path: Path) -> None:
    """Installed alone, into a folder of its own, from which it is imported, offline and in an empty folder."""
    target, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--target", str(target)]
    pip = [sys.executable, "-m", "pip", "install", *options]
    subprocess.run([*pip, str(next(built.glob("*.whl")))], check=True, env=os.environ | {"PIP_NO_INPUT": "1"})
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    others = [path for path in inherited if path and not (Path(path) / "atfr").is_dir()]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(target), *others])}

    def run(*args: str) -> str:
        command = [sys.executable, *args]
        done = subprocess.run(command, cwd=empty, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    code = "import runpy, sys, atfr; print(atfr.__file__); runpy.run_module('atfr', run_name='__main__')"
    where, *versions = run("-c", code, "--version").splitlines()  # python -m atfr, which says where it was found
    assert where == str(target / "atfr" / "__init__.py")
    assert versions[0].split() == ["atfr", atfr.__version__]
    assert "x3d_xs, one clip" in run(str(target / "bin" / "atfr"), "cost", "x3d_xs")
    assert not list(empty.iterdir())


def test_the_citation_is_that_of_the_readme() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == atfr.__version__
    paper = cited["preferred-citation"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"title     = {{{paper['title']}}}" in readme
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    assert f"author    = {{{authors}}}" in readme


def test_the_workflow_runs_what_every_change_must_pass() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    assert {"run": "bash .ci/run"} in job["steps"]
