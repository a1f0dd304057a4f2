"""A network whose spikes are packed, and what it gives, which is the same to the bit; what waits for a backward."""

import gc

import torch
from torch import nn

import tgo_kernels as tgo
from tgo_kernels import packing


def net(channels=8, size=8):
    return nn.Sequential(
        tgo.OverTime(nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels)),
        tgo.LIF(),
        tgo.OverTime(nn.Conv2d(channels, channels, 3, padding=1), nn.MaxPool2d(2), nn.BatchNorm2d(channels)),
        tgo.LIF(),
        tgo.OverTime(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(channels * (size // 4) ** 2, 10)),
    )


def assert_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def bits_of(shape):
    """What waits of tensors of that shape. By type, since isinstance asks what a dead weak reference stands for."""
    return [each for each in gc.get_objects() if type(each) is packing._Bits and each.size == shape]
