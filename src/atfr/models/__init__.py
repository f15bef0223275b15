"""The networks of atfr, in plain PyTorch: 3DResNet, X3D, R(2+1)D, I3D, Inception-I3D, SlowFast, EfficientNet."""

from atfr.models.base import VideoModel
from atfr.models.efficientnet import InflatedEfficientNet
from atfr.models.i3d import I3D
from atfr.models.inception import InceptionI3D
from atfr.models.r2plus1d import R2Plus1D18, R2Plus1D50
from atfr.models.resnet3d import ResNet3D
from atfr.models.slowfast import SlowFast
from atfr.models.x3d import X3D
from atfr.models.zoo import create_model, from_pretrained, list_models

__all__ = [
    "I3D",
    "X3D",
    "InceptionI3D",
    "InflatedEfficientNet",
    "R2Plus1D18",
    "R2Plus1D50",
    "ResNet3D",
    "SlowFast",
    "VideoModel",
    "create_model",
    "from_pretrained",
    "list_models",
]
