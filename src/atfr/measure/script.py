"""What all scripts in benchmarks/ have in common: their options, and the names of their parts of the page.

A script measures, writes one result file, and says what of it stands in docs/performance.md:

    def measure(quick: bool) -> dict[str, Any]: ...          # what write_result returned
    def tables(report: dict[str, Any]) -> dict[str, str]: ... # Markdown by the name of its place in the page
    def figures(report: dict[str, Any], folder: Path) -> None: ...  # pictures, where there are any

`benchmarks/page.py` puts the tables of all result files into the page. A quick run takes seconds, proves that the
script works, and is no result.
"""

import argparse
from pathlib import Path


def script_options(doc: str | None) -> argparse.ArgumentParser:
    """Return the parser of a benchmark's options: --out FILE and --quick; the script's docstring is the help."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the result as JSON to this file")
    parser.add_argument("--quick", action="store_true", help="small and few: proves that it runs, is no result")
    return parser
