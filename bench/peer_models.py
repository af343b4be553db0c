#!/usr/bin/env python3
"""The convolutional models that `step_ratio.py` compares with PyTorch, in plain torch modules (pip install torch onnx).

  python3 bench/peer_models.py export DIR            writes resnet18 and unet3d as ONNX, each with one batch of data
  python3 bench/peer_models.py step MODEL THREADS    a line of JSON: the seconds of PyTorch's fastest training step (forward, loss,
                                                     backward, fused AdamW), of the processor in the same, and its peak memory

resnet18: images of 160 x 160, 16 a batch, 1000 classes, batch normalisation in training. unet3d: MONAI's BasicUNet
(features 16, 16, 32, 64, 128, 16) on one volume of 64 x 64 x 64, a class of 3 for every voxel.
"""
import json
import os
import resource
import sys
import time
import warnings

import torch
import torch.nn.functional as F
from torch import nn


class Residual(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.short = None
        if stride != 1 or before != after:
            self.short = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x):
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + (self.short(x) if self.short else x))


class ResNet18(nn.Module):
    """He et al. 2015."""

    def __init__(self, classes=1000):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
        self.blocks = nn.Sequential(*(Residual(a, b, 2 if a != b else 1) for a, b in zip(widths, widths[1:])))
        self.head = nn.Linear(512, classes)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class TwoConv(nn.Sequential):
    def __init__(self, before, after):
        layers = []
        for channels in (before, after):
            layers += [nn.Conv3d(channels, after, 3, 1, 1), nn.InstanceNorm3d(after, affine=True), nn.LeakyReLU(0.1)]
        super().__init__(*layers)


class UNet3d(nn.Module):
    """MONAI's BasicUNet."""

    def __init__(self, f=(16, 16, 32, 64, 128, 16), classes=3):
        super().__init__()
        self.first = TwoConv(1, f[0])
        self.down = nn.ModuleList(TwoConv(f[i], f[i + 1]) for i in range(4))
        self.up = nn.ModuleList(nn.ConvTranspose3d(f[i + 1], f[i + 1] if i == 0 else f[i + 1] // 2, 2, 2) for i in (3, 2, 1, 0))
        self.join = nn.ModuleList(TwoConv(f[i] + (f[i + 1] if i == 0 else f[i + 1] // 2), f[5] if i == 0 else f[i]) for i in (3, 2, 1, 0))
        self.last = nn.Conv3d(f[5], classes, 1)

    def forward(self, x):
        levels = [self.first(x)]
        for down in self.down:
            levels.append(down(F.max_pool3d(levels[-1], 2)))
        x = levels.pop()
        for up, join in zip(self.up, self.join):
            x = join(torch.cat([levels.pop(), up(x)], 1))
        return self.last(x)


def build(name):
    torch.manual_seed(0)
    if name == "resnet18":
        return ResNet18(), torch.randn(16, 3, 160, 160), torch.randint(1000, (16,))
    return UNet3d(), torch.randn(1, 1, 64, 64, 64), torch.randint(3, (1, 64, 64, 64))


def export(folder):
    import numpy as np

    os.makedirs(folder, exist_ok=True)
    for name in ("resnet18", "unet3d"):
        model, x, y = build(name)
        path = os.path.join(folder, name)
        torch.onnx.export(model.train(), (x,), path + ".onnx", dynamo=False, opset_version=17, input_names=["x"], output_names=["y"],
                          training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False,
                          dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}})
        np.savez(path + ".npz", x=x.numpy(), target=y.numpy())


def step(name, threads):
    torch.set_num_threads(threads)
    model, x, y = build(name)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-4, fused=True)
    wall, processor = [], []
    for _ in range(7):
        start = time.perf_counter(), time.process_time()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        wall.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"best_s": min(wall[2:]), "best_processor_s": min(processor[2:]), "peak_rss_mb": peak}))


warnings.filterwarnings("ignore")
if sys.argv[1] == "export":
    export(sys.argv[2])
else:
    step(sys.argv[2], int(sys.argv[3]))
