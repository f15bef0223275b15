"""The page: what stands where, and what happens when a video comes or the slider moves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from atfr.errors import AtfrError, VideoError
from atfr.video.transforms import CentredClip, centred_clip
from atfr.viz import Explanation
from atfr.viz.page import PARTS_CSS, escaped
from atfr.web import result
from atfr.web.gate import WAITING
from atfr.web.network import SharedNetwork
from atfr.web.samples import Sample, are_of
from atfr.web.uploads import Inbox

SESSIONS = 32
"""So many users' clips are kept at most; whose clip is gone sends the video again."""
KEPT_S = 3600
NAMED = 8
WAITING_HTML = '<div class="atfr waiting"><p>Drop a video, or choose one of the samples.</p></div>'


@dataclass(frozen=True)
class Shown:
    """What a user sees: a clip, and what the network made of it with the bins it was trained with."""

    clip: CentredClip
    trained: Explanation


def build(network: SharedNetwork, inbox: Inbox, samples: Sequence[Sample], generated: bool) -> gr.Blocks:
    """Return the page, to be served where the environment of `serve.private` holds.

    Args:
        generated: whether these are of the generated sample set.
    """
    title = f"{network.model.config['model']}: what it sees, and what it saves"
    with gr.Blocks(title=title, analytics_enabled=False) as page:
        page.state_session_capacity = SESSIONS
        gr.HTML(head_html(network, title))
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=300):
                drop = gr.File(label="Your video", height=150, elem_id="drop")
                gr.HTML(small_html(f"At most {inbox.limits}. The file is removed once it is read."))
                posters = [(sample.poster, sample.name) for sample in samples]
                gallery = gr.Gallery(
                    posters, label="Or one of these", columns=3, height="auto", allow_preview=False, interactive=False,
                    buttons=[], elem_id="samples",
                )  # fmt: skip
                gr.HTML(samples_html(network, generated), elem_id="about_samples")
            with gr.Column(scale=2, min_width=320):
                answer = gr.HTML(WAITING_HTML, elem_id="answer")
                bins = gr.Slider(
                    1, max(network.most_bins, 2), value=max(network.most_bins, 2), step=1, label="Bins", visible=False,
                    info="How finely maps are told apart. Fewer bins: fewer maps, less work.", elem_id="bins",
                    buttons=[],
                )  # fmt: skip
                change = gr.HTML(elem_id="change")
        details = gr.HTML(elem_id="details")
        shown = gr.State(None, time_to_live=KEPT_S)
        actions = Actions(network, inbox, samples)
        once: dict[str, Any] = {"concurrency_id": "network", "concurrency_limit": 1, "api_visibility": "private"}
        once |= {"show_progress": "full", "show_progress_on": answer}
        outputs = [shown, answer, bins, change, details]
        drop.upload(actions.sent, [drop], [drop, *outputs], **once)
        gallery.select(actions.chosen, [], outputs, **once)
        bins.input(actions.moved, [shown, bins], [answer, change, details], trigger_mode="always_last", **once)
    return page.queue(max_size=WAITING)


def pictures(blocks: gr.Blocks) -> list[str]:
    """Return the paths of the files that belong to the page: pictures of the samples."""
    (gallery,) = (part for part in blocks.blocks.values() if isinstance(part, gr.Gallery))
    return [item["image"]["path"] for item in gallery.value]


class Actions:
    """What happens on the page. Each returns the new values of the page's parts, and keeps nothing of a user's."""

    def __init__(self, network: SharedNetwork, inbox: Inbox, samples: Sequence[Sample]) -> None:
        self.network, self.inbox, self.samples = network, inbox, samples

    def sent(self, _file: None, event: gr.EventData) -> list[Any]:
        """A file was dropped: answer, and make the place free for the next. The gate names it by its token."""
        return [None, *self._answer(lambda: self.inbox.take(event.token))]

    def chosen(self, event: gr.SelectData) -> list[Any]:
        """A sample was chosen."""
        return self._answer(lambda: self._sample(event.index))

    def moved(self, shown: Shown | None, bins: int) -> list[Any]:
        """The slider was moved."""
        if shown is None:
            return [result.notice_html("The video is gone", "It is kept for a while only; send it again."), "", ""]
        most = self.network.most_bins
        try:
            now = shown.trained if bins >= most else self.network.explain(shown.clip, int(bins))
        except AtfrError as error:
            return [result.notice_html("This does not work", str(error)), "", ""]
        return self._parts(now, shown.trained, int(bins))

    def _sample(self, index: Any) -> CentredClip:
        sample = self.samples[int(index)]
        return replace(centred_clip(sample.path, self.network.task.spec), path=Path(f"sample: {sample.name}"))

    def _answer(self, clip_of: Callable[[], CentredClip]) -> list[Any]:
        try:
            clip = clip_of()
            trained = self.network.explain(clip)
        except AtfrError as error:
            title = "No video that can be read" if isinstance(error, VideoError) else "This is not taken"
            return [None, result.notice_html(title, str(error)), gr.Slider(visible=False), "", ""]
        most = self.network.most_bins
        answer, change, details = self._parts(trained, trained, most)
        slider = gr.Slider(value=most, visible=True) if most > 1 else gr.Slider(visible=False)
        return [Shown(clip, trained), answer, slider, change, details]

    def _parts(self, now: Explanation, trained: Explanation, bins: int) -> list[str]:
        most = self.network.most_bins
        change = result.change_html(now, trained, bins, most) if most > 1 else ""
        return [result.answer_html(now), change, result.details_html(now)]


def head_html(network: SharedNetwork, title: str) -> str:
    """Return the heading: which network this is, and what it knows."""
    labels, spec = network.task.labels, network.task.spec
    named = ", ".join(labels[:NAMED]) + (f", ... ({len(labels)} classes)" if len(labels) > NAMED else "")
    return (
        f'<div class="atfr head"><h1>{escaped(title)}</h1><p>This {network.kind} reads {spec.frames} frames of '
        f"{spec.size} x {spec.size} pixels from the middle of a video, and tells apart: {escaped(named)}.</p></div>"
    )


def samples_html(network: SharedNetwork, generated: bool) -> str:
    """Return what is to be known of the samples."""
    if not generated:
        return ""
    text = "Generated videos, named by the motion in them; none is of the training set of atfr quickstart."
    if not are_of(network.task.labels):
        text = (
            "Generated videos of a moving shape. This network knows other classes, so its answer to them says nothing; "
            "what it merges does. Start the page with --examples FOLDER to try it on videos of your own."
        )
    return small_html(text)


def small_html(text: str) -> str:
    """Return a remark."""
    return f'<div class="atfr"><p class="soft">{escaped(text)}</p></div>'


def theme() -> gr.themes.Base:
    """Return colours and fonts; the fonts are the system's, so that none is loaded from anywhere."""
    fonts = [gr.themes.Font("system-ui"), gr.themes.Font("sans-serif")]
    mono = [gr.themes.Font("monospace")]
    look = gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=fonts, font_mono=mono)
    return look.set(slider_color="#0072b2", slider_color_dark="#56b4e9")


def head() -> str:
    """Return the style sheet: that of the page of `atfr explain`, within our own parts and in this page's colours."""
    css = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return f"<style>.atfr {{ {PARTS_CSS} }}\n{css}</style>"
