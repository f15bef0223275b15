"""The networks of atfr, in plain PyTorch: 3DResNet-18 and -50 and the X3D family, with saving and loading."""

from atfr.models.base import VideoModel
from atfr.models.resnet3d import ResNet3D
from atfr.models.x3d import X3D
from atfr.models.zoo import create_model, from_pretrained, list_models

__all__ = ["X3D", "ResNet3D", "VideoModel", "create_model", "from_pretrained", "list_models"]
