"""torch.compile of the optimised stages of X3D-S, with frozen weights and a dynamic time axis: does it pay?

    python benchmarks/compiled.py

One clip of 13 x 160 x 160; the stages up to res2, then those behind it at several A, compiled once for all of them. One
thread, processor time, the least of 25 runs: a busy machine changes it little. Compiling takes minutes.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._inductor import config

import atfr
from atfr.measure.machine import conditions
from atfr.optimize.conv import FORMAT

RUNS = 25
ACTIVE_BINS = (6, 2, 9, 13)


def least_ms(run: Callable[[], object]) -> float:
    """Return the least milliseconds of processor time."""
    found = []
    for _ in range(RUNS + 2):
        start_s = time.process_time()
        run()
        found.append(1000 * (time.process_time() - start_s))
    return min(found)


def compare(name: str, stages: nn.Module, compiled: Callable[[Tensor], Tensor], maps: Tensor) -> None:
    """Print the time of stages as they are and compiled, in turns."""
    start_s = time.perf_counter()
    off = (compiled(maps) - stages(maps)).abs().max() / stages(maps).abs().max()
    waited_s = time.perf_counter() - start_s
    plain, ours = zip(
        *[(least_ms(lambda: stages(maps)), least_ms(lambda: compiled(maps))) for _ in range(2)], strict=True
    )
    print(f"{name}: {min(plain):.1f} ms, compiled {min(ours):.1f} ms; first call {waited_s:.0f} s, off by {off:.0e}")


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config.freezing = True
    blocks = atfr.optimize_for_inference(atfr.create_model("x3d_s")).blocks
    early, late = nn.Sequential(*blocks[:2]), nn.Sequential(*blocks[2:])
    clip = torch.randn(1, 3, 13, 160, 160).contiguous(memory_format=FORMAT)
    print(conditions())
    with torch.no_grad():
        compiled = torch.compile(late, dynamic=True)
        for kept in ACTIVE_BINS:
            maps = early(clip)[:, :, :kept].contiguous(memory_format=FORMAT)
            torch._dynamo.mark_dynamic(maps, 2)
            compare(f"behind res2, A = {kept}", late, compiled, maps)
        compare("up to res2", early, torch.compile(early), clip)
        print(f"compiled {torch._dynamo.utils.counters['stats']['unique_graphs']} graphs")


if __name__ == "__main__":
    main()
