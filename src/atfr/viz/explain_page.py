"""The page of one explained video: every figure with what it shows, in words and in numbers."""

from atfr.viz import figures, maps
from atfr.viz.explain import Explanation
from atfr.viz.figures import brief, frame_bins
from atfr.viz.page import Section, Table, page
from atfr.viz.watch import CHANGE, Merging
from atfr.words import counted


def explanation_page(explanation: Explanation) -> str:
    """Return the explanation of a video as one HTML page that needs nothing else."""
    sections = [strip(explanation)]
    if explanation.merged:
        if any(site.coordinates[0] for site in explanation.watched.sites.values()):
            sections.append(magnitudes(explanation))
        sections += [flow(explanation), weights(explanation), feature_maps(explanation)]
    sections += [activation(explanation), top_classes(explanation)]
    if explanation.merged:
        sections.append(saving(explanation))
    sections.append(conditions(explanation))
    return page(explanation.prediction.path.name, lead(explanation), facts(explanation), sections)


def lead(explanation: Explanation) -> str:
    """Return the answer and the saving in two sentences."""
    prediction = explanation.prediction
    ((label, probability),) = prediction.top(1)
    answer = f"{explanation.model} says: {label}, with {100 * probability:.1f} %."
    if not explanation.merged:
        return f"{answer} The network is static: it keeps the temporal resolution of every clip."
    kept = " and ".join(
        f"{one.active_bins} of {counted(len(one.slots), 'map')} at {site}" for site, one in explanation.merged.items()
    )
    spent = change(prediction.total_gflops, prediction.total_static_gflops)
    return f"{answer} It kept {kept}, and spent {spent} GFLOPs than without the sampler."


def change(now: float, before: float) -> str:
    """Return how much less (or more) one number is than another, in words."""
    share = 100 * (1 - now / before)
    return f"{abs(share):.0f} % {'fewer' if share >= 0 else 'more'}"


def facts(explanation: Explanation) -> list[tuple[str, str]]:
    """Return what is to be seen at a glance."""
    prediction = explanation.prediction
    ((label, probability),) = prediction.top(1)
    rows = [("answer", label), ("probability", f"{100 * probability:.1f} %")]
    merged = explanation.merged
    rows += [(f"maps kept at {site}", f"{one.active_bins} of {len(one.slots)}") for site, one in merged.items()]
    if not merged:
        return [*rows, ("GFLOPs", f"{brief(prediction.total_gflops)}")]  # its one pass was cold: no time to show
    rows.append(("GFLOPs", f"{brief(prediction.total_gflops)} (static {brief(prediction.total_static_gflops)})"))
    if timing := explanation.timing:
        rows.append(("ms", f"{brief(timing.ms('adaptive').median)} (static {brief(timing.ms('static').median)})"))
    return rows


def strip(explanation: Explanation) -> Section:
    """The frames, by bin."""
    figure = figures.frame_strip(explanation.watched, explanation.frames, numbers=explanation.numbers)
    text = [
        f"The {len(explanation.frames)} frames that the network saw, of the video's {explanation.video_frames}, with "
        "their numbers in the video.",
    ]
    if explanation.merged:
        text.append("Frames of one colour and number share a bin: the network goes on with one map for all of them.")
        if any((one.slots < 0).any() for one in explanation.merged.values()):
            text.append("Grey frames were dropped.")
    columns, rows = ["frame"], [[number] for number in explanation.numbers]
    told = []
    for site, one in explanation.merged.items():
        slots = frame_bins(explanation.watched, len(explanation.frames), site)
        columns.append(f"bin at {site}")
        for row, slot in zip(rows, slots, strict=True):
            row.append("dropped" if slot < 0 else one.bins[slot])  # type: ignore[arg-type]
        told.append(f"At {site}: {listed(explanation.numbers, slots, one.bins)}.")
    alt = " ".join([f"The frames {explanation.numbers[0]} to {explanation.numbers[-1]} of the video.", *told])
    return Section("What the network saw", text, figure, alt, Table(columns, rows))


def listed(numbers: tuple[int, ...], slots: list[int], bins: list[int]) -> str:
    """Return which frames share which bin, in words."""
    parts = []
    for slot in sorted(set(slots) - {-1}):
        frames = [str(number) for number, own in zip(numbers, slots, strict=True) if own == slot]
        parts.append(f"bin {bins[slot]} has the frames {', '.join(frames)}")
    if dropped := [str(number) for number, own in zip(numbers, slots, strict=True) if own < 0]:
        parts.append(f"dropped are {', '.join(dropped)}")
    return "; ".join(parts)


def magnitudes(explanation: Explanation) -> Section:
    """What bins are made of."""
    columns, rows, told = ["site", "coordinate", "map", "value"], [], []
    for site, maps_of in explanation.watched.sites.items():
        for one in maps_of.coordinates[0]:
            values = one.values.tolist()
            rows += [[site, one.name, step, f"{value:.4g}"] for step, value in enumerate(values)]
            low, high = values.index(min(values)), values.index(max(values))
            told.append(
                f"{one.name} at {site}: from {values[low]:.3g} at map {low} to {values[high]:.3g} at map {high}."
            )
    text = [
        "What the sampler compares maps by: maps between the same two lines fall into one bin. The vertical axis shows "
        "the range of the values and need not begin at 0; numbers are bins."
    ]
    guided = any(one.name == CHANGE for maps in explanation.watched.sites.values() for one in maps.coordinates[0])
    if guided:
        text.append(
            "The line rises where the clip changes by more than noise; of each bin the middle map is kept (a point),"
            " the others are dropped (crosses)."
        )
    return Section(
        "Why: change over time" if guided else "Why: similarity over time",
        text,
        figures.magnitudes(explanation.watched),
        "Over time, with lines between bins. " + " ".join(told),
        Table(columns, rows),
    )


