#!/usr/bin/env python3
"""The models that onnxpipe is compared with PyTorch on, on one GPU.

  python3 bench/gpu_models.py export DIR [--tiny] [MODEL…]
      writes them as ONNX, matrices declared as external data of a file that is not there: `onnxpipe train --init` draws them
  python3 bench/gpu_models.py serve DEVICE [--tiny]
      PyTorch's side: reads questions, writes answers, a line of JSON each; gone with its standard input

      {"ask": "rates"}          flop/s of products of each precision, bytes/s of a copy, read and written
      {"ask": "floor", "model": M, "batch": B}
                                of a step: flops of its products, bytes that AdamW and what is kept for the backward pass move
      {"ask": "step", "model": M, "batch": B, "precision": P, "way": W}
                                milliseconds of a training step (median), peak bytes; P: float32, tf32, bf16 (autocast);
                                W: eager, compiled, graphs (torch.compile's reduce-overhead); AdamW is fused in each
      {"ask": "kernels", "model": M, "batch": B, "precision": P}
                                [name, seconds, launches] of each kernel of a compiled step

gpt2_124m is Radford et al. 2019 with 1,024 tokens a sample and the vocabulary padded to 50,304; the others are those of
peer_models.py, and resnet50 (He et al. 2015). --tiny: the same graphs, small enough for a dry run without a GPU.
"""
import argparse
import gc
import json
import os
import statistics
import sys
import time
import warnings
from collections import namedtuple

import torch
import torch.nn.functional as F
from torch import nn

from peer_models import Dlrm, Gpt, ResNet18, Surrogate, UNet3d, by_class

Model = namedtuple("Model", "module inputs target loss batches causal", defaults=(False,))  # inputs and target: of a batch


