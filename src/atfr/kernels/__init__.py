"""What computes differently from PyTorch, beside plain PyTorch that does the same: `conv3d` (convolutions on CPUs)."""
