"""Networks made ready for inference: fewer and larger operations, the same logits, packed clips and records."""

from atfr.optimize.network import optimize_for_inference

__all__ = ["optimize_for_inference"]
