"""A network that several users share: one at a time, each with bins of their own."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from atfr.adapt.trace import site_names
from atfr.evaluate.task import Task
from atfr.measure.saving import maps_that_come
from atfr.models import VideoModel
from atfr.samplers import WITH_BINS, ChangeGuidedSampling
from atfr.viz import CentredClip, Explanation, explain

TIMING_S = 1.0
"""A slider that is moved should be answered soon: fewer rounds are timed than on the page of `atfr explain`."""


class SharedNetwork:
    """Explains clips of several users, one after the other.

    The number of bins belongs to a request: it is set on the network for this one pass, and taken back.
    """

    def __init__(self, model: VideoModel, task: Task) -> None:
        self.model, self.task = model, task
        self._turn = threading.Lock()
        layers = site_names(model).items()
        self._layers: dict[str, Any] = {site: layer for site, layer in layers if isinstance(layer, WITH_BINS)}
        maps = maps_that_come(model, task.clip_shape) if self._layers else {}
        self._trained = {site: layer.num_bins for site, layer in self._layers.items()}
        self._own = {site: layer.num_bins or maps[site] for site, layer in self._layers.items()}

    @property
    def kind(self) -> str:
        """What kind of network this is."""
        places = " and ".join(site_names(self.model))
        if self._layers:
            guided = all(isinstance(layer, ChangeGuidedSampling) for layer in self._layers.values())
            return f"network with {'change-guided sampling' if guided else 'SGS'} at {places}"
        return f"network with a control at {places}, in the place of SGS," if places else "static network"

    @property
    def most_bins(self) -> int:
        """The bins of the layer that has most, as trained; 0 where nothing is grouped by similarity."""
        return max((bins if isinstance(bins, int) else max(bins) for bins in self._own.values()), default=0)

    def explain(self, clip: CentredClip, bins: int | None = None) -> Explanation:
        """Explain a clip with so many bins; a layer (a pathway of SlowFast) that has fewer keeps its own.

        Raises:
            InputError: the number of bins is below 1.
        """
        with self._turn, self._with_bins(bins):
            return explain(self.model, clip, self.task, timing_s=TIMING_S)

    @contextmanager
    def _with_bins(self, bins: int | None) -> Iterator[None]:
        """Give every layer so many bins while the context is open."""
        try:
            if bins is not None:
                for site, layer in self._layers.items():
                    own = self._own[site]
                    fewer = min(own, bins) if isinstance(own, int) else tuple(min(each, bins) for each in own)
                    layer.num_bins = layer.checked_bins(fewer)
            yield
        finally:
            for site, layer in self._layers.items():
                layer.num_bins = self._trained[site]
