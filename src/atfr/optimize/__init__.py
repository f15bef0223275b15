"""Networks made faster: optimize_for_inference, fewer and larger operations; compile, under torch.compile."""

from atfr.optimize.compiled import compile
from atfr.optimize.network import optimize_for_inference

__all__ = ["compile", "optimize_for_inference"]
