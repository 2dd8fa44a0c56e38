"""Trains a dcff network in PyTorch as the paper publishes it, to compare how fast both learn.

    dcff bench train --arch vgg16 --describe > vgg16.json
    python learn.py vgg16.json --data cifar10 --seed 1 --epochs 24 --stop 6 --out seed1.json

It also needs pyarrow and pillow. DIR holds CIFAR-10 as Parquet files (`train-*.parquet`, `test-*.parquet`; columns `img`
and `label`). What it does is `dcff train --criterion kl-published --temperature published --recipe published`: in the first
epoch P is soft, from the second on it takes the filters chosen at the start as they are. FILE.json gets a line's worth of
numbers for every epoch; FILE.json.checkpoint, written with it, is where the same command goes on, so that an interruption
costs one epoch at most and changes no bit of what comes out.
"""

import argparse
import io
import json
import os
import pathlib
import time

import numpy as np
import pyarrow.parquet as parquet
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import network

MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)))
BORDER, SIZE = 4, 32


def load(folder, part, limit=None):
    """Images [N, 3, 32, 32] as bytes and labels [N] of the part's files, in their order."""
    files = sorted(pathlib.Path(folder).glob(f"{part}-*.parquet"))
    if not files:
        raise SystemExit(f"--data: expected {part}-*.parquet in {folder}, found none")
    images, labels = [], []
    for file in files:
        table = parquet.read_table(file, columns=["img", "label"])
        for image in table["img"].to_pylist()[:limit]:
            pixels = np.asarray(Image.open(io.BytesIO(image["bytes"])).convert("RGB"))
            images.append(torch.from_numpy(pixels.transpose(2, 0, 1).copy()))
        labels += table["label"].to_pylist()[:limit]
    return torch.stack(images), torch.tensor(labels)


def normalised(images):
    # Contiguous maps: PyTorch 2.15's batch norm over channels-last maps is 30 to 55 times further from float64 in what it
    # puts out, 15 to 20 times in gradients. While P is soft the maps of this network are nearly alike, and a difference in
    # the seventh digit reaches the third of the loss within two steps (tests/records/2026-11-28-same-batches).
    return ((images.float() / 255 - MEAN) / STD).contiguous()


def augmented(images):
    """Each image cropped at a place of its own from a black border, every second one mirrored."""
    n = len(images)
    down, right = torch.randint(0, 2 * BORDER + 1, (n,)), torch.randint(0, 2 * BORDER + 1, (n,))
    mirrored = (torch.rand(n) < 0.5).tolist()
    padded = F.pad(images, (BORDER,) * 4)
    crops = (image[:, y : y + SIZE, x : x + SIZE] for image, y, x in zip(padded, down.tolist(), right.tolist()))
    return torch.stack([crop.flip(2) if flip else crop for crop, flip in zip(crops, mirrored)])


def initialise(net, scheme):
    """Draws the weights as dcff does; `network.Network` draws what costs the same time but learns otherwise."""
    for module in net.modules():
        if isinstance(module, network.FusedConv):
            fan_in = module.weight.shape[1]
        elif isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
        else:
            continue
        with torch.no_grad():
            if scheme == "uniform":
                module.weight.uniform_(-(fan_in**-0.5), fan_in**-0.5)
            elif scheme == "kaiming_normal_fan_in":
                module.weight.normal_(0, (2 / fan_in) ** 0.5)
            else:
                raise SystemExit(f"initialisation: expected uniform or kaiming_normal_fan_in, got {scheme}")
            if module.bias is not None:
                module.bias.uniform_(-(fan_in**-0.5), fan_in**-0.5)


def fused(net):
    return [module for module in net.modules() if isinstance(module, network.FusedConv)]


def choose(conv):
    """Row i of P0: softmax over j of -|w_i - w_j|. Kept are the filters with the highest published score, in the order of
    their number; what they are mixed of are their rows."""
    rows = conv.weight.detach().double()
    p = torch.softmax(-torch.cdist(rows, rows), dim=1).float()
    scores = torch.stack([(row * (row / (p + 1e-7)).log()).mean(dim=1).sum() for row in p])
    conv.ids = scores.topk(conv.p.shape[0]).indices.sort().values
    conv.p.copy_(torch.eye(len(rows)) if len(conv.ids) == len(rows) else p[conv.ids])


