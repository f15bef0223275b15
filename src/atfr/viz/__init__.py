"""See it: what SGS merges in one video, when, and what that saves; figures, and a page that holds them all.

`watch` records a network at work; each figure function takes what came out and returns a matplotlib figure.
"""

from atfr.viz.activation import Activation, class_activation
from atfr.viz.explain import CentredClip, Explanation, centred_clip, explain
from atfr.viz.explain_page import explanation_page
from atfr.viz.figures import flow, frame_strip, magnitudes, saving, top_classes, weights
from atfr.viz.maps import activation_maps, feature_maps
from atfr.viz.timing import Timing, in_turns
from atfr.viz.watch import Watched, watch

__all__ = [
    "Activation",
    "CentredClip",
    "Explanation",
    "Timing",
    "Watched",
    "activation_maps",
    "centred_clip",
    "class_activation",
    "explain",
    "explanation_page",
    "feature_maps",
    "flow",
    "frame_strip",
    "in_turns",
    "magnitudes",
    "saving",
    "top_classes",
    "watch",
    "weights",
]
