"""What Tab gives: the shell's question is put as argcomplete's script in bash puts it."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.test_main import ATFR

pytest.importorskip("argcomplete", reason="completion needs the extra: pip install 'atfr[completion]'")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("atfr da", ["data"]),
        ("atfr data ", ["check", "resize"]),
        ("atfr data check u", ["ucf101"]),
        ("atfr predict --check", ["--checkpoint"]),
        ("atfr export RUN OUT --runtime ", ["openvino", "onnx", "torch"]),
        ("atfr predict --checkpoint my", ["my run/"]),
    ],
)
def test_commands_options_values_and_files(line: str, told: list[str], tmp_path: Path) -> None:
    (tmp_path / "my run").mkdir()
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "told")}
    asked |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    done = subprocess.run(ATFR, cwd=tmp_path, env=os.environ | asked, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    found = [word.strip().replace("\\", "") for word in (tmp_path / "told").read_text().split("\n")]
    assert [word for word in found if word not in ("-h", "--help")] == told
