"""Video files with faults, made from sound ones: the same for the same seed."""

import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from tests.video.video_files import write_audio, write_video

os.environ.setdefault("SVT_LOG", "0")  # the AV1 encoder talks
SIZE = (48, 64)
SOURCES = {  # name: codec, pixel format, options
    "h264.mp4": ("libx264", "yuv420p", {"g": "12", "bf": "2"}),
    "h264.mkv": ("libx264", "yuv420p", {"g": "12", "bf": "2"}),
    "h264.ts": ("libx264", "yuv420p", {"g": "12", "bf": "2"}),
    "h264.h264": ("libx264", "yuv420p", {"g": "12", "bf": "2"}),
    "h264.avi": ("libx264", "yuv420p", {"g": "12", "bf": "2"}),
    "h265.mp4": ("libx265", "yuv420p", {"x265-params": "keyint=12:log-level=-1"}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"g": "12", "deadline": "realtime"}),
    "vp8.webm": ("libvpx", "yuv420p", {"g": "12"}),
    "av1.mkv": ("libsvtav1", "yuv420p", {"g": "12", "preset": "12"}),
    "mpeg4.avi": ("mpeg4", "yuv420p", {"g": "12"}),
    "mpeg4b.avi": ("mpeg4", "yuv420p", {"g": "12", "bf": "2"}),
    "mpeg4.3gp": ("mpeg4", "yuv420p", {"g": "12"}),
    "mpeg2.mpg": ("mpeg2video", "yuv420p", {"g": "12", "bf": "2"}),
    "mpeg1.mpg": ("mpeg1video", "yuv420p", {"g": "12", "bf": "2"}),
    "flash.flv": ("flv", "yuv420p", {"g": "12"}),
    "wmv2.wmv": ("wmv2", "yuv420p", {"g": "12"}),
    "mjpeg.mov": ("mjpeg", "yuvj420p", {}),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}),
    "prores.mov": ("prores_ks", "yuv422p10le", {}),
    "ffv1.mkv": ("ffv1", "yuv420p", {}),
    "huffyuv.avi": ("huffyuv", "yuv422p", {}),
    "animated.gif": ("gif", "rgb8", {}),
}


@dataclass(frozen=True)
class Source:
    """A sound video."""

    name: str
    content: bytes

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix


@dataclass(frozen=True)
class Mutant:
    """A file with a fault: `fault` is its kind."""

    name: str
    fault: str
    content: bytes


