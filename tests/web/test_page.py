"""`atfr demo` as its users meet it: a real server, real browsers, real files. Nothing leaves this machine or stays."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import pytest

from atfr import viz
from atfr.cli.main import main
from atfr.data.samples import SAMPLE_CLASSES
from tests.cli.test_main import error_of
from tests.web.browser import MISSING, User, user
from tests.web.served import ODD, TASK, Server
from tests.web.test_network import by_hand

# where a browser stands still, the others of the suite must not wait an hour
pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("few_layers")]
needs_browser = pytest.mark.skipif(
    bool(MISSING) and not os.environ.get("CI"),
    reason=f"no {' and no '.join(MISSING)} on this machine; on Debian: apt install chromium chromium-driver",
)


def told_by_hand(video: Path, bins: int | None) -> tuple[str, str]:
    """What the page must say of a video: the answer, and the maps that were kept."""
    best, (kept,), _ = by_hand(viz.centred_clip(video, TASK.spec), bins)
    return TASK.labels[best], f"maps kept at res2 {kept} of 4"


@needs_browser
def test_a_video_is_answered_and_the_slider_changes_it(
    server: Server, desk: User, videos: dict[str, Path], tmp_path: Path
) -> None:
    assert all(name in desk.text("#samples") for name in SAMPLE_CLASSES)
    assert "This network knows other classes" in desk.text("body")
    desk.send(videos["one"])
    desk.see("#answer .name", "one.mp4")
    label, kept = told_by_hand(videos["one"], None)
    assert desk.text("#answer h2") == label
    assert kept in desk.text("#answer")
    assert "Move the slider" in desk.text("#change")
    assert ODD in desk.text(".head")
    assert len(desk.driver.find_elements("css selector", "#details svg[role=img]")) == 6
    assert server.files() == []

    desk.slide(2)
    desk.see("#change p", "With 2 of 4 bins")
    label, kept = told_by_hand(videos["one"], 2)
    assert desk.text("#answer h2") == label
    assert kept in desk.text("#answer")
    assert f"2 bins {label}" in desk.text("#change")

    desk.choose("grow")
    desk.see("#answer .name", "sample: grow")
    assert "Move the slider" in desk.text("#change")
    desk.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 50_000


@needs_browser
def test_two_at_once_do_not_mix(server: Server, desk: User, videos: dict[str, Path], tmp_path: Path) -> None:
    """A second user, on a phone, sends another video and sets other bins while the first is served."""
    with user(390, 844, phone=True) as phone:
        phone.open(server.address)
        assert phone.width() == 390
        assert phone.top("#answer") < phone.top("#samples")
        desk.send(videos["one"])
        phone.send(videos["two"])
        desk.see("#answer .name", "one.mp4")
        phone.see("#answer .name", "two.mp4")
        desk.slide(1)
        phone.slide(2)
        desk.see("#change p", "With 1 of 4 bins")
        phone.see("#change p", "With 2 of 4 bins")
        for someone, video, bins in ((desk, "one", 1), (phone, "two", 2)):
            label, kept = told_by_hand(videos[video], bins)
            assert someone.text("#answer .name") == f"{video}.mp4"
            assert someone.text("#answer h2") == label
            assert kept in someone.text("#answer")
        assert phone.width() == 390
        phone.screenshot(tmp_path / "phone.png")
        assert phone.top("#change") < phone.top("#samples")
        only_here(phone.requests())


@needs_browser
def test_what_is_refused(server: Server, desk: User, videos: dict[str, Path]) -> None:
    told = {
        "notes": "expected a video, but 'notes.mp4' cannot be opened as one",
        "long": "'long.mp4' is 4.4 seconds long; at most 4 seconds are taken",
    }
    for name, message in told.items():
        desk.send(videos[name])
        desk.see("#answer .notice", message)
        assert desk.driver.find_elements("css selector", "#details svg") == []
    desk.send(videos["large"])
    desk.see(".toast-body", "large.mp4")
    assert server.files() == []
    desk.send(videos["one"])  # and it goes on
    desk.see("#answer .name", "one.mp4")


@needs_browser
def test_nothing_was_asked_of_other_machines(server: Server, desk: User) -> None:
    only_here(desk.requests())
    asked = {line.split(maxsplit=1)[1] for line in server.asked.read_text().splitlines()}
    assert asked == {"127.0.0.1"}  # the address it listens at


def only_here(addresses: list[str]) -> None:
    assert len(addresses) > 10
    hosts = {urlparse(one).hostname for one in addresses if not one.startswith(("data:", "blob:", "chrome:"))}
    assert hosts == {"127.0.0.1"}


def test_it_listens_here_alone_and_keeps_others_out(server: Server) -> None:
    port = urlparse(server.address).port
    listening = "0A"
    tables = [Path(f"/proc/{server.process.pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [row.split() for table in tables for row in table]
    ours = [row[1] for row in rows if row[3] == listening and int(row[1].split(":")[1], 16) == port]
    assert ours == [f"0100007F:{port:04X}"]
    (private,) = server.temporary.glob("atfr-demo-*")
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    with urlopen(server.address) as answer:
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'")
        assert "https://fonts" not in answer.read().decode()
    elsewhere = Request(server.address, headers={"Host": "other.example"})
    with pytest.raises(OSError, match="400"):
        urlopen(elsewhere)


def test_errors_are_one_line(
    server: Server,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at = ["demo", "--checkpoint", str(checkpoint)]
    assert main([*at, "--port", str(urlparse(server.address).port)]) == 2
    assert "name another --port, or 0 for a free one" in error_of(capsys)
    assert main([*at, "--port", "0", "--examples", str(tmp_path)]) == 2
    assert "there is no video in" in error_of(capsys)
    assert main([*at, "--max_seconds", "0"]) == 2
    assert "limits must be positive" in error_of(capsys)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert main(at) == 2
    assert "pip install 'atfr[demo]'" in error_of(capsys)
