"""The versions of what atfr stands on, found without importing any of it but PyAV, which knows its FFmpeg."""

import platform

from atfr.checks import version_of

PACKAGES = {  # what is installed under one of these names
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "lightning": ("lightning",),
    "av": ("av",),
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
    "gradio": ("gradio",),
}
LIBRARIES = ("libavcodec", "libavformat", "libswscale")


def versions() -> dict[str, str]:
    """Return the versions of atfr, Python, torch, the decoder with its FFmpeg, and the runtimes that are installed."""
    found = {"atfr": version_of("atfr") or "", "python": platform.python_version()}
    found |= {name: next(filter(None, map(version_of, names)), "not installed") for name, names in PACKAGES.items()}
    return found | {"av": f"{found['av']} ({_ffmpeg()})"}


def _ffmpeg() -> str:
    """The FFmpeg inside PyAV, or why it does not load: a version is asked for when something is wrong."""
    try:
        import av
    except ImportError as error:
        return f"does not load: {error}"
    libraries = (f"{name} {'.'.join(map(str, av.library_versions[name]))}" for name in LIBRARIES)
    return f"FFmpeg {av.ffmpeg_version_info}: {', '.join(libraries)}"
