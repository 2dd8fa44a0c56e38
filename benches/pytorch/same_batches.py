"""VGG-16, fused as published, trained by PyTorch on batches that it writes for `same_batches.rs`, to compare both step by step.

It also needs pyarrow, pillow and safetensors.

usage: same_batches.py TRAIN_PARQUET FOLDER SEED MODE [--soft 60] [--chosen 40] [--stop STEP]

The first steps mix all filters (temperature 1), the others take the filters chosen at the start, with the momentum of the
steps before. MODE: `channels-last` (oneDNN; it also writes FOLDER/given.safetensors), `native` (contiguous maps, without
oneDNN) or `double` (float64).
"""

import argparse
import io

import numpy as np
import pyarrow.parquet as parquet
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import nn

FILTERS = [64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0]
RATES = [0.5] * 2 + [0.4] * 2 + [0.35] * 3 + [0.85] * 6
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
BATCH = 256


class Fused(nn.Conv2d):
    """A convolution by `P W`; `P` is constant."""

    def __init__(self, channels, filters, kept):
        super().__init__(channels, filters, 3, padding=1)
        self.kept = kept

    def choose(self):
        """Mixes by the published score and proxies at temperature 1, and remembers which filters it kept."""
        rows = self.weight.detach().flatten(1).double()
        p = torch.softmax(-torch.cdist(rows, rows), 1).float()
        scores = [(row * torch.log(row / (p + 1e-7))).mean(1).sum() for row in p]
        self.ids = torch.stack(scores).topk(self.kept).indices.sort().values
        self.p = p[self.ids]

    def forward(self, x):
        p = self.p.to(x.dtype)
        weight = (p @ self.weight.flatten(1)).unflatten(1, self.weight.shape[1:])
        return F.conv2d(x, weight, p @ self.bias, padding=1)


def vgg16():
    layers, channels, rates = nn.Sequential(), 3, iter(RATES)
    for filters in FILTERS:
        if filters == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        kept = int(filters * (1 - next(rates)))
        for layer in (Fused(channels, filters, kept), nn.BatchNorm2d(kept), nn.ReLU()):
            layers.append(layer)
        channels = kept
    return nn.ModuleDict({"features": layers, "classifier": nn.Linear(channels, 10)})


def augmented(image):
    """A crop of the image in a black border of 4 pixels, mirrored every second time."""
    down, right, mirrored = torch.randint(0, 9, (2,)).tolist() + [torch.rand(()) < 0.5]
    crop = F.pad(image, (4, 4, 4, 4))[:, down : down + 32, right : right + 32]
    return crop.flip(2) if mirrored else crop


def batches(path, steps):
    table = parquet.read_table(path)
    labels = torch.tensor(table["label"].to_pylist())
    order = torch.randperm(len(labels))[: steps * BATCH]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    for indices in order.split(BATCH):
        pixels = [table["img"][i.item()].as_py()["bytes"] for i in indices]
        pixels = [np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in pixels]
        images = [augmented(torch.tensor(one).permute(2, 0, 1)) for one in pixels]
        yield (torch.stack(images).float() / 255 - mean) / std, labels[indices]


def main():
    a = argparse.ArgumentParser()
    a.add_argument("parquet")
    a.add_argument("folder")
    a.add_argument("seed", type=int)
    a.add_argument("mode", choices=["channels-last", "native", "double"])
    a.add_argument("--soft", type=int, default=60)
    a.add_argument("--chosen", type=int, default=40)
    a.add_argument("--stop", type=int, help="train no further than this step")
    a = a.parse_args()
    torch.manual_seed(a.seed)
    net = vgg16()
    convs = {name: m for name, m in net.named_modules() if isinstance(m, Fused)}
    for conv in convs.values():
        conv.choose()
    given = list(batches(a.parquet, a.soft + a.chosen))
    if a.mode == "channels-last":
        tensors = {f"init.{n}": t.clone() for n, t in net.state_dict().items() if "tracked" not in n}
        tensors |= {f"ids.{name}": conv.ids for name, conv in convs.items()}
        tensors |= {"soft": torch.tensor([a.soft])}
        for step, (images, labels) in enumerate(given):
            tensors |= {f"x{step}": images.contiguous(), f"y{step}": labels}
        save_file(tensors, f"{a.folder}/given.safetensors")
        net = net.to(memory_format=torch.channels_last)
    elif a.mode == "native":
        torch.backends.mkldnn.enabled = False
    else:
        net = net.double()
    named = list(net.named_parameters())
    sgd = torch.optim.SGD([p for _, p in named], 0.1, momentum=0.9, weight_decay=5e-4)
    with open(f"{a.folder}/pytorch-{a.mode}.csv", "w") as table:
        for step, (images, labels) in enumerate(given[: a.stop]):
            if step == a.soft:
                for conv in convs.values():
                    conv.p = torch.eye(len(conv.weight))[conv.ids]
            if a.mode == "channels-last":
                images = images.contiguous(memory_format=torch.channels_last)
            images = images.double() if a.mode == "double" else images
            sgd.zero_grad()
            loss = F.cross_entropy(net["classifier"](net["features"](images).flatten(1)), labels)
            loss.backward()
            norm = sum(p.grad.double().square().sum() for _, p in named).sqrt().item()
            if step == 0:
                gradients = {name: p.grad.float().contiguous() for name, p in named}
                save_file(gradients, f"{a.folder}/pytorch-{a.mode}-gradients.safetensors")
            print(f"{step},{loss.item():.9f},{norm:.9e}", file=table, flush=True)
            sgd.step()


main()
