"""Fetches the source distribution of a package as pip would, and neither builds nor runs it: a script of its own.

    python -P fetch_sdist.py PROJECT VERSION SHA256 > FILE

pip's own settings decide where from: index, extra indexes, proxy, certificates, passwords. `pip download` would run the
package's setup.py to learn its dependencies, so this uses the two parts of pip that it is made of, what finds files and
what asks servers. What a file holds is for the caller to check. The last line of stderr says
what went wrong.
"""

import logging
import sys
from optparse import Values

from pip._internal.commands.download import DownloadCommand

CHUNK = 1 << 20  # bytes


class Fetch(DownloadCommand):
    """`pip download` of one source distribution, without its preparation."""

    def run(self, options: Values, args: list[str]) -> int:
        """Write the file to stdout; return 0, or 1 where that failed."""
        project, version, sha256 = args
        reasons: list[str] = []

        def note(record: logging.LogRecord) -> bool:
            """Keep what pip says of indexes that did not answer: it goes on to the next one."""
            if "Could not fetch URL" in (line := record.getMessage()):
                reasons.append(line.removesuffix(" - skipping"))
            return True

        log = logging.getLogger("pip._internal.index.collector")
        log.setLevel(logging.DEBUG)
        log.addFilter(note)
        session = self.get_default_session(options)
        finder = self._build_package_finder(options=options, session=session)
        found = [c.link for c in finder.find_all_candidates(project) if str(c.version) == version]
        links = [link for link in found if not link.is_wheel]
        if not links:
            kinds = "wheels of it only" if found else "no such file"
            absent = f"the package index has {kinds}: {project} {version} as a .tar.gz"
            print("; ".join(reasons) or absent, file=sys.stderr)
            return 1
        link = next((link for link in links if link.hash == sha256), links[0])
        try:
            with session.get(link.url_without_fragment, headers={"Accept-Encoding": "identity"}, stream=True) as answer:
                answer.raise_for_status()
                for chunk in answer.iter_content(CHUNK):
                    sys.stdout.buffer.write(chunk)
        except OSError as error:  # what the network raises is one
            print(f"{link.filename}: {error}", file=sys.stderr)
            return 1
        return 0


if __name__ == "__main__":
    sys.exit(Fetch("download", "").main(["--no-cache-dir", "--quiet", *sys.argv[1:]]))
