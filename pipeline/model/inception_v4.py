"""Inception-v4 (Szegedy et al., arXiv 1602.07261), blocks in order of use.

In: normalised images, float [N, 3, 299, 299].
Out: an embedding [N, 1536] and logits [N, num_classes].
Not here: sizes and preprocessing (`spec.py`), weights (`weights.py`), precision and softmax (`runners/`).

Parameter names are those of Cadene's and timm's inception_v4, so their files load unchanged. The comments give the
shape of a block's output for an image of 299 x 299.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.model.spec import EMBEDDING_SIZE, NUM_IMAGENET_CLASSES

BATCH_NORM_EPS = 1e-3  # TensorFlow's; torch's default is 1e-5

Size = int | tuple[int, int]


class Conv(nn.Module):
    """Convolution without bias, BatchNorm, ReLU: the only layer with weights before the head."""

    def __init__(self, num_in: int, num_out: int, kernel: Size, stride: int = 1, padding: Size = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(num_in, num_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(num_out, eps=BATCH_NORM_EPS)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return torch.relu_(self.bn(self.conv(x_NCHW)))


def across(num_in: int, num_out: int, length: int) -> Conv:
    """A convolution of 1 x `length` that keeps the size."""
    return Conv(num_in, num_out, (1, length), padding=(0, length // 2))


def down(num_in: int, num_out: int, length: int) -> Conv:
    """A convolution of `length` x 1 that keeps the size."""
    return Conv(num_in, num_out, (length, 1), padding=(length // 2, 0))


def average_pool() -> nn.AvgPool2d:
    """Mean of 3 x 3 places; it keeps the size. At the border only the places inside the image count."""
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)


def max_pool() -> nn.MaxPool2d:
    """Maximum of 3 x 3 places, at every second place."""
    return nn.MaxPool2d(3, stride=2)


class Mixed3a(nn.Module):
    """64 x 147 x 147 -> 160 x 73 x 73."""

    def __init__(self) -> None:
        super().__init__()
        self.maxpool = max_pool()
        self.conv = Conv(64, 96, 3, stride=2)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return torch.cat((self.maxpool(x_NCHW), self.conv(x_NCHW)), 1)


class Mixed4a(nn.Module):
    """160 x 73 x 73 -> 192 x 71 x 71."""

    def __init__(self) -> None:
        super().__init__()
        self.branch0 = nn.Sequential(Conv(160, 64, 1), Conv(64, 96, 3))
        self.branch1 = nn.Sequential(Conv(160, 64, 1), across(64, 64, 7), down(64, 64, 7), Conv(64, 96, 3))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return torch.cat((self.branch0(x_NCHW), self.branch1(x_NCHW)), 1)


class Mixed5a(nn.Module):
    """192 x 71 x 71 -> 384 x 35 x 35."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = Conv(192, 192, 3, stride=2)
        self.maxpool = max_pool()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return torch.cat((self.conv(x_NCHW), self.maxpool(x_NCHW)), 1)


class InceptionA(nn.Module):
    """384 x 35 x 35; the shape is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.branch0 = Conv(384, 96, 1)
        self.branch1 = nn.Sequential(Conv(384, 64, 1), Conv(64, 96, 3, padding=1))
        self.branch2 = nn.Sequential(Conv(384, 64, 1), Conv(64, 96, 3, padding=1), Conv(96, 96, 3, padding=1))
        self.branch3 = nn.Sequential(average_pool(), Conv(384, 96, 1))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        branches = self.branch0, self.branch1, self.branch2, self.branch3
        return torch.cat([branch(x_NCHW) for branch in branches], 1)


class ReductionA(nn.Module):
    """384 x 35 x 35 -> 1024 x 17 x 17."""

    def __init__(self) -> None:
        super().__init__()
        self.branch0 = Conv(384, 384, 3, stride=2)
        self.branch1 = nn.Sequential(Conv(384, 192, 1), Conv(192, 224, 3, padding=1), Conv(224, 256, 3, stride=2))
        self.branch2 = max_pool()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return torch.cat([branch(x_NCHW) for branch in (self.branch0, self.branch1, self.branch2)], 1)


class InceptionB(nn.Module):
    """1024 x 17 x 17; the shape is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.branch0 = Conv(1024, 384, 1)
        self.branch1 = nn.Sequential(Conv(1024, 192, 1), across(192, 224, 7), down(224, 256, 7))
        self.branch2 = nn.Sequential(Conv(1024, 192, 1), down(192, 192, 7), across(192, 224, 7),
                                     down(224, 224, 7), across(224, 256, 7))
        self.branch3 = nn.Sequential(average_pool(), Conv(1024, 128, 1))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        branches = self.branch0, self.branch1, self.branch2, self.branch3
        return torch.cat([branch(x_NCHW) for branch in branches], 1)


