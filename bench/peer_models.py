#!/usr/bin/env python3
"""The six models that onnxpipe is compared with PyTorch on, in plain torch modules (pip install torch numpy onnx).

  python3 bench/peer_models.py export DIR [MODEL…]     writes them as ONNX, each with one batch of data
  python3 bench/peer_models.py step MODEL THREADS [compiled] [bf16]
      a line of JSON: the seconds of PyTorch's fastest training step (forward, loss, backward, fused AdamW; bf16: under autocast), of the
      processor in the same, and its peak memory in MB
  python3 bench/peer_models.py sgemm
      a line of JSON: Gflop/s of the fastest product of 4096 x 4096 in float32 on one thread

gpt2_124m: a GPT-2 of 12 layers, width 768, 50257 tokens with one table for both ends; 4 samples of 256 tokens. gpt_25m: 8 layers, width
384, 8192 tokens; 8 samples. surrogate: 24 residual blocks of width 512 from 8 parameters to 4096 points; 256 samples. dlrm: 26 bags
over tables of 100,000 rows x 32 (Naumov et al. 2019); 512 samples. resnet18: images of 160 x 160, 16 of them, 1000 classes,
batch normalisation in training. unet3d: MONAI's BasicUNet (features 16, 16, 32, 64, 128, 16) on one volume of 64 x 64 x 64, a class of 3
for every voxel.
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


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        n, t, width = x.shape
        q, k, v = (part.view(n, t, self.heads, -1).transpose(1, 2) for part in self.qkv(self.norm1(x)).split(width, 2))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, t, width)
        x = x + self.joined(seen)
        return x + self.narrow(F.gelu(self.wide(self.norm2(x)), approximate="tanh"))


class Gpt(nn.Module):
    """Radford et al. 2019; the head shares the table of tokens unless `untied`. Stage `stage` of `stages` of it, or all."""

    def __init__(self, layers, width, heads, tokens, length, stage=0, stages=1, untied=False):
        super().__init__()
        each = layers // stages
        self.first, self.last = stage == 0, stage == stages - 1
        if self.first:
            self.tokens, self.places = nn.Embedding(tokens, width), nn.Embedding(length, width)
            nn.init.normal_(self.tokens.weight, std=0.05)
            nn.init.normal_(self.places.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(each))
        if self.last:
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens, bias=False)
            if not untied:
                self.head.weight = self.tokens.weight

    def forward(self, x):
        if self.first:
            x = self.tokens(x) + self.places(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)) if self.last else x


class Dlrm(nn.Module):
    def __init__(self, dense, tables, rows, width):
        super().__init__()
        self.bottom = nn.Sequential(nn.Linear(dense, 64), nn.ReLU(), nn.Linear(64, width), nn.ReLU())
        self.tables = nn.ModuleList(nn.Embedding(rows, width) for _ in range(tables))
        pairs = torch.tril_indices(tables + 1, tables + 1, -1)
        self.register_buffer("pairs", pairs[0] * (tables + 1) + pairs[1])
        self.top = nn.Sequential(nn.Linear(width + pairs.shape[1], 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, dense, sparse):
        bottom = self.bottom(dense)
        features = torch.stack([bottom] + [table(sparse[:, i]).sum(1) for i, table in enumerate(self.tables)], 1)
        dots = torch.bmm(features, features.transpose(1, 2)).flatten(1)
        return self.top(torch.cat([bottom, dots[:, self.pairs]], 1))


class Surrogate(nn.Module):
    def __init__(self, parameters, points, width, depth):
        super().__init__()
        self.lift = nn.Linear(parameters, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)) for _ in range(depth))
        self.project = nn.Linear(width, points)

    def forward(self, x):
        x = torch.tanh(self.lift(x))
        for block in self.blocks:
            x = x + block(x)
        return self.project(x)


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


def by_class(output, target):
    return F.cross_entropy(output.reshape(-1, output.shape[-1]), target.reshape(-1)) if output.dim() == 3 else F.cross_entropy(output, target)


# module, inputs, target, loss
MODELS = {
    "gpt2_124m": lambda: (Gpt(12, 768, 12, 50257, 256), [torch.randint(50257, (4, 256))], torch.randint(50257, (4, 256)), by_class),
    "gpt_25m": lambda: (Gpt(8, 384, 6, 8192, 256), [torch.randint(8192, (8, 256))], torch.randint(8192, (8, 256)), by_class),
    "surrogate": lambda: (Surrogate(8, 4096, 512, 24), [torch.randn(256, 8)], torch.randn(256, 4096), F.mse_loss),
    "dlrm": lambda: (Dlrm(13, 26, 100000, 32), [torch.randn(512, 13), torch.randint(100000, (512, 26, 4))],
                     (torch.randn(512, 1) > 0).float(), F.binary_cross_entropy_with_logits),
    "resnet18": lambda: (ResNet18(), [torch.randn(16, 3, 160, 160)], torch.randint(1000, (16,)), by_class),
    "unet3d": lambda: (UNet3d(), [torch.randn(1, 1, 64, 64, 64)], torch.randint(3, (1, 64, 64, 64)), by_class),
}


def build(name):
    torch.manual_seed(0)
    return MODELS[name]()


def export(folder, names):
    import numpy as np

    os.makedirs(folder, exist_ok=True)
    for name in names or MODELS:
        model, x, y, _ = build(name)
        inputs = [f"input_{i}" for i in range(len(x))]
        path = os.path.join(folder, name)
        torch.onnx.export(model.train(), tuple(x), path + ".onnx", dynamo=False, opset_version=17, input_names=inputs, output_names=["output"],
                          training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False,
                          dynamic_axes={value: {0: "batch"} for value in inputs + ["output"]})
        np.savez(path + ".npz", target=y.numpy(), **{value: t.numpy() for value, t in zip(inputs, x)})


def step(name, threads, compiled, bf16):
    torch.set_num_threads(threads)
    model, x, y, loss = build(name)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-4, fused=True)

    def forward():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = model(*x)
        return loss(output.float(), y)

    run = torch.compile(forward) if compiled else forward
    wall, processor = [], []
    for _ in range(7):
        start = time.perf_counter(), time.process_time()
        optimizer.zero_grad()
        run().backward()
        optimizer.step()
        wall.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"best_s": min(wall[2:]), "best_processor_s": min(processor[2:]), "peak_rss_mb": peak}))


def sgemm():
    torch.set_num_threads(1)
    a, b, best = torch.randn(4096, 4096), torch.randn(4096, 4096), float("inf")
    for _ in range(4):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    print(json.dumps({"gflops": 2 * 4.096**3 / best}))


def main():
    warnings.filterwarnings("ignore")
    what, args = sys.argv[1], sys.argv[2:]
    if what == "export":
        export(args[0], args[1:])
    elif what == "step":
        step(args[0], int(args[1]), "compiled" in args, "bf16" in args)
    else:
        sgemm()


if __name__ == "__main__":
    main()
