"""What the scripts beside the package take from it is there; most of them run in no other test."""

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*ROOT.glob("benchmarks/*.py"), *ROOT.glob("examples/**/*.py")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_what_a_script_imports_is_there(script: Path) -> None:
    missing = []
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "atfr":
            room = importlib.import_module(node.module)
            missing += [
                f"{node.module}.{one.name}"
                for one in node.names
                if not hasattr(room, one.name) and importlib.util.find_spec(f"{node.module}.{one.name}") is None
            ]
    assert not missing
