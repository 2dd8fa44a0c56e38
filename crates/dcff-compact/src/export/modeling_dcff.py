"""A compact convolutional network, built from its config.json with PyTorch alone.

    from modeling_dcff import CompactNetwork
    model = CompactNetwork.from_pretrained("FOLDER")  # holds config.json and model.safetensors
    logits = model(model.preprocess(images))          # images: [N, C, H, W] in 0..1, of any size
    names = [model.labels[i] for i in logits.argmax(1)]

config.json describes a plain narrow network: `spaces` holds the numbers of channels, `layers` the layers in the order of
computation, each with a name, a type and the names of the layers it reads. Parameters are called as in model.safetensors.
"""

import json
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F


class Shortcut(nn.Module):
    """Every stride-th pixel; zero channels added on both sides (negative numbers: channels taken away)."""

    def __init__(self, stride, before, after):
        super().__init__()
        self.stride, self.before, self.after = stride, before, after

    def forward(self, x):
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class Scatter(nn.Module):
    """Channels at their places among `width`, the others zero."""

    def __init__(self, places, width):
        super().__init__()
        self.places, self.width = places, width

    def forward(self, x):
        n, _, height, width = x.shape
        y = x.new_zeros(n, self.width, height, width)
        y[:, self.places] = x
        return y


class Offset(nn.Module):
    """Adds numbers [C, R, S]: the first and last rows and columns have their own, all others share one."""

    def __init__(self, channels, rows, columns):
        super().__init__()
        self.rows, self.columns = rows, columns
        self.bias = nn.Parameter(torch.zeros(channels, sum(rows) + 1, sum(columns) + 1))

    @staticmethod
    def places(ends, size):
        before, after = ends
        return [*range(before), *[before] * (size - before - after), *range(before + 1, before + 1 + after)]

    def forward(self, x):
        rows = self.places(self.rows, x.shape[2])
        columns = self.places(self.columns, x.shape[3])
        return x + self.bias[:, rows][:, :, columns]


class Linear(nn.Linear):
    """[N, C, H, W] to [N, features, 1, 1]."""

    def forward(self, x):
        return super().forward(x.flatten(1))[:, :, None, None]


class Add(nn.Module):
    def forward(self, a, b):
        return a + b


class Concat(nn.Module):
    def forward(self, *inputs):
        return torch.cat(inputs, 1)


