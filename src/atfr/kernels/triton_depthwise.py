"""The Triton kernels of `ragged_depthwise`; imported only where Triton is.

Maps lie S H W C. A program takes some pixels of one map and some channels, and adds up over the taps in float32.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl


@triton.jit
def gather(
    maps, weight, bias, output, begins, ends,
    height, width, height_out, width_out, channels,
    KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PT: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    BACK: tl.constexpr, BIAS: tl.constexpr, ACTIVATION: tl.constexpr,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Convolve; BACK: each pixel gathers from the results that it was part of, which lie `height` x `width`."""
    per_map = tl.cdiv(height_out * width_out, PIXELS)
    s = tl.program_id(0) // per_map
    pixel = (tl.program_id(0) % per_map) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    y, x = pixel // width_out, pixel % width_out
    there = (pixel < height_out * width_out)[:, None] & (channel < channels)[None, :]
    begin, end = tl.load(begins + s), tl.load(ends + s)
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for kt in tl.static_range(KT):
        source = s + (PT - kt if BACK else kt - PT)
        inside = (source >= begin) & (source < end)
        for kh in tl.static_range(KH):
            for kw in tl.static_range(KW):
                if BACK:
                    yy, xx = y + PH - kh, x + PW - kw
                    hit = (yy >= 0) & (xx >= 0) & (yy % SH == 0) & (xx % SW == 0)
                    yy, xx = yy // SH, xx // SW
                else:
                    yy, xx = y * SH + kh - PH, x * SW + kw - PW
                    hit = (yy >= 0) & (xx >= 0)
                hit = (hit & (yy < height) & (xx < width) & inside)[:, None] & there
                row = (source.to(tl.int64) * height + yy) * width + xx
                seen = tl.load(maps + row[:, None] * channels + channel[None, :], mask=hit, other=0.0)
                tap = tl.load(
                    weight + ((kt * KH + kh) * KW + kw) * channels + channel, mask=channel < channels, other=0.0
                )
                total += seen.to(tl.float32) * tap.to(tl.float32)[None, :]
    if BIAS:
        total += tl.load(bias + channel, mask=channel < channels, other=0.0).to(tl.float32)[None, :]
    if ACTIVATION == "relu":
        total = tl.where(total < 0, 0.0, total)  # NaN stays
    if ACTIVATION == "relu6":
        total = tl.where(total < 0, 0.0, tl.where(total > 6, 6.0, total))
    if ACTIVATION == "silu":
        total = total * tl.sigmoid(total)
    row = s.to(tl.int64) * height_out * width_out + pixel
    tl.store(output + row[:, None] * channels + channel[None, :], total.to(output.dtype.element_ty), mask=there)


@triton.jit
def weight_gradient(
    maps, gradient, sums, begins, ends, rows, rows_of_part,
    height, width, height_out, width_out, channels,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PT: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Add up, over a part of all pixels of the result, gradients times what one tap saw."""
    tap = tl.program_id(0)
    kt, kh, kw = tap // (KH * KW), tap // KW % KH, tap % KW
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    first = tl.program_id(2).to(tl.int64) * rows_of_part
    total = tl.zeros((CHANNELS,), tl.float32)
    for start in range(0, rows_of_part, PIXELS):
        row = first + start + tl.arange(0, PIXELS)
        there = (row < rows) & (start + tl.arange(0, PIXELS) < rows_of_part)
        s = row // (height_out * width_out)
        yy = row // width_out % height_out * SH + kh - PH
        xx = row % width_out * SW + kw - PW
        source = s + kt - PT
        begin, end = tl.load(begins + s, mask=there, other=0), tl.load(ends + s, mask=there, other=0)
        hit = there & (source >= begin) & (source < end) & (yy >= 0) & (yy < height) & (xx >= 0) & (xx < width)
        mask = hit[:, None] & (channel < channels)[None, :]
        seen = tl.load(
            maps + ((source * height + yy) * width + xx)[:, None] * channels + channel[None, :], mask=mask, other=0.0
        )
        part = tl.load(gradient + row[:, None] * channels + channel[None, :], mask=mask, other=0.0)
        total += tl.sum(seen.to(tl.float32) * part.to(tl.float32), axis=0)
    taps = tl.num_programs(0)
    tl.store(sums + (tl.program_id(2) * taps + tap) * channels + channel, total, mask=channel < channels)
