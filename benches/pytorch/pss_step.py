"""Times steps of PSS-Net in PyTorch, as `dcff train --method pss-net` computes them.

    dcff bench train --arch mobilenet-v2 --rates 0.0 --describe > mobilenet-v2.json
    python pss_step.py mobilenet-v2.json --batch 16 --side 128 --threads 1 --layout channels-last

A step: the whole network with cross-entropy; one of its slices, on smaller images, scored and trained by the same forward pass; the
smallest slice; both slices learn the logits of the whole network; SGD on the sum of the three gradients. The slice in
between is the same in every step, so that steps cost the same. Prints one JSON object with the keys of `dcff bench train --json`.
"""

import torch
import torch.nn.functional as F
from torch import nn

import network
import train

DIVISOR, NARROWEST = 8, 0.75


def divisible(value, divisor=DIVISOR):
    """A multiple of the divisor near `value`, at least one of them and not a tenth smaller."""
    rounded = max(int((value + divisor / 2) // divisor * divisor), divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


class SlicedConv(nn.Conv2d):
    """Its first filters, of the channels that come; as many as `widths` says of its space."""

    def __init__(self, layer, inputs, outputs, widths):
        self.depthwise = layer["groups"] == "depthwise"
        config = (layer["kernel"], layer["stride"], layer["padding"])
        groups = inputs if self.depthwise else layer["groups"]
        super().__init__(inputs, outputs, *config, groups=groups, bias=layer["bias"])
        self.space, self.widths = layer["space"], widths

    def forward(self, x):
        inputs, outputs = x.shape[1], self.widths[self.space]
        weight = self.weight[:outputs] if self.depthwise else self.weight[:outputs, :inputs]
        bias = None if self.bias is None else self.bias[:outputs]
        return F.conv2d(x, weight, bias, self.stride, self.padding, groups=inputs if self.depthwise else self.groups)


class SlicedNorm(nn.BatchNorm2d):
    def forward(self, x):
        c = x.shape[1]
        values = (t[:c] for t in (self.running_mean, self.running_var, self.weight, self.bias))
        return F.batch_norm(x, *values, self.training, self.momentum, self.eps)

    def move(self, before):
        """Moves the running statistics a second time by what they moved from `before` on."""
        for now, then in zip((self.running_mean, self.running_var), before):
            # m' = m + a (b - m) once, m'' = m' + a (b - m') twice, and so m'' - m' = (1 - a) (m' - m).
            now.add_(now - then, alpha=1 - self.momentum)


class SlicedLinear(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight[:, : x.shape[1]], self.bias)


class Supernet(network.Network):
    """All widths in one: `widths` says how many channels of each space are computed."""

    def __init__(self, description, layout):
        full = description["full"]
        self.widths = {space["name"]: space["width"] for space in full["spaces"]}
        super().__init__({"full": full, "compact": full}, layout, fused=False)
        self.whole, self.full = dict(self.widths), full
        self.norms = [module for module in self.modules() if isinstance(module, SlicedNorm)]

    def convolution(self, layer, inputs, outputs, filters, size):
        return SlicedConv(layer, inputs, outputs, self.widths)

    def norm(self, layer, channels):
        return SlicedNorm(channels, eps=layer["eps"], momentum=layer["momentum"])

    def linear(self, layer, inputs):
        return SlicedLinear(inputs, layer["features"], bias=layer["bias"])

    def slice(self, share):
        """The widths of a slice in which every space has that share of its channels. The inside of an inverted residual is as many
        times as wide as what it reads, and the last convolution of such a network is whole."""
        convs = [layer for layer in self.full["layers"] if layer["type"] == "conv"]
        depthwise = {layer["space"] for layer in convs if layer["groups"] == "depthwise"}
        # The space that a layer's maps belong to; for each space what its first convolution reads; spaces that a narrower one reads.
        belongs, read, narrowed = {}, {}, set()
        for layer in self.full["layers"]:
            source = belongs.get(layer["inputs"][0])
            space = belongs[layer["name"]] = layer.get("space", source)
            if layer["type"] == "conv" and layer["groups"] == 1:
                read.setdefault(space, (source, layer["kernel"]))
                if source and self.whole[space] < self.whole[source]:
                    narrowed.add(source)
        expands, widths = False, {}
        for space, (source, kernel) in read.items():
            whole = self.whole[space]
            times = whole / self.whole[source] if source else 0
            if kernel == 1 and times > 1 and times.is_integer() and space in depthwise & narrowed:
                widths[space], expands = int(times) * widths[source], True
            else:
                widths[space] = min(divisible(whole * share), whole)
        if expands:
            last = convs[-1]["space"]
            widths[last] = self.whole[last]
        return widths

    def at(self, widths, images):
        self.widths.update(widths)
        return self(images)


def resized(images, side, layout):
    if images.shape[-1] == side:
        return images
    images = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=True)
    return images.contiguous(memory_format=network.LAYOUTS[layout])


def apart(logits, told):
    """KL divergence of what `logits` make probable from what `told` do, the mean of the images."""
    return F.kl_div(F.log_softmax(logits, dim=1), F.softmax(told, dim=1), reduction="batchmean")


class Step:
    """The two slices, and the optimiser: the rate is the authors'."""

    def __init__(self, net, side, share, layout, rate=0.3):
        self.net, self.layout = net, layout
        steps = 8 if side >= 128 else 4 if side >= 32 else 2 if side >= 16 else 1
        least = -(-(side * 4 // 7) // steps) * steps
        self.smallest = (net.slice(NARROWEST), least)
        self.middle = (net.slice(share), max(divisible(side * 11 / 14, steps), least))
        self.score = None
        # Depthwise filters are as few numbers as biases: neither decays, nor does what batch norm learns.
        decays = [p for p in net.parameters() if p.dim() == 2 or (p.dim() == 4 and p.shape[1] > 1)]
        own = {id(p) for p in decays}
        others = [p for p in net.parameters() if id(p) not in own]
        groups = [{"params": decays, "weight_decay": 1e-4}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True, fused=True)

    def losses(self, images, labels):
        """Goes forward and backward for the three networks: cross-entropy, and what both slices are apart from the whole."""
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.net.at(self.net.whole, images)
        whole = F.cross_entropy(logits, labels)
        whole.backward()
        told, losses = logits.detach(), [whole.item()]
        for scored, (widths, side) in ((True, self.middle), (False, self.smallest)):
            images_there = resized(images, side, self.layout)
            before = [(n.running_mean.clone(), n.running_var.clone()) for n in self.net.norms] if scored else []
            logits = self.net.at(widths, images_there)
            loss = apart(logits, told)
            if scored:
                self.score = -F.cross_entropy(logits.detach(), labels).item()
            loss.backward()
            # Scored and trained at once: one pass serves both, and statistics move as by two.
            for norm, values in zip(self.net.norms, before):
                norm.move(values)
            losses.append(loss.item())
        return losses

    def __call__(self, images, labels):
        losses = self.losses(images, labels)
        self.optimizer.step()
        return losses


def main():
    parser = train.asked(__doc__.splitlines()[0], batch=16)
    parser.add_argument("--side", type=int, help="height and width of the images; the network's own unless given")
    parser.add_argument("--share", type=float, default=0.875, help="width of the slice in between")
    args = parser.parse_args()
    imported = train.peak_mib()
    description = train.begun(args)
    if args.side:
        description["full"]["input"][1:] = [args.side, args.side]
    net = Supernet(description, args.layout)
    images = network.images(net, args.batch, args.layout)
    labels = torch.arange(args.batch) % net.classes
    step = Step(net, images.shape[-1], args.share, args.layout)
    more = {"method": "pss-net", "network": "full", "sides": [images.shape[-1], step.middle[1], step.smallest[1]]}
    train.timed(lambda: step(images, labels), args, description, imported, **more)


if __name__ == "__main__":
    main()
