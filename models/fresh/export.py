"""Exports models as they are born: zero biases, unit scales, tables tied. Exporters merge and drop such tensors.

    python3 -m venv VENV && VENV/bin/pip install torch==2.15.0 transformers==5.24.0 onnx==1.23.2 onnxscript==0.7.2
    VENV/bin/python models/fresh/export.py [NAME...]

The files in models/fresh were written so, once; the tests read them and need none of these packages. Every model is
exported by both of PyTorch's exporters, with no option but which one, as somebody does who reads no manual: so the batch is
a number. `gpt2` and `tabular` are exported with a batch that is open, too. README.md says what lies in a folder."""
import json
import os
import shutil
import sys
import warnings

import numpy as np
import torch
from torch import nn
from transformers import (BertConfig, BertForSequenceClassification, DistilBertConfig, DistilBertForMaskedLM, GPT2Config,
                          GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM)

HERE = os.path.dirname(os.path.abspath(__file__))
EXPORTED, BATCH, LENGTH, VOCABULARY = 4, 8, 12, 40
warnings.filterwarnings("ignore")


class Outputs(nn.Module):
    """The logits alone of a model that gives more."""

    def __init__(self, model, **more):
        super().__init__()
        self.model, self.more = model, more

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        words = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        words = {k: v for k, v in words.items() if v is not None}
        return self.model(input_ids, **words, **self.more).logits


def gpt2():
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    return Outputs(GPT2LMHeadModel(config), use_cache=False)


def llama():
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=LENGTH, bos_token_id=0, eos_token_id=0)
    return Outputs(LlamaForCausalLM(config), use_cache=False)


def bert():
    config = BertConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
                        max_position_embeddings=LENGTH, num_labels=3)
    return Outputs(BertForSequenceClassification(config))


def distilbert():
    config = DistilBertConfig(vocab_size=VOCABULARY, dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=LENGTH)
    return Outputs(DistilBertForMaskedLM(config))


class Vit(nn.Module):
    """Patches of an image by a Linear, a class token, learned positions, PyTorch's own encoder layers."""

    def __init__(self, side=12, patch=4, width=16, classes=5):
        super().__init__()
        self.patch, self.grid = patch, side // patch
        self.embed = nn.Linear(3 * patch * patch, width)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, self.grid**2 + 1, width))
        layer = nn.TransformerEncoderLayer(width, 2, 24, dropout=0, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, image):
        n, g, p = image.shape[0], self.grid, self.patch
        patches = image.reshape(n, 3, g, p, g, p).permute(0, 2, 4, 1, 3, 5).reshape(n, g * g, 3 * p * p)
        x = torch.cat([self.token.expand(n, -1, -1), self.embed(patches)], 1) + self.positions
        return self.head(self.encoder(x)[:, 0])


class Tabular(nn.Module):
    """Columns of categories and of numbers, residual blocks with norms and a gate; biases start at zero."""

    def __init__(self, width=16, depth=3):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(n, 4) for n in (7, 11))
        self.norm = nn.LayerNorm(5)
        self.inward = nn.Linear(5 + 2 * 4, width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"norm": nn.LayerNorm(width), "up": nn.Linear(width, 2 * width), "act": nn.PReLU(2 * width),
                           "down": nn.Linear(2 * width, width)}) for _ in range(depth))
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(width)) for _ in range(depth))
        self.outward = nn.Linear(width, 2)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, numbers, categories):
        x = torch.cat([self.norm(numbers)] + [t(categories[:, i]) for i, t in enumerate(self.tables)], 1)
        x = self.inward(x)
        for block, scale in zip(self.blocks, self.scales):
            x = x + scale * block["down"](block["act"](block["up"](block["norm"](x))))
        return self.outward(x)


class Spectrum(nn.Module):
    """The lowest frequencies of an image, each by a complex matrix between channels (a Fourier neural operator's layer)."""

    def __init__(self, width, kept):
        super().__init__()
        self.kept = kept
        weight = lambda: nn.Parameter(torch.randn(width, width, kept, kept) / width)
        self.low_re, self.low_im, self.high_re, self.high_im = (weight() for _ in range(4))

    def mix(self, x, re, im):
        times = lambda part, weight: torch.einsum("bixy,ioxy->boxy", x[..., part], weight)
        return torch.stack([times(0, re) - times(1, im), times(0, im) + times(1, re)], -1)

    def forward(self, x):
        k = self.kept
        f = torch.view_as_real(torch.fft.rfft2(x, norm="ortho"))
        between = torch.zeros_like(f[:, :, 2 * k:, :k])
        low, high = (f[:, :, :k, :k], self.low_re, self.low_im), (f[:, :, -k:, :k], self.high_re, self.high_im)
        y = torch.cat([self.mix(*low), between, self.mix(*high)], 2)
        y = nn.functional.pad(y, (0, 0, 0, f.shape[3] - k))
        return torch.fft.irfft2(torch.view_as_complex(y.contiguous()), s=x.shape[-2:], norm="ortho")


class Fno(nn.Module):
    """A small Fourier neural operator on images whose sides are no powers of two."""

    def __init__(self, width=4, kept=3, depth=2):
        super().__init__()
        self.lift, self.project = nn.Conv2d(1, width, 1), nn.Conv2d(width, 1, 1)
        self.spectra = nn.ModuleList(Spectrum(width, kept) for _ in range(depth))
        self.skips = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(depth))

    def forward(self, x):
        x = self.lift(x)
        for spectrum, skip in zip(self.spectra, self.skips):
            x = nn.functional.gelu(spectrum(x) + skip(x))
        return self.project(x)