def flow(explanation: Explanation) -> Section:
    """Which map goes where."""
    told = [
        f"At {site}, {counted(len(one.slots), 'map becomes', 'maps become')} {one.active_bins}: "
        + "; ".join(f"bin {number} takes {members(one, slot)}" for slot, number in enumerate(one.bins))
        + f"; {int((one.slots < 0).sum())} dropped."
        for site, one in explanation.merged.items()
    ]
    text = ["Above the maps that come in, in order of time; below the bins that are left. Crosses are dropped maps."]
    return Section("Where maps go", text, figures.flow(explanation.watched.trace), " ".join(told))


def members(one: Merging, slot: int) -> str:
    """Return the maps of a bin in words."""
    steps = (one.slots == slot).nonzero()[:, 0].tolist()
    return f"map{'s' * (len(steps) > 1)} {', '.join(map(str, steps))}"


def weights(explanation: Explanation) -> Section:
    """With which weight."""
    rows = [
        [site, step, "dropped" if slot < 0 else one.bins[slot], f"{weight:.4g}"]
        for site, one in explanation.merged.items()
        for step, (slot, weight) in enumerate(zip(one.slots.tolist(), one.weights.tolist(), strict=True))
    ]
    told = [
        f"At {site}, weights of the maps that are kept range from {one.weights[one.slots >= 0].min():.2g} to "
        f"{one.weights.max():.2g}."
        for site, one in explanation.merged.items()
    ]
    return Section(
        "With which weight",
        ["How much each map (across) counts in its bin (down)."],
        figures.weights(explanation.watched.trace),
        "A heat map of weights. " + " ".join(told),
        Table(["site", "map", "bin", "weight"], rows),
    )


def feature_maps(explanation: Explanation) -> Section:
    """What is merged."""
    shapes = [
        f"{maps_of.shape[1]} maps of {' x '.join(map(str, maps_of.shape[2:]))} pixels and {maps_of.shape[0]} channels "
        f"come into {site}'s sampling, {explanation.merged[site].active_bins} come out"
        for site, maps_of in ((site, watched.before[0]) for site, watched in explanation.watched.sites.items())
    ]
    return Section(
        "Feature maps before and after",
        [
            "The channels that vary most, of some maps spread over the clip, and what they were merged into. Grey "
            "values are a row's own."
        ],
        maps.feature_maps(explanation.watched, explanation.frames),
        "Rows of grey feature maps below the frames they come from, and the merged maps. " + "; ".join(shapes) + ".",
    )


def activation(explanation: Explanation) -> Section:
    """What speaks for the class."""
    found = explanation.activation
    by_frame = found.by_frame.tolist()
    most = sorted(range(len(by_frame)), key=by_frame.__getitem__, reverse=True)[:3]
    alt = f"Grey frames, bright where they speak for {explanation.label}. " + (
        f"Most of it comes from the frames {', '.join(str(explanation.numbers[frame]) for frame in most)}."
        if max(by_frame) > 0
        else f"No frame as a whole speaks for {explanation.label}."
    )
    text = [f"Places that speak for {explanation.label}: gradient times map at the last stage."]
    if explanation.watched.sites:
        text.append(
            "Behind the sampler a map may belong to several frames; it goes back to them in the shares of their "
            "weights, so a dropped frame is dark."
        )
    rows = [[number, f"{value:.4g}"] for number, value in zip(explanation.numbers, by_frame, strict=True)]
    return Section(
        f"What speaks for {explanation.label}",
        text,
        maps.activation_maps(found, explanation.frames, numbers=explanation.numbers),
        alt,
        Table(["frame", f"contribution to the logit of {explanation.label}"], rows),
    )


def top_classes(explanation: Explanation) -> Section:
    """The answer."""
    top = explanation.prediction.top()
    alt = "; ".join(f"{label} {100 * probability:.1f} %" for label, probability in top)
    return Section("The answer", [], figures.top_classes(explanation.prediction), f"Most probable classes: {alt}.")


def saving(explanation: Explanation) -> Section:
    """What it saved."""
    prediction, timing = explanation.prediction, explanation.timing
    alt = f"GFLOPs: {brief(prediction.total_gflops)}, static {brief(prediction.total_static_gflops)}."
    text = ["GFLOPs are multiply-adds / 1e9 of this clip. Static is the same network with the sampler taken out."]
    if timing is not None:
        alt += f" Milliseconds: {brief(timing.ms('adaptive').median)}, static {brief(timing.ms('static').median)}."
        text.append(f"{explanation.speedup:.2f} x as fast as static. {how_timed(explanation)}")
    return Section("What it saved", text, figures.saving(prediction, timing), alt)


def how_timed(explanation: Explanation) -> str:
    """Return the conditions of the times in a sentence."""
    assert explanation.timing
    c = explanation.conditions
    hardware = c["hardware"]
    return (
        f"Time: forward pass of one clip in eager mode, both in turns, warm, median of {explanation.timing.rounds} "
        f"rounds; {hardware.get('gpu', hardware['cpu'])}, {counted(c['threads'], 'thread')}, "
        f"{hardware['cpu_capability']}, torch {c['versions']['torch']}."
    )


def conditions(explanation: Explanation) -> Section:
    """How this was made."""
    text = [
        f"Network: {explanation.model}. The clip in the middle of the video, its centre cropped, as atfr predict takes "
        f"it. Frames, maps and bins count from 0."
    ]
    if explanation.prediction.warning:
        text.append(f"The file: {explanation.prediction.warning}")
    return Section("How this was made", text)
