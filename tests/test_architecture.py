"""The house stands as docs/design.md draws it: imports run one way, files stay small, `import atfr` is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import atfr

SOURCE = Path(atfr.__file__).parent
# Each room may import the rooms before it.
ROOMS = [
    "errors",
    "files",
    "checks",
    "words",
    "private",
    "kernels",
    "ragged",
    "samplers",
    "adapt",
    "weights",
    "models",
    "optimize",
    "video",
    "data",
    "evaluate",
    "runtime",
    "measure",
    "viz",
    "train",
    "comparison",
    "paper",
    "web",
    "bulk",
    "cli",
    "__main__",
]


def imported_rooms(file: Path) -> set[str]:
    """The rooms of atfr that a file imports, also inside functions; not what only type checkers see."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "atfr" else [node.module]
            modules.update(names)
        elif isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
    return {name.split(".")[1] for name in modules if name.startswith("atfr.")} & set(ROOMS)


def room_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_run_one_way(file: Path) -> None:
    room = room_of(file)
    assert room in ROOMS, f"{room} is not in the plan: add it to docs/design.md and to ROOMS"
    later = {other for other in imported_rooms(file) if ROOMS.index(other) > ROOMS.index(room)}
    assert not later, f"{file.relative_to(SOURCE)} imports {later}, which stand below it"


def test_the_walk_sees_imports() -> None:
    assert imported_rooms(SOURCE / "optimize" / "rewrite.py") == {"adapt", "kernels", "optimize", "private", "ragged"}


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_fit_a_reader(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400


def test_import_is_light() -> None:
    code = "import sys, atfr; print(sorted({'torch', 'lightning', 'av', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    for name in atfr.__all__:
        assert getattr(atfr, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        atfr.no_such_name  # noqa: B018
