"""HTML of what a network made of a clip, and of what other bins change; most is of the page of `atfr explain`."""

import base64
import io

from PIL import Image

from atfr.viz import Explanation, explain_page
from atfr.viz.figures import brief
from atfr.viz.page import Table, escaped, facts_html, section_html, table_html
from atfr.words import counted

PLAYED_S = 5.0
"""A moving picture stops by itself after so many seconds (WCAG 2.2, 2.2.2)."""
FRAME_MS = 100


def answer_html(now: Explanation) -> str:
    """Return the answer with the clip, played slowly, and what it cost."""
    ((label, _),) = now.prediction.top(1)
    warning = f'<p class="soft">{escaped(now.prediction.warning)}</p>' if now.prediction.warning else ""
    return (
        f'<div class="atfr answer" role="status"><img src="{moving_picture(now)}" '
        f'alt="The {len(now.frames)} frames that the network saw, one after the other.">'
        f"<div><p class='name'>{escaped(now.prediction.path)}</p><h2>{escaped(label)}</h2>"
        f"<p>{escaped(explain_page.lead(now))}</p>{warning}</div></div>"
        f'<div class="atfr">{facts_html(explain_page.facts(now)[1:])}</div>'
    )


def moving_picture(now: Explanation) -> str:
    """Return the frames that the network saw as the address of an animated picture that holds its own data."""
    first, *rest = [Image.fromarray(frame) for frame in now.frames.numpy()]
    rounds = max(1, int(1000 * PLAYED_S / (FRAME_MS * len(now.frames))))
    out = io.BytesIO()
    first.save(out, "WEBP", save_all=True, append_images=rest, duration=FRAME_MS, loop=rounds, quality=80)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"


def change_html(now: Explanation, trained: Explanation, bins: int, most: int) -> str:
    """Return what a number of bins changes: beside the network as it was trained, and the same without the sampler."""
    names = [f"{counted(most, 'bin')} (as trained)", *([f"{counted(bins, 'bin')}"] if bins < most else [])]
    rows = [["without the sampler", "", "", *costs(trained, "static")]]
    for name, one in zip(names, (trained, now), strict=False):
        ((label, share),) = one.prediction.top(1)
        kept = ", ".join(f"{m.active_bins} of {len(m.slots)}" for m in one.merged.values())
        rows.append([name, f"{label} {100 * share:.1f} %", kept, *costs(one, "adaptive")])
    table = table_html(Table(["", "answer", "maps kept", "GFLOPs", "ms"], rows, row_headings=True), "what bins change")
    return f'<div class="atfr change"><p>{escaped(told(now, trained, bins, most))}</p>{table}</div>'


def costs(one: Explanation, name: str) -> list[str]:
    """Return the GFLOPs and the milliseconds of the clip in the network with or without the sampler."""
    gflops = one.prediction.total_gflops if name == "adaptive" else one.prediction.total_static_gflops
    return [brief(gflops), brief(one.timing.ms(name).median) if one.timing else ""]


def told(now: Explanation, trained: Explanation, bins: int, most: int) -> str:
    """Return what a number of bins changes in a sentence."""
    if bins == most:
        return "Move the slider: with fewer bins more maps share one, and the network spends less."
    ((label, share),) = now.prediction.top(1)
    ((before, share_before),) = trained.prediction.top(1)
    answer = (
        f"still {label}, with {100 * share:.1f} instead of {100 * share_before:.1f} %"
        if label == before
        else f"{label} ({100 * share:.1f} %) instead of {before} ({100 * share_before:.1f} %)"
    )
    spent = explain_page.change(now.prediction.total_gflops, trained.prediction.total_gflops)
    bill = "as many GFLOPs as" if spent.startswith("0 ") else f"{spent} GFLOPs than"
    return f"With {bins} of {counted(most, 'bin')}: {answer}, for {bill} as trained."


def details_html(now: Explanation) -> str:
    """Return the figures of the page of `atfr explain` that say most at a glance."""
    sections = [explain_page.strip(now), explain_page.top_classes(now)]
    if now.merged:
        sections.append(explain_page.saving(now))
        if any(site.coordinates[0] for site in now.watched.sites.values()):
            sections.append(explain_page.magnitudes(now))
        sections.append(explain_page.flow(now))
    sections.append(explain_page.activation(now))
    html = "\n".join(section_html(section, number) for number, section in enumerate(sections))
    return f'<div class="atfr sections">{html}</div>'


def notice_html(title: str, text: str) -> str:
    """Return why there is no answer."""
    return f'<div class="atfr notice" role="alert"><h2>{escaped(title)}</h2><p>{escaped(text)}</p></div>'
