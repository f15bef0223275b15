"""The Triton kernels of `ragged_depthwise`; imported only where Triton is.

Maps lie S H W C. A program takes some pixels of one map and some channels, and adds up over the taps in float32. How
many channels there are is told as so many units of a size that the compiler knows, so that it loads a unit at once.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl


@triton.jit
def gather(
    maps, weight, bias, output, begins, ends,
    height, width, height_out, width_out, units,
    UNIT: tl.constexpr, KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PT: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    BACK: tl.constexpr, BIAS: tl.constexpr, ACTIVATION: tl.constexpr,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Convolve; BACK: each pixel gathers from the results that it was part of, which lie `height` x `width`."""
    channels = units * UNIT
    per_map = tl.cdiv(height_out * width_out, PIXELS)
    s = tl.program_id(0) // per_map
    pixel = (tl.program_id(0) % per_map) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    y, x = pixel // width_out, pixel % width_out
    real = (channel < channels)[None, :]
    there = (pixel < height_out * width_out)[:, None] & real
    begin, end = tl.load(begins + s), tl.load(ends + s)
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for kt in range(KT):
        source = s + (PT - kt if BACK else kt - PT)
        if (source >= begin) & (source < end):
            seen_map = maps + source.to(tl.int64) * height * width * channels
            taps = weight + kt * KH * KW * channels
            for kh in tl.static_range(KH):
                for kw in tl.static_range(KW):
                    if BACK:
                        yy, xx = y + PH - kh, x + PW - kw
                        hit = (yy >= 0) & (xx >= 0) & (yy % SH == 0) & (xx % SW == 0)
                        yy, xx = yy // SH, xx // SW
                    else:
                        yy, xx = y * SH + kh - PH, x * SW + kw - PW
                        hit = (yy >= 0) & (xx >= 0)
                    hit = (hit & (yy < height) & (xx < width))[:, None] & there
                    place = (yy * width + xx)[:, None] * channels + channel[None, :]
                    seen = tl.load(seen_map + place, mask=hit, other=0.0)
                    tap = tl.load(taps + (kh * KW + kw) * channels + channel[None, :], mask=real, other=0.0)
                    total += seen.to(tl.float32) * tap.to(tl.float32)
    if BIAS:
        total += tl.load(bias + channel[None, :], mask=real, other=0.0).to(tl.float32)
    if ACTIVATION == "relu":
        total = tl.where(total < 0, 0.0, total)  # NaN stays
    if ACTIVATION == "relu6":
        total = tl.where(total < 0, 0.0, tl.where(total > 6, 6.0, total))
    if ACTIVATION == "silu":
        total = total * tl.sigmoid(total)
    made = output + s.to(tl.int64) * height_out * width_out * channels
    place = pixel[:, None] * channels + channel[None, :]
    tl.store(made + place, total.to(output.dtype.element_ty), mask=there)


@triton.jit
def weight_gradient(
    maps, gradient, sums, begins, ends, rows,
    height, width, height_out, width_out, units,
    UNIT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PT: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    STEPS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Add up, over a part of all pixels of the result, gradients times what one tap saw."""
    channels = units * UNIT
    tap = tl.program_id(0)
    kt, kh, kw = tap // (KH * KW), tap // KW % KH, tap % KW
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    real = (channel < channels)[None, :]
    first = tl.program_id(2).to(tl.int64) * STEPS * PIXELS
    of_part, of_maps = gradient + first * channels, tl.arange(0, PIXELS)
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for step in range(STEPS):
        row = first + step * PIXELS + of_maps
        there = row < rows
        s = (row // (height_out * width_out)).to(tl.int32)
        pixel = (row % (height_out * width_out)).to(tl.int32)
        yy, xx = pixel // width_out * SH + kh - PH, pixel % width_out * SW + kw - PW
        source = s + kt - PT
        begin, end = tl.load(begins + s, mask=there, other=0), tl.load(ends + s, mask=there, other=0)
        hit = there & (source >= begin) & (source < end) & (yy >= 0) & (yy < height) & (xx >= 0) & (xx < width)
        place = ((source.to(tl.int64) * height + yy) * width + xx)[:, None] * channels + channel[None, :]
        seen = tl.load(maps + place, mask=hit[:, None] & real, other=0.0)
        place = (step * PIXELS + of_maps)[:, None] * channels + channel[None, :]
        part = tl.load(of_part + place, mask=hit[:, None] & real, other=0.0)
        total += seen.to(tl.float32) * part.to(tl.float32)
    taps = tl.num_programs(0)
    place = (tl.program_id(2) * taps + tap) * channels + channel
    tl.store(sums + place, tl.sum(total, axis=0), mask=channel < channels)
