"""Both of PyTorch's exporters, from one network with BatchNormalization and Dropout (of which the ratio is 0, so that losses
can be compared)."""

import sys

import torch
from torch import nn

import common


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.0)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.head(self.drop(x))


def train(model, x, target):
    """Losses in float64, in training mode."""
    model = model.double().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=common.RATE)
    for a, b in common.batches(torch.tensor(x).double(), torch.tensor(target)):
        loss = nn.functional.cross_entropy(model(a), b)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def main():
    x, target = common.images()
    for name in ("torch_dynamo", "torch_script"):
        torch.manual_seed(0)
        model = Network()
        sample = torch.tensor(x[:2])
        path = common.folder(name)
        if name == "torch_dynamo":
            torch.onnx.export(model.train(), (sample,), path, dynamo=True, optimize=False, external_data=False,
                              dynamic_shapes={"x": {0: torch.export.Dim("N")}})
        else:
            torch.onnx.export(model.train(), (sample,), path, dynamo=False, training=torch.onnx.TrainingMode.TRAINING,
                              do_constant_folding=False, input_names=["x"], dynamic_axes={"x": {0: "N"}})
        common.keep(name, x, target, train(model, x, target), "cross_entropy", exporter=f"torch {torch.__version__}",
                    microbatches=1)


sys.exit(main())