def build(layer, inputs, widths):
    """The module of a layer that reads maps of the shapes `inputs`, and the shape [C, H, W] of its own."""
    channels, height, width = inputs[0]

    def window(kernel, stride, padding):
        return [(size + 2 * padding - kernel) // stride + 1 for size in (height, width)]

    kind = layer["type"]
    if kind == "conv":
        filters = widths[layer["space"]]
        args = layer["kernel"], layer["stride"], layer["padding"]
        groups = channels if layer["groups"] == "depthwise" else layer["groups"]
        conv = nn.Conv2d(channels, filters, *args, groups=groups, bias=layer["bias"])
        return conv, [filters, *window(*args)]
    if kind == "norm":
        return nn.BatchNorm2d(channels, layer["eps"], layer["momentum"]), inputs[0]
    if kind == "activation":
        return {"relu": nn.ReLU, "relu6": nn.ReLU6, "identity": nn.Identity}[layer["function"]](), inputs[0]
    if kind in ("max_pool", "avg_pool"):
        args = layer["kernel"], layer["stride"], layer["padding"]
        pool = nn.MaxPool2d if kind == "max_pool" else nn.AvgPool2d
        return pool(*args), [channels, *window(*args)]
    if kind == "global_avg_pool":
        return nn.AdaptiveAvgPool2d(1), [channels, 1, 1]
    if kind == "linear":
        linear = Linear(channels * height * width, layer["features"], layer["bias"])
        return linear, [layer["features"], 1, 1]
    if kind == "add":
        return Add(), inputs[0]
    if kind == "concat":
        return Concat(), [sum(shape[0] for shape in inputs), height, width]
    if kind == "shortcut":
        missing, stride = widths[layer["space"]] - channels, layer["stride"]
        shape = [channels + missing, -(-height // stride), -(-width // stride)]
        return Shortcut(stride, missing // 2, missing - missing // 2), shape
    if kind == "scatter":
        filters = widths[layer["space"]]
        return Scatter(layer["channels"], filters), [filters, height, width]
    if kind == "offset":
        return Offset(channels, layer["rows"], layer["columns"]), inputs[0]
    raise ValueError(f"{layer['name']}: unknown type of layer '{kind}'")


class CompactNetwork(nn.Module):
    """Images [N, C, H, W], preprocessed, to logits [N, classes]."""

    def __init__(self, config):
        super().__init__()
        architecture = config["architecture"]
        self.config = config
        self.labels = config["pretrained_cfg"]["label_names"]
        self.steps = [(layer["name"], layer["inputs"]) for layer in architecture["layers"]]
        self.last_use = {name: i for i, (_, inputs) in enumerate(self.steps) for name in inputs}
        widths = {space["name"]: space["width"] for space in architecture["spaces"]}
        shapes = {"input": architecture["input"]}
        for layer in architecture["layers"]:
            inputs = [shapes[name] for name in layer["inputs"]]
            module, shapes[layer["name"]] = build(layer, inputs, widths)
            # "layer1.0.conv1" is the module conv1 of the module 0 of the module layer1.
            *path, leaf = layer["name"].split(".")
            parent = self
            for part in path:
                if part not in parent._modules:
                    parent.add_module(part, nn.Module())
                parent = parent._modules[part]
            parent.add_module(leaf, module)

    @classmethod
    def from_pretrained(cls, folder):
        """The network of a folder with config.json and model.safetensors, in evaluation mode."""
        from safetensors.torch import load_file

        model = cls(json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")))
        model.load_state_dict(load_file(Path(folder) / "model.safetensors"), strict=True)
        return model.eval()

    def forward(self, images):
        values = {"input": images}
        for i, (name, inputs) in enumerate(self.steps):
            values[name] = self.get_submodule(name)(*(values[each] for each in inputs))
            for each in set(inputs):
                if self.last_use[each] == i:
                    del values[each]
        return values[self.steps[-1][0]].flatten(1)

    def preprocess(self, images):
        """Resizes, crops and normalises images [N, C, H, W] or one image [C, H, W]: bytes, or floats in 0..1."""
        cfg = self.config["pretrained_cfg"]
        channels, height, width = cfg["input_size"]
        if images.dim() == 3:
            images = images[None]
        if images.dim() != 4 or images.shape[1] != channels or 0 in images.shape:
            got = list(images.shape)
            raise ValueError(f"expected images [N, {channels}, H, W] or one [{channels}, H, W], got {got}")
        if images.dtype == torch.uint8:
            images = images.float() / 255
        elif not images.is_floating_point():
            raise TypeError(f"expected bytes (torch.uint8) or floats in 0..1, got {images.dtype}")
        low, high = images.amin().item(), images.amax().item()
        if not (-0.01 <= low and high <= 1.01):
            raise ValueError(f"expected values in 0..1, got {low:g} to {high:g}; bytes are divided by 255 here")
        # The smallest size of the images' own proportions that covers the network's, over crop_pct.
        least = [int(size / cfg["crop_pct"]) for size in (height, width)]
        h, w = images.shape[2:]
        if least[0] * w >= least[1] * h:
            size = [least[0], w * least[0] // h]
        else:
            size = [h * least[1] // w, least[1]]
        if size != [h, w]:
            mode = cfg["interpolation"]
            if mode not in ("bilinear", "bicubic"):
                raise ValueError(f"expected an interpolation of bilinear or bicubic in config.json, got {mode}")
            images = F.interpolate(images, size, mode=mode, antialias=True).clamp(0, 1)
        top, left = round((size[0] - height) / 2), round((size[1] - width) / 2)
        images = images[:, :, top : top + height, left : left + width]
        mean, std = (torch.tensor(cfg[key]).to(images).view(-1, 1, 1) for key in ("mean", "std"))
        return (images - mean) / std
