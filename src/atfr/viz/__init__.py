"""See it: what SGS merges in one video, what a test found; figures, and pages that hold them all.

`watch` records a network at work; each figure function takes what came out, or the result of a test, and returns a
matplotlib figure.
"""

from atfr.video.transforms import CentredClip, centred_clip
from atfr.viz.activation import Activation, class_activation
from atfr.viz.explain import Explanation, explain
from atfr.viz.explain_page import explanation_page
from atfr.viz.figures import flow, frame_strip, magnitudes, saving, top_classes, weights
from atfr.viz.maps import activation_maps, feature_maps
from atfr.viz.report import Report, report
from atfr.viz.report_page import report_page
from atfr.viz.run_figures import (
    accuracy_against_gflops,
    active_bins,
    class_resolutions,
    confusion_matrix,
    correctness,
    dropped,
    most_confused,
    motion,
    reliability,
)
from atfr.viz.watch import Watched, watch

__all__ = [
    "Activation",
    "CentredClip",
    "Explanation",
    "Report",
    "Watched",
    "accuracy_against_gflops",
    "activation_maps",
    "active_bins",
    "centred_clip",
    "class_activation",
    "class_resolutions",
    "confusion_matrix",
    "correctness",
    "dropped",
    "explain",
    "explanation_page",
    "feature_maps",
    "flow",
    "frame_strip",
    "magnitudes",
    "most_confused",
    "motion",
    "reliability",
    "report",
    "report_page",
    "saving",
    "top_classes",
    "watch",
    "weights",
]