class Bottleneck(nn.Module):
    def __init__(self, before, width, stride):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.norm3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.short = None
        if before != 4 * width:
            self.short = nn.Sequential(nn.Conv2d(before, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm3(self.conv3(F.relu(self.norm2(self.conv2(y)))))
        return F.relu(y + (self.short(x) if self.short else x))


class ResNet50(nn.Module):
    def __init__(self, depths=(3, 4, 6, 3), classes=1000):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        blocks, before = [], 64
        for level, depth in enumerate(depths):
            for block in range(depth):
                blocks.append(Bottleneck(before, 64 << level, 2 if level and not block else 1))
                before = 4 * (64 << level)
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(before, classes)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def text(layers, width, heads, tokens, length, *batches):
    def ids(n):
        return torch.randint(tokens, (n, length))

    return Model(lambda: Gpt(layers, width, heads, tokens, length), lambda n: [ids(n)], ids, "cross_entropy", batches, True)


def dlrm(tables, rows, width, *batches):
    return Model(lambda: Dlrm(13, tables, rows, width), lambda n: [torch.randn(n, 13), torch.randint(rows, (n, tables, 4))],
                 lambda n: (torch.randn(n, 1) > 0).float(), "bce_with_logits", batches)


def surrogate(points, width, depth, *batches):
    return Model(lambda: Surrogate(8, points, width, depth), lambda n: [torch.randn(n, 8)], lambda n: torch.randn(n, points), "mse",
                 batches)


def images(module, side, *batches):
    return Model(module, lambda n: [torch.randn(n, 3, side, side)], lambda n: torch.randint(1000, (n,)), "cross_entropy", batches)


def volumes(side, *batches):
    return Model(UNet3d, lambda n: [torch.randn(n, 1, side, side, side)], lambda n: torch.randint(3, (n, side, side, side)),
                 "cross_entropy", batches)


MODELS = {
    "gpt2_124m": text(12, 768, 12, 50304, 1024, 8, 32),
    "gpt_25m": text(8, 384, 6, 8192, 256, 8),
    "surrogate": surrogate(4096, 512, 24, 256),
    "dlrm": dlrm(26, 100000, 32, 512),
    "resnet18": images(ResNet18, 160, 16),
    "resnet50": images(ResNet50, 224, 64),
    "unet3d": volumes(64, 1),
}
TINY = {
    "gpt2_124m": text(2, 64, 2, 512, 32, 2, 4),
    "gpt_25m": text(2, 32, 2, 256, 16, 2),
    "surrogate": surrogate(64, 32, 2, 8),
    "dlrm": dlrm(4, 1000, 8, 8),
    "resnet18": images(ResNet18, 32, 2),
    "resnet50": images(lambda: ResNet50((1, 1, 1, 1)), 32, 2),
    "unet3d": volumes(32, 1),
}
LOSSES = {"cross_entropy": by_class, "mse": F.mse_loss, "bce_with_logits": F.binary_cross_entropy_with_logits}


def without_weights(path):
    import onnx

    model, place = onnx.load(path), 0
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1 and len(tensor.raw_data) > 4096:
            size = len(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", "absent.weights"), ("offset", place), ("length", size)):
                tensor.external_data.add(key=key, value=str(value))
            place += size
    with open(path, "wb") as file:
        file.write(model.SerializeToString())


def export(models, folder, names):
    os.makedirs(folder, exist_ok=True)
    for name in names or models:
        torch.manual_seed(0)
        model, x = models[name], models[name].inputs(2)
        inputs = [f"input_{i}" for i in range(len(x))]
        path = os.path.join(folder, name + ".onnx")
        torch.onnx.export(model.module().train(), tuple(x), path, dynamo=False, opset_version=17, input_names=inputs, output_names=["output"],
                          training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False,
                          dynamic_axes={value: {0: "batch"} for value in inputs + ["output"]})
        without_weights(path)
        print(f"{path}: {os.path.getsize(path):,} bytes", flush=True)


class Peer:
    def __init__(self, device, models):
        self.device, self.models = torch.device(device), models
        self.on_gpu = self.device.type == "cuda"

    def precise(self, precision):
        torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
        torch.backends.cudnn.allow_tf32 = precision != "float32"

    def median_ms(self, run, warm_up, seconds, most):
        """Of calls of `run`, one after the other, by the device's clock; nothing waits in between."""
        for _ in range(warm_up):
            run()
        start = time.perf_counter()
        run()
        self.wait()
        count = max(5, min(most, int(seconds / (time.perf_counter() - start))))
        if not self.on_gpu:
            marks = [time.perf_counter()]
            for _ in range(count):
                run()
                marks.append(time.perf_counter())
            return statistics.median(1e3 * (b - a) for a, b in zip(marks, marks[1:]))
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        marks[0].record()
        for mark in marks[1:]:
            run()
            mark.record()
        self.wait()
        return statistics.median(a.elapsed_time(b) for a, b in zip(marks, marks[1:]))

    def wait(self):
        if self.on_gpu:
            torch.cuda.synchronize()

    def rates(self):
        n, bytes_copied = (8192, 1 << 32) if self.on_gpu else (512, 1 << 24)
        said = {}
        for precision, kind in (("float32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
            self.precise(precision)
            a, b, c = (torch.randn(n, n, dtype=kind, device=self.device) for _ in range(3))
            said[precision] = 2 * n**3 / (self.median_ms(lambda a=a, b=b, c=c: torch.mm(a, b, out=c), 3, 0.5, 20) / 1e3)
        a = torch.empty(bytes_copied // 4, device=self.device).normal_()
        c = torch.empty_like(a)
        said["copy"] = 2 * bytes_copied / (self.median_ms(lambda: c.copy_(a), 3, 0.5, 20) / 1e3)
        if self.on_gpu:
            said["device"] = torch.cuda.get_device_name()
        return said | {"torch": torch.__version__}

    def floor(self, model, batch):
        from torch.utils.flop_counter import FlopCounterMode

        m, kept = self.models[model], {}

        def keep(tensor):
            kept[(tensor.untyped_storage()._cdata, tensor.untyped_storage().nbytes())] = tensor
            return tensor

        with torch.device("meta"):
            module, x, y = m.module(), m.inputs(batch), m.target(batch)
        own = {p.untyped_storage()._cdata for p in module.parameters()}
        counter = FlopCounterMode(display=False)
        with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            LOSSES[m.loss](module(*x), y).backward()
        flops = counter.get_total_flops()
        if m.causal:  # the only batched products are attention's, and half of them are masked
            flops -= sum(n for op, n in counter.get_flop_counts()["Global"].items() if "bmm" in str(op) or "attention" in str(op)) / 2
        numbers = sum(p.numel() for p in module.parameters())
        length = x[0].shape[1] if m.causal else 0  # scores of attention need not be kept
        activations = sum(size for (key, size), t in kept.items() if key not in own and t.shape[-2:] != (length, length))
        # AdamW reads weight, gradient and both moments and writes all but the gradient; the gradient is written once
        return {"flops": flops, "parameters": numbers, "update_bytes": 32 * numbers, "activation_bytes": 2 * activations}

    def training(self, model, batch, precision, way):
        """A function that takes a step and returns its loss."""
        m = self.models[model]
        self.precise(precision)
        torch.manual_seed(0)
        with torch.device(self.device):
            module = m.module().train()
        x, y = [value.to(self.device) for value in m.inputs(batch)], m.target(batch).to(self.device)
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)

        def forward(*inputs):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16"):
                return LOSSES[m.loss](module(*inputs), y)

        run = forward
        if way != "eager":
            run = torch.compile(forward, dynamic=False, mode="reduce-overhead" if way == "graphs" else "default")

        def one():
            if way == "graphs":
                torch.compiler.cudagraph_mark_step_begin()
            optimizer.zero_grad(set_to_none=True)
            loss = run(*x)
            loss.backward()
            optimizer.step()
            return loss

        return one

    def step(self, model, batch, precision, way):
        before = 0
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        one = self.training(model, batch, precision, way)
        start = time.perf_counter()
        one()
        self.wait()
        first = time.perf_counter() - start
        said = {"ms": self.median_ms(one, 4, 2, 40), "loss": one().item(), "first_s": round(first, 2)}
        if self.on_gpu:
            said["peak_bytes"] = torch.cuda.max_memory_allocated() - before
        return said

    def kernels(self, model, batch, precision):
        from torch.profiler import ProfilerActivity, profile

        one = self.training(model, batch, precision, "compiled")
        ms = self.median_ms(one, 4, 1, 10)
        with profile(activities=[ProfilerActivity.CUDA if self.on_gpu else ProfilerActivity.CPU]) as seen:
            one()
            self.wait()
        of = "self_device_time_total" if self.on_gpu else "self_cpu_time_total"
        return {"ms": ms, "kernels": [(e.key, getattr(e, of) / 1e6, e.count) for e in seen.key_averages() if getattr(e, of) > 0]}

    def tidy(self):
        torch._dynamo.reset()
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def serve(self):
        for line in sys.stdin:
            question = json.loads(line)
            ask = question.pop("ask")
            try:
                said = {"rates": self.rates, "floor": self.floor, "step": self.step, "kernels": self.kernels}[ask](**question)
            except Exception as error:
                said = {"error": (str(error).strip().splitlines() or [repr(error)])[0][:200]}
            self.tidy()
            print(json.dumps(said), flush=True)


def main():
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("export", "serve"))
    parser.add_argument("where", help="a folder; cuda or cpu")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_intermixed_args()
    models = TINY if args.tiny else MODELS
    if args.what == "export":
        export(models, args.where, args.names)
    else:
        Peer(args.where, models).serve()


if __name__ == "__main__":
    main()
