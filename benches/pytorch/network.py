"""A network of dcff as a PyTorch module.

The layers are those that `dcff bench train --describe` prints, so both programs compute the same network. Only what
costs time is alike: weights are random.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6}
LAYOUTS = {"nchw": torch.contiguous_format, "channels-last": torch.channels_last}


class FusedConv(nn.Module):
    """Convolution by `P.W` and `P.b`: all filters W [C, C_in, K, K] are trained, P [M, C] is constant."""

    def __init__(self, filters, kept, inputs, layer, layout):
        super().__init__()
        k = layer["kernel"]
        self.shape = (kept, inputs, k, k)
        self.channels_last = layout == "channels-last"
        self.config = (layer["stride"], layer["padding"], 1, layer["groups"])
        # Stored as the convolution reads it, so that P.W is one product without copies in either layout.
        self.weight = nn.Parameter(torch.randn(filters, inputs * k * k) / (inputs * k * k) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(filters)) if layer["bias"] else None
        self.register_buffer("p", torch.softmax(8 * torch.randn(kept, filters), dim=1))

    def forward(self, x):
        m, c, k, _ = self.shape
        weight = self.p @ self.weight
        if self.channels_last:
            weight = weight.view(m, k, k, c).permute(0, 3, 1, 2)
        else:
            weight = weight.view(self.shape)
        bias = None if self.bias is None else self.p @ self.bias
        return F.conv2d(x, weight, bias, *self.config)


class Shortcut(nn.Module):
    """Every `stride`-th pixel, channels padded with zeros."""

    def __init__(self, stride, missing):
        super().__init__()
        self.stride, self.missing = stride, missing

    def forward(self, x):
        if self.stride != 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.missing:
            x = F.pad(x, (0, 0, 0, 0, self.missing // 2, self.missing - self.missing // 2))
        return x


class Network(nn.Module):
    """Runs the layers in their order; a map is let go after its last reader, unless it is one of `taps`, names of layers."""

    def __init__(self, description, layout="nchw", fused=True, taps=()):
        super().__init__()
        self.layout, self.fused, self.taps = layout, fused, tuple(taps)
        full, compact = description["full"], description["compact"]
        filters = {space["name"]: space["width"] for space in full["spaces"]}
        kept = {space["name"]: space["width"] for space in compact["spaces"]}
        layers = compact["layers"]
        kinds = {layer["name"]: layer["type"] for layer in layers}
        readers = {}
        for i, layer in enumerate(layers):
            for name in layer["inputs"]:
                readers.setdefault(name, []).append(i)
        for name in self.taps:
            readers[name].append(len(layers))
        # Channels and sizes, as far as layers need them.
        channels, height, width = compact["input"]
        shapes = {"input": (channels, height, width)}
        self.steps, self.input = [], tuple(compact["input"])
        modules = nn.ModuleList()
        for i, layer in enumerate(layers):
            kind, inputs = layer["type"], layer["inputs"]
            c, h, w = shapes[inputs[0]]
            # What only this layer reads may be overwritten, unless its maker needs it for the gradient.
            spare = len(readers[inputs[0]]) == 1 and kinds.get(inputs[0]) in ("norm", "conv", "add")
            if kind == "conv":
                k, s, p = layer["kernel"], layer["stride"], layer["padding"]
                m = kept[layer["space"]]
                h, w = (h + 2 * p - k) // s + 1, (w + 2 * p - k) // s + 1
                module = self.convolution(layer, c, m, filters[layer["space"]], (h, w))
                c = m
            elif kind == "norm":
                module = self.norm(layer, c)
            elif kind == "activation":
                if layer["function"] not in ACTIVATIONS:
                    raise SystemExit(f"{layer['name']}: expected {' or '.join(ACTIVATIONS)}, got {layer['function']}")
                module = ACTIVATIONS[layer["function"]](inplace=spare)
            elif kind in ("max_pool", "avg_pool"):
                k, s, p = layer["kernel"], layer["stride"], layer["padding"]
                module = (nn.MaxPool2d if kind == "max_pool" else nn.AvgPool2d)(k, s, p)
                h, w = (h + 2 * p - k) // s + 1, (w + 2 * p - k) // s + 1
            elif kind == "global_avg_pool":
                module, h, w = nn.AdaptiveAvgPool2d(1), 1, 1
            elif kind == "linear":
                module = nn.Sequential(nn.Flatten(), self.linear(layer, c * h * w))
                c, h, w = layer["features"], 1, 1
            elif kind == "shortcut":
                s, m = layer["stride"], kept[layer["space"]]
                module = Shortcut(s, m - c)
                c, h, w = m, -(-h // s), -(-w // s)
            elif kind == "add":
                module = None
            elif kind == "concat":
                module, c = None, sum(shapes[name][0] for name in inputs)
            else:
                raise SystemExit(f"{layer['name']}: unknown type {kind}")
            shapes[layer["name"]] = (c, h, w)
            if module is not None:
                modules.append(module)
            done = [name for name in set(inputs) if readers[name][-1] == i]
            self.steps.append((kind, module is not None, layer["name"], inputs, done, spare))
        self.modules_in_order, self.classes = modules, c
        self.tapped_channels = [shapes[name][0] for name in self.taps]
        if layout == "channels-last":
            self.to(memory_format=torch.channels_last)

    def convolution(self, layer, inputs, outputs, filters, size):
        """Of `inputs` channels, to `outputs` of the layer's `filters`, maps of `size`."""
        groups = inputs if layer["groups"] == "depthwise" else layer["groups"]
        if self.fused and layer["scored"]:
            return FusedConv(filters, outputs, inputs // groups, layer, self.layout)
        config = (layer["kernel"], layer["stride"], layer["padding"])
        return nn.Conv2d(inputs, outputs, *config, groups=groups, bias=layer["bias"])

    def norm(self, layer, channels):
        return nn.BatchNorm2d(channels, eps=layer["eps"], momentum=layer["momentum"])

    def linear(self, layer, inputs):
        return nn.Linear(inputs, layer["features"], bias=layer["bias"])

    def forward(self, x):
        """Logits; with taps, logits and a list of their maps."""
        values, modules = {"input": x}, iter(self.modules_in_order)
        del x
        for kind, has_module, name, inputs, done, spare in self.steps:
            if has_module:
                y = next(modules)(values[inputs[0]])
            elif kind == "concat":
                y = torch.cat([values[i] for i in inputs], dim=1)
            elif spare:
                y = values[inputs[0]].add_(values[inputs[1]])
            else:
                y = values[inputs[0]] + values[inputs[1]]
            for i in done:
                del values[i]
            values[name] = y
        return (y, [values[name] for name in self.taps]) if self.taps else y


def images(network, batch, layout):
    """Noise [N, C, H, W] in the layout."""
    return torch.randn(batch, *network.input).contiguous(memory_format=LAYOUTS[layout])
