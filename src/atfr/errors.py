"""The exceptions of atfr: one tree, each class one kind of trouble the caller can act on.

Every message says what was expected, what came, where, and what to do. The command line prints the message as one
line and exits with 2.
"""


class AtfrError(Exception):
    """Any error that atfr raises on purpose."""


class InputError(AtfrError, ValueError):
    """An argument or a tensor does not have the form that was asked for."""


class UnsupportedOperationError(AtfrError, NotImplementedError):
    """An operation would mix the clips of a packed batch, or is not known to keep them apart."""


class AdaptError(AtfrError, ValueError):
    """A network cannot be adapted, restored or changed as asked."""


class UnsupportedNetworkError(AdaptError, UnsupportedOperationError):
    """A part of a network cannot work behind a sampler: what it does would mix clips, or needs more maps than one."""


class VideoError(AtfrError, ValueError):
    """A file cannot be decoded as a video."""


class VideoTooLongError(VideoError):
    """The frames of a video do not fit in the memory that they may take."""


class DataError(AtfrError, ValueError):
    """A data set is missing, empty or inconsistent."""


class CheckpointError(AtfrError, ValueError):
    """A checkpoint is missing, damaged, unsafe to load, or of another shape than the network."""


class BundleError(AtfrError, ValueError):
    """A bundle cannot be written, is missing or damaged, or its runtime is not installed."""
