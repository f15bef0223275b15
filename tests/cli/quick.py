"""Options of a training that takes no time, and what is asked of all that is printed."""

from rich.cells import cell_len

CLIP = ["--clip.frames", "4", "--clip.size", "32", "--clip.resize", "32", "--clip.jitter", "[32,36]"]
NATURAL = [*CLIP, "--clip.flip", "false", "--batch_size", "4", "--num_workers", "0", "--warmup_epochs", "1"]
QUICK = ["--model", "resnet3d_18", *NATURAL]


def check_width(text: str) -> None:
    """All fits but for lines to copy, which hold a path."""
    lines = [line for line in text.splitlines() if not line.startswith(("Written:", "Try it:"))]
    assert max(map(cell_len, lines)) <= 80
