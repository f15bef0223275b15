"""Adapted networks outside of PyTorch's eager mode: split at SGS, exported as a bundle, run by an inference runtime."""

from atfr.runtime.bundle import Answer, Bundle, load_bundle
from atfr.runtime.export import export_bundle

__all__ = ["Answer", "Bundle", "export_bundle", "load_bundle"]