def tokens(rng, n):
    return torch.from_numpy(rng.integers(1, VOCABULARY, (n, LENGTH)))


def mask(rng, n):
    return torch.from_numpy((np.arange(LENGTH) < rng.integers(LENGTH // 2, LENGTH + 1, (n, 1))).astype(np.int64))


def categories(rng, n):
    return torch.from_numpy(np.stack([rng.integers(0, k, n) for k in (7, 11)], 1))


def normal(*shape):
    return lambda rng, n: torch.from_numpy(rng.standard_normal((n, *shape)).astype(np.float32))


def classes(k, *shape):
    return lambda rng, n: torch.from_numpy(rng.integers(0, k, (n, *shape)))


CASES = {  # model, its inputs, its target
    "gpt2": (gpt2, [tokens], classes(VOCABULARY, LENGTH)),
    "llama": (llama, [tokens], classes(VOCABULARY, LENGTH)),
    "bert": (bert, [tokens, mask, classes(2, LENGTH)], classes(3)),
    "distilbert": (distilbert, [tokens, mask], classes(VOCABULARY, LENGTH)),
    "vit": (Vit, [normal(3, 12, 12)], classes(5)),
    "tabular": (Tabular, [normal(5), categories], normal(2)),
    "fno": (Fno, [normal(1, 10, 12)], normal(1, 10, 12)),  # TorchScript knows no transforms
}
MASKED = ["gpt2", "llama"]  # TorchScript cannot export how these look for packed sequences where they are given no mask
OPEN = ["gpt2", "tabular"]  # exported with an open batch, too


def loss_of(output, target):
    if target.dtype == torch.int64:
        return nn.functional.cross_entropy(output.flatten(0, -2), target.flatten())
    return nn.functional.mse_loss(output, target)


def first_step(model, inputs, target):
    """The loss, and the gradient of every parameter by name, in float64."""
    model = model.double()
    loss = loss_of(model(*[x.double() if x.is_floating_point() else x for x in inputs]),
                   target.double() if target.is_floating_point() else target)
    model.zero_grad()
    loss.backward()
    return loss.item(), {n: p.grad.numpy() if p.grad is not None else np.zeros(p.shape) for n, p in model.named_parameters()}


def folder_of(name, dynamo, is_open):
    return os.path.join(HERE, f"{name}_{'dynamo' if dynamo else 'torchscript'}{'_open' if is_open else ''}")


def export(name, dynamo, is_open):
    build, makers, make_target = CASES[name]
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = build().eval()
    if not dynamo and name in MASKED:
        makers = [*makers, mask]
    inputs, target = [make(rng, BATCH) for make in makers], make_target(rng, BATCH)
    folder = folder_of(name, dynamo, is_open)
    path = os.path.join(folder, "model.onnx")
    if os.path.exists(folder):
        shutil.rmtree(folder)
    os.makedirs(folder)
    given = tuple(x[:EXPORTED] for x in inputs)
    if is_open and dynamo:
        torch.onnx.export(model, given, path, dynamo=True, dynamic_shapes=tuple({0: torch.export.Dim("batch")} for _ in given))
    elif is_open:
        names = [f"input_{i}" for i in range(len(given))]
        torch.onnx.export(model, given, path, dynamo=False, input_names=names, dynamic_axes={n: {0: "batch"} for n in names})
    else:
        torch.onnx.export(model, given, path, dynamo=dynamo)
    describe(folder, path, model, inputs, target)


def describe(folder, path, model, inputs, target):
    import onnx
    graph = onnx.load(path, load_external_data=False).graph
    loss, gradients = first_step(model, inputs, target)
    names = [i.name for i in graph.input if i.name not in {w.name for w in graph.initializer}]
    np.savez_compressed(os.path.join(folder, "data.npz"), target=target.numpy(), **{n: x.numpy() for n, x in zip(names, inputs)})
    np.savez_compressed(os.path.join(folder, "first_gradients.npz"), **{n: g.astype(np.float32) for n, g in gradients.items()})
    expected = {
        "exporter": f"torch {torch.__version__}",
        "batch_size": BATCH,
        "first_loss_float64": loss,
        "trained_tensors": len(gradients),
        "trained_elements": sum(g.size for g in gradients.values()),
        "named_parameters": {n: list(g.shape) for n, g in gradients.items()},
        "gradient_norms": {n: float(np.linalg.norm(g)) for n, g in gradients.items()},
    }
    with open(os.path.join(folder, "expected.json"), "w") as file:
        json.dump(expected, file, indent=1)
        file.write("\n")
    print(os.path.basename(folder), len(gradients), expected["trained_elements"], [os.path.getsize(os.path.join(folder, f)) for f in sorted(os.listdir(folder))])


if __name__ == "__main__":
    for case in sys.argv[1:] or CASES:
        for dynamo in (True, False):
            for is_open in (False, True):
                if is_open and case not in OPEN:
                    continue
                try:
                    export(case, dynamo, is_open)
                except Exception as error:  # what PyTorch cannot is left out, and said
                    shutil.rmtree(folder_of(case, dynamo, is_open))
                    print(f"{case}, {'dynamo' if dynamo else 'torchscript'}: not exported: {str(error).splitlines()[0]}")