class ReductionB(nn.Module):
    """1024 x 17 x 17 -> 1536 x 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.branch0 = nn.Sequential(Conv(1024, 192, 1), Conv(192, 192, 3, stride=2))
        self.branch1 = nn.Sequential(Conv(1024, 256, 1), across(256, 256, 7), down(256, 320, 7),
                                     Conv(320, 320, 3, stride=2))
        self.branch2 = max_pool()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return torch.cat([branch(x_NCHW) for branch in (self.branch0, self.branch1, self.branch2)], 1)


class InceptionC(nn.Module):
    """1536 x 8 x 8; the shape is kept. Two of its branches end in a fork of 1 x 3 and 3 x 1."""

    def __init__(self) -> None:
        super().__init__()
        self.branch0 = Conv(1536, 256, 1)
        self.branch1_0 = Conv(1536, 384, 1)
        self.branch1_1a = across(384, 256, 3)
        self.branch1_1b = down(384, 256, 3)
        self.branch2_0 = Conv(1536, 384, 1)
        self.branch2_1 = down(384, 448, 3)
        self.branch2_2 = across(448, 512, 3)
        self.branch2_3a = across(512, 256, 3)
        self.branch2_3b = down(512, 256, 3)
        self.branch3 = nn.Sequential(average_pool(), Conv(1536, 256, 1))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x1 = self.branch1_0(x_NCHW)
        x2 = self.branch2_2(self.branch2_1(self.branch2_0(x_NCHW)))
        return torch.cat((self.branch0(x_NCHW), self.branch1_1a(x1), self.branch1_1b(x1),
                          self.branch2_3a(x2), self.branch2_3b(x2), self.branch3(x_NCHW)), 1)


class InceptionV4(nn.Module):
    """The network: 42,679,816 parameters and 12.25 billion multiply-adds an image for 1000 classes."""

    def __init__(self, num_classes: int = NUM_IMAGENET_CLASSES) -> None:
        super().__init__()
        self.features = nn.Sequential(
            Conv(3, 32, 3, stride=2),  # 32 x 149 x 149
            Conv(32, 32, 3),  # 32 x 147 x 147
            Conv(32, 64, 3, padding=1),  # 64 x 147 x 147
            Mixed3a(),
            Mixed4a(),
            Mixed5a(),
            *[InceptionA() for _ in range(4)],
            ReductionA(),
            *[InceptionB() for _ in range(7)],
            ReductionB(),
            *[InceptionC() for _ in range(3)],
        )
        self.last_linear = nn.Linear(EMBEDDING_SIZE, num_classes)

    def forward_features(self, image_NCHW: Tensor) -> Tensor:
        """Normalised images [N, 3, 299, 299] -> the last block's output [N, 1536, 8, 8]."""
        features_NCHW: Tensor = self.features(image_NCHW)
        return features_NCHW

    def forward_head(self, features_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The last block's output -> embedding [N, 1536] (its mean over places) and logits [N, num_classes]."""
        embedding_ND = features_NCHW.mean((2, 3))
        return embedding_ND, self.last_linear(embedding_ND)

    def forward(self, image_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images [N, 3, 299, 299] -> embedding [N, 1536] and logits [N, num_classes]."""
        return self.forward_head(self.forward_features(image_NCHW))
