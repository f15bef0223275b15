"""Put samplers into any nn.Module, change it, and take it out again, without renaming one parameter of the network."""

from atfr.adapt.surgery import AdaptedSite, AdaptReport, adapt_, adaptation, restore_, set_num_bins_
from atfr.adapt.together import BatchCheck, check

__all__ = ["AdaptReport", "AdaptedSite", "BatchCheck", "adapt_", "adaptation", "check", "restore_", "set_num_bins_"]
