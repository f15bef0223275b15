"""3D CNNs with adaptive temporal feature resolutions (Fayyaz et al., CVPR 2021).

Names load on first use, so that `import atfr` and `atfr --help` do not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atfr.adapt import adapt_ as adapt_
    from atfr.adapt import check as check
    from atfr.adapt import restore_ as restore_
    from atfr.adapt import set_num_bins_ as set_num_bins_
    from atfr.adapt.calibrate import calibrate_ as calibrate_
    from atfr.adapt.cost import clip_cost as clip_cost
    from atfr.adapt.trace import record as record
    from atfr.comparison import compare as compare
    from atfr.kernels.allocator import freed_memory_kept as freed_memory_kept
    from atfr.models import create_model as create_model
    from atfr.models import from_pretrained as from_pretrained
    from atfr.models import list_models as list_models
    from atfr.models.inflate import inflate as inflate
    from atfr.optimize import compile as compile
    from atfr.optimize import optimize_for_inference as optimize_for_inference
    from atfr.ragged import PackedClips as PackedClips
    from atfr.runtime import export_bundle as export_bundle
    from atfr.runtime import load_bundle as load_bundle
    from atfr.samplers import ChangeGuidedSampling as ChangeGuidedSampling
    from atfr.samplers import SimilarityGuidedSampling as SimilarityGuidedSampling
    from atfr.weights.load import load_weights as load_weights

__version__ = "0.1.0"

_NAMES = {
    "adapt": "adapt_ check restore_ set_num_bins_",
    "adapt.calibrate": "calibrate_",
    "adapt.cost": "clip_cost",
    "adapt.trace": "record",
    "comparison": "compare",
    "kernels.allocator": "freed_memory_kept",
    "models": "create_model from_pretrained list_models",
    "models.inflate": "inflate",
    "optimize": "compile optimize_for_inference",
    "ragged": "PackedClips",
    "runtime": "export_bundle load_bundle",
    "samplers": "ChangeGuidedSampling SimilarityGuidedSampling",
    "weights.load": "load_weights",
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'atfr' has no attribute {name!r}")
    return getattr(importlib.import_module(f"atfr.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