def take_chosen(conv):
    conv.p.copy_(torch.eye(conv.p.shape[1])[conv.ids])


def learning_rate(epoch, epochs, start):
    """A tenth from half of the epochs on, a hundredth in the last quarter."""
    return start * (0.1 if epoch >= epochs // 2 else 1) * (0.1 if epoch >= epochs * 3 // 4 else 1)


def train_epoch(net, optimizer, images, labels, batch, each=None):
    """One pass in a new order; returns the mean loss and the share of hits on the augmented images."""
    net.train()
    total = hits = 0
    for indices in torch.randperm(len(images)).split(batch):
        optimizer.zero_grad(set_to_none=True)
        logits, wanted = net(normalised(augmented(images[indices]))), labels[indices]
        loss = F.cross_entropy(logits, wanted)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(indices)
        hits += (logits.argmax(1) == wanted).sum().item()
        if each:
            each(loss.item())
    return total / len(images), hits / len(images)


@torch.no_grad()
def accuracy(net, images, labels, batch=500):
    net.eval()
    pairs = zip(images.split(batch), labels.split(batch))
    return sum((net(normalised(x)).argmax(1) == y).sum().item() for x, y in pairs) / len(images)


def replace(path, write):
    """Writes a file whole or not at all."""
    unfinished = f"{path}.unfinished"
    write(unfinished)
    os.replace(unfinished, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", help="what `dcff bench train --describe` printed")
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=300, help="length of the learning rate's schedule")
    parser.add_argument("--stop", type=int, help="train no further than this epoch")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--images", type=int, help="train on the first so many images only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", required=True, metavar="FILE.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_num_interop_threads(1)
    torch.manual_seed(args.seed)

    description = json.load(open(args.network, encoding="utf-8"))
    net = network.Network(description)
    initialise(net, description["compact"]["initialisation"])
    optimizer = torch.optim.SGD(net.parameters(), args.learning_rate, momentum=0.9, weight_decay=5e-4)
    run = {
        "program": "pytorch",
        "version": str(torch.__version__),
        "arch": description["full"]["name"],
        "seed": args.seed,
        "schedule_epochs": args.epochs,
        "batch": args.batch,
        "learning_rate": args.learning_rate,
        "images": args.images,
    }
    epochs, tests = [], {}
    checkpoint = f"{args.out}.checkpoint"
    if os.path.exists(checkpoint):
        state = torch.load(checkpoint, weights_only=True)
        for key, value in state["run"].items():
            if run[key] != value:
                raise SystemExit(f"{checkpoint}: expected {key} {run[key]}, got {value}")
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        for conv, ids in zip(fused(net), state["ids"]):
            conv.ids = ids
        epochs, tests = state["epochs"], state["tests"]
        torch.set_rng_state(state["random"])

    def save():
        state = {"run": run, "net": net.state_dict(), "optimizer": optimizer.state_dict(), "epochs": epochs, "tests": tests}
        state |= {"ids": [conv.ids for conv in fused(net)], "random": torch.get_rng_state()}
        replace(checkpoint, lambda path: torch.save(state, path))
        numbers = json.dumps(run | {"epochs": epochs, "tests": tests}, indent=1) + "\n"
        replace(args.out, lambda path: pathlib.Path(path).write_text(numbers, encoding="utf-8"))

    stop = min(args.stop or args.epochs, args.epochs)
    if len(epochs) < stop:
        images, labels = load(args.data, "train", args.images)
    for epoch in range(len(epochs), stop):
        start = time.process_time()
        for conv in fused(net):
            take_chosen(conv) if epoch else choose(conv)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(epoch, args.epochs, args.learning_rate)
        loss, hits = train_epoch(net, optimizer, images, labels, args.batch)
        seconds = round(time.process_time() - start, 1)
        epochs.append({"epoch": epoch + 1, "loss": loss, "accuracy": hits, "processor_seconds": seconds})
        save()
        print(f"seed {args.seed} epoch {epoch + 1}/{args.epochs}  train {loss:.4f} {100 * hits:.2f} %", flush=True)
    if str(len(epochs)) not in tests:
        tests[str(len(epochs))] = accuracy(net, *load(args.data, "test"))
        save()
    print(f"seed {args.seed} after epoch {len(epochs)}: test {100 * tests[str(len(epochs))]:.2f} %", flush=True)


if __name__ == "__main__":
    main()