def moving(frames: int, height: int, width: int) -> np.ndarray:
    """A square that moves over noise."""
    rng = np.random.default_rng(0)
    video = np.repeat(rng.integers(0, 90, (1, height, width, 3), dtype=np.uint8), frames, 0)
    for i in range(frames):
        video[i, (i % 7) * height // 10 :, (i % 11) * width // 16 :] += np.uint8(60)
    return video


def encode(folder: Path, name: str, video: np.ndarray, codec: str, pix_fmt: str, options: dict[str, str]) -> bytes:
    """Write a video and return its bytes."""
    path = write_video(folder / name, video, codec=codec, pix_fmt=pix_fmt, options=options)
    content = path.read_bytes()
    path.unlink()
    return content


def sources(folder: Path, real: Path | None = None) -> list[Source]:
    """Generate sound videos; those in the folder `real` come with them."""
    found = []
    for name, (codec, pix_fmt, options) in SOURCES.items():
        if codec in av.codecs_available:
            found.append(Source(name, encode(folder, name, moving(36, *SIZE), codec, pix_fmt, options)))
    if real is not None:
        paths = sorted(path for path in real.rglob("*") if path.suffix in (".mp4", ".avi", ".mkv"))
        found += [Source(path.name, path.read_bytes()) for path in paths if path.stat().st_size < 700_000]
    return found


class Workshop:
    """Makes mutants; each fault of `FAULTS` is a method that returns (suffix, content)."""

    def __init__(self, folder: Path, found: list[Source]) -> None:
        self.folder = folder
        self.sources = found

    def mutants(self, count: int, seed: int) -> Iterator[Mutant]:
        """Give `count` mutants, the faults in turns."""
        for number in range(count):
            rng = np.random.default_rng([seed, number])
            fault = FAULTS[number % len(FAULTS)]
            suffix, content = getattr(self, fault.replace(" ", "_"))(rng)
            yield Mutant(f"{number:05d}_{fault.replace(' ', '_')}{suffix}", fault, content)

    def pick(self, rng: np.random.Generator, only: str = "") -> Source:
        chosen = [source for source in self.sources if re.search(only, source.name)]
        return chosen[rng.integers(len(chosen))]

    def truncated(self, rng: np.random.Generator) -> tuple[str, bytes]:
        source = self.pick(rng)
        return source.suffix, source.content[: rng.integers(1, len(source.content))]

    def flipped_bits(self, rng: np.random.Generator) -> tuple[str, bytes]:
        source = self.pick(rng)
        return source.suffix, flip(rng, source.content, 0, len(source.content))

    def flipped_header(self, rng: np.random.Generator) -> tuple[str, bytes]:
        source = self.pick(rng)
        return source.suffix, flip(rng, source.content, 0, min(1500, len(source.content)))

    def spliced(self, rng: np.random.Generator) -> tuple[str, bytes]:
        into, other = self.pick(rng), self.pick(rng)
        start, end = sorted(rng.integers(0, len(into.content), 2))
        piece = other.content[slice(*sorted(rng.integers(0, len(other.content), 2)))]
        return into.suffix, into.content[:start] + piece + into.content[end if rng.integers(2) else start :]

    def zeroed_block(self, rng: np.random.Generator) -> tuple[str, bytes]:
        source = self.pick(rng)
        start, end = sorted(rng.integers(0, len(source.content), 2))
        return source.suffix, source.content[:start] + bytes(end - start) + source.content[end:]

    def wrong_extension(self, rng: np.random.Generator) -> tuple[str, bytes]:
        endings = [".mp4", ".avi", ".mkv", ".ts", ".jpg", ".txt", ".wav", ".h264", ".gif", ".m3u8", ".yuv", ".mp3", ""]
        return endings[rng.integers(len(endings))], self.pick(rng).content

    def zero_length(self, rng: np.random.Generator) -> tuple[str, bytes]:
        return self.pick(rng).suffix, b"" if rng.integers(2) else bytes(int(rng.integers(1, 5000)))

    def no_video(self, rng: np.random.Generator) -> tuple[str, bytes]:
        noise = rng.bytes(int(rng.integers(1, 20_000)))
        text = b"#EXTM3U\nffconcat version 1.0\nfile '/etc/passwd'\n" * int(rng.integers(1, 50))
        return self.pick(rng).suffix, noise if rng.integers(2) else text

    def audio_only(self, rng: np.random.Generator) -> tuple[str, bytes]:
        content = write_audio(self.folder / "sound.wav").read_bytes()
        return self.pick(rng).suffix, flip(rng, content, 0, len(content)) if rng.integers(2) else content

    def huge_declared_size(self, rng: np.random.Generator) -> tuple[str, bytes]:
        makers: list[Callable[[np.random.Generator, int], tuple[str, bytes]]]
        makers = [self._huge_h264, self._huge_container, self._huge_jpeg, self._huge_gif]
        return makers[rng.integers(len(makers))](rng, (12_000, 30_000)[rng.integers(2)])

    def huge_declared_length(self, rng: np.random.Generator) -> tuple[str, bytes]:
        content = bytearray(self.pick(rng, r"^(h264|h265|mpeg4|mjpeg)\.(mp4|3gp|mov|avi)$").content)
        for tag, offset in ((b"stts", 12), (b"stsz", 12), (b"avih", 20), (b"strh", 36), (b"mdhd", 20), (b"mvhd", 20)):
            for found in re.finditer(tag, bytes(content)):
                order = "<I" if tag in (b"avih", b"strh") else ">I"
                if found.start() + offset + 4 <= len(content):
                    struct.pack_into(order, content, found.start() + offset, int(rng.integers(2**20, 2**32)))
        return ".avi" if content[:4] == b"RIFF" else ".mp4", bytes(content)

    def one_frame(self, rng: np.random.Generator) -> tuple[str, bytes]:
        return self._written(rng, 1, SIZE, r"^(?!h265)")

    def changing_resolution(self, rng: np.random.Generator) -> tuple[str, bytes]:
        parts = []
        name = ("a.ts", "a.h264", "a.mpg")[rng.integers(3)]
        codec = "mpeg2video" if name == "a.mpg" else "libx264"
        for _ in range(int(rng.integers(2, 5))):
            size = tuple(int(16 * side) for side in rng.integers(2, 9, 2))
            parts.append(encode(self.folder, name, moving(8, *size), codec, "yuv420p", {"g": "6"}))
        content = b"".join(parts)
        return Path(name).suffix, flip(rng, content, 0, len(content)) if rng.integers(2) else content

    def rotated(self, rng: np.random.Generator) -> tuple[str, bytes]:
        content = bytearray(self.pick(rng, r"\.(mp4|mov|3gp)$").content)
        one = 1 << 16
        matrices = [
            (0, one, -one, 0),
            (-one, 0, 0, -one),
            (0, -one, one, 0),
            (0, 0, 0, 0),
            (46341, 46341, -46341, 46341),
        ]
        chosen = int(rng.integers(len(matrices) + 1))
        a, b, c, d = matrices[chosen] if chosen < len(matrices) else rng.integers(-(2**31), 2**31, 4).tolist()
        place = content.index(b"tkhd") + 44
        struct.pack_into(">9i", content, place, a, b, 0, c, d, 0, 0, 0, 1 << 30)
        return ".mp4", bytes(content)

    def ten_bits(self, rng: np.random.Generator) -> tuple[str, bytes]:
        kinds = [("libx264", "yuv420p10le"), ("libx265", "yuv420p10le"), ("ffv1", "yuv444p10le"), ("ffv1", "gray16le")]
        return self._format(rng, kinds)

    def full_chroma(self, rng: np.random.Generator) -> tuple[str, bytes]:
        kinds = [("libx264", "yuv444p"), ("libx265", "yuv444p"), ("ffv1", "yuva444p"), ("ffv1", "bgr0")]
        return self._format(rng, kinds)

    def odd_dimensions(self, rng: np.random.Generator) -> tuple[str, bytes]:
        size = [(1, 1), (3, 5), (47, 61), (2, 1000), (1, 64), (33, 31), (255, 3)][rng.integers(7)]
        return self._written(rng, 6, size, r"^(ffv1|mjpeg|animated)")

    def negative_times(self, rng: np.random.Generator) -> tuple[str, bytes]:
        return self._times(rng, lambda times: times - int(rng.integers(1, 30000)))

    def repeated_times(self, rng: np.random.Generator) -> tuple[str, bytes]:
        return self._times(rng, lambda times: times // int(rng.integers(60, 30000)) * 60)

    def shuffled_times(self, rng: np.random.Generator) -> tuple[str, bytes]:
        return self._times(rng, lambda times: rng.integers(-(2**15), 2**15, len(times)))

    def broken_sample_tables(self, rng: np.random.Generator) -> tuple[str, bytes]:
        content = bytearray(self.pick(rng, r"\.(mp4|mov|3gp)$").content)
        tags = [b"stts", b"ctts", b"stss", b"stsc", b"stsz", b"stco", b"elst", b"mdhd"]
        for tag in rng.permutation(tags)[: int(rng.integers(1, 4))]:
            for found in re.finditer(bytes(tag), bytes(content)):
                end = min(found.end() + 40, len(content))
                content[found.end() : end] = flip(rng, bytes(content[found.end() : end]), 0, end - found.end())
        return ".mp4", bytes(content)

    def _written(self, rng: np.random.Generator, frames: int, size: tuple[int, int], only: str) -> tuple[str, bytes]:
        names = [name for name in SOURCES if re.search(only, name) and SOURCES[name][0] in av.codecs_available]
        name = names[rng.integers(len(names))]
        codec, pix_fmt, options = SOURCES[name]
        pix_fmt = {"mjpeg": "yuvj444p", "ffv1": "bgr0"}.get(codec, pix_fmt)
        content = encode(self.folder, name, moving(frames, *size), codec, pix_fmt, options)
        return Path(name).suffix, flip(rng, content, 0, len(content)) if rng.integers(3) == 0 else content

    def _format(self, rng: np.random.Generator, kinds: list[tuple[str, str]]) -> tuple[str, bytes]:
        codec, pix_fmt = kinds[rng.integers(len(kinds))]
        options = {"x265-params": "log-level=-1"} if codec == "libx265" else {}
        content = encode(self.folder, "a.mkv", moving(12, *SIZE), codec, pix_fmt, options)
        return ".mkv", flip(rng, content, 0, len(content)) if rng.integers(3) == 0 else content

    def _times(self, rng: np.random.Generator, change: Callable[[np.ndarray], np.ndarray]) -> tuple[str, bytes]:
        """Change the times of Matroska's blocks: A3, its size, track 1, then 16 bits."""
        source = self.pick(rng, r"^\w+\.(mkv|webm)$")
        content = bytearray(source.content)
        block = re.compile(rb"\xa3(?:[\x80-\xff]|[\x40-\x7f].|[\x20-\x3f]..)\x81", re.S)
        places = [
            found.end() for found in block.finditer(content, content.index(b"\x1f\x43\xb6\x75"))
        ]  # the first cluster
        places = [place for place in places if place + 2 <= len(content)]
        times = np.array([struct.unpack_from(">h", content, place)[0] for place in places], dtype=np.int64)
        for place, time in zip(places, change(times).tolist(), strict=True):
            struct.pack_into(">h", content, place, max(-(2**15), min(2**15 - 1, time)))
        return source.suffix, bytes(content)

    def _huge_h264(self, rng: np.random.Generator, side: int) -> tuple[str, bytes]:
        """A raw stream whose parameter set says `side` x `side`, with the slices of a small one."""
        content = self.pick(rng, r"\.h264$").content
        units = re.split(rb"\x00\x00\x00?\x01", content)[1:]
        bits = "".join(exp_golomb(value) for value in (0, 0, 2, 1)) + "0"  # id, frame numbers, order, references, gaps
        bits += exp_golomb(side // 16 - 1) * 2 + "11001"  # progressive, direct 8 x 8, no cropping, no VUI, the end
        bits += "0" * (-len(bits) % 8)
        sps = bytes([0x67, 66, 0, 62]) + bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
        forged = [sps if unit[:1] == b"\x67" else unit for unit in units]
        return ".h264", b"".join(b"\x00\x00\x00\x01" + unit for unit in forged)

    def _huge_container(self, rng: np.random.Generator, side: int) -> tuple[str, bytes]:
        """Every 64 x 48 in the header, as two numbers of 16 or 32 bits, becomes `side` x `side`."""
        source = self.pick(rng, r"^\w+\.(mp4|mov|3gp|avi|flv|wmv)$")
        content = source.content
        for form in (">HH", "<HH", ">II", "<II"):
            content = content.replace(struct.pack(form, SIZE[1], SIZE[0]), struct.pack(form, side, side))
        fixed = struct.pack(">II", SIZE[1] << 16, SIZE[0] << 16)
        return source.suffix, content.replace(fixed, struct.pack(">II", side << 16, side << 16))

    def _huge_jpeg(self, rng: np.random.Generator, side: int) -> tuple[str, bytes]:
        source = self.pick(rng, r"^mjpeg")
        shape = struct.pack(">HH", *SIZE)
        found = re.sub(
            rb"(\xff\xc0...)" + re.escape(shape),
            rb"\g<1>" + struct.pack(">HH", side, side),
            source.content,
            flags=re.S,
        )
        return source.suffix, found

    def _huge_gif(self, rng: np.random.Generator, side: int) -> tuple[str, bytes]:
        content = bytearray(self.pick(rng, r"^animated").content)
        struct.pack_into("<HH", content, 6, side, side)
        return ".gif", bytes(content)


FAULTS = [
    name.replace("_", " ")
    for name, value in vars(Workshop).items()
    if callable(value) and not name.startswith("_") and name not in ("mutants", "pick")
]


def flip(rng: np.random.Generator, content: bytes, start: int, end: int) -> bytes:
    """Flip 1 to 300 bits, few more often than many."""
    changed = bytearray(content)
    for place in rng.integers(start, end, int(np.exp(rng.uniform(0, np.log(300))))):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def exp_golomb(value: int) -> str:
    """Write a number as H.264 does (ITU-T H.264, 9.1)."""
    digits = f"{value + 1:b}"
    return "0" * (len(digits) - 1) + digits
