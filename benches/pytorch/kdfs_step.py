"""Times steps of a KDFS search in PyTorch, as `dcff train --method kdfs` computes them.

    dcff bench train --arch resnet56 --describe > resnet56.json
    python kdfs_step.py resnet56.json --threads 1 --layout channels-last

A step: the maps and logits of a frozen dense teacher; a student whose filters are on or off by Gumbel noise, one draw a step;
cross-entropy, distillation, reconstruction of the teacher's maps by 1x1 decoders, and the distance of the drawn cost from
its target; one backward pass; Adamax for weights and decoders, another for the masks' logits. Prints one JSON object with the
keys of `dcff bench train --json`.
"""

import torch
import torch.nn.functional as F
from torch import nn

import network
import train

DISTILLATION, RECONSTRUCTION, COST = 0.05, 1000.0, 10_000.0
TEMPERATURE = 3.0


class MaskedConv(nn.Conv2d):
    """A convolution whose filters are on or off; the mask is exactly 0 or 1, with the gradient of the soft choice."""

    def __init__(self, layer, inputs, outputs, size):
        config = (layer["kernel"], layer["stride"], layer["padding"])
        super().__init__(inputs, outputs, *config, bias=layer["bias"])
        # Of being off, and of being on.
        self.choice = nn.Parameter(torch.randn(outputs, 2))
        self.temperature, self.mask = 1.0, None
        self.macs = size[0] * size[1] * layer["kernel"] ** 2

    def draw(self):
        noise = -torch.empty_like(self.choice).exponential_().log()
        soft = torch.softmax((self.choice + noise) / self.temperature, dim=1)
        hard = (soft[:, 1] > soft[:, 0]).float()
        return (hard - soft[:, 1].detach()) + soft[:, 1]

    def forward(self, x):
        self.mask = self.draw()
        return F.conv2d(x, self.weight * self.mask.view(-1, 1, 1, 1), self.bias, self.stride, self.padding)


class Student(network.Network):
    """Masks the filters of all scored convolutions but the one that reads the images, where others than the next one read it."""

    def convolution(self, layer, inputs, outputs, filters, size):
        if layer["groups"] != 1 or not layer["scored"] or "input" in layer["inputs"]:
            return super().convolution(layer, inputs, outputs, filters, size)
        return MaskedConv(layer, inputs, outputs, size)

    def masked(self):
        return [module for module in self.modules() if isinstance(module, MaskedConv)]


def attention(maps):
    """Where maps [N, C, H, W] are active: the mean of their squares over the channels, a row of length 1 for each image."""
    return F.normalize(maps.square().mean(dim=1).flatten(1), dim=1, eps=1e-12)


def reconstruction(decoded, told):
    return (attention(decoded) - attention(told)).square().mean()


def distillation(logits, told):
    divergence = F.kl_div(
        F.log_softmax(logits / TEMPERATURE, dim=1), F.softmax(told / TEMPERATURE, dim=1), reduction="batchmean"
    )
    return TEMPERATURE**2 * divergence


class Cost:
    """Multiply-accumulates of the network that was drawn. The second convolution of a block reads what the first one keeps; the
    first reads a stream of full width."""

    def __init__(self, student, description):
        names = [layer["name"] for layer in description["layers"] if layer["type"] == "conv"]
        convs = [m for m in student.modules_in_order if isinstance(m, nn.Conv2d)]
        sources = {layer["name"]: layer for layer in description["layers"]}
        by_name, self.terms = dict(zip(names, convs)), []
        for name in names:
            source = sources[name]["inputs"][0]
            # Back over norms and activations to what made the maps.
            while source in sources and sources[source]["type"] in ("norm", "activation"):
                source = sources[source]["inputs"][0]
            self.terms.append((by_name[name], by_name.get(source)))
        self.fixed = sum(m.weight.numel() for m in student.modules() if isinstance(m, nn.Linear))
        # The stem's.
        height, width = description["input"][1:]
        self.fixed += sum(m.weight.numel() * height * width for m in convs if not isinstance(m, MaskedConv))
        self.base = self.of(lambda conv: conv.out_channels)

    def of(self, kept):
        total = self.fixed
        for conv, source in self.terms:
            if isinstance(conv, MaskedConv):
                inputs = kept(source) if isinstance(source, MaskedConv) else conv.in_channels
                total = total + conv.macs * inputs * kept(conv)
        return total

    def drawn(self):
        return self.of(lambda conv: conv.mask.sum())


class Search:
    """Teacher, student, decoders and both optimisers."""

    def __init__(self, description, taps, target, layout="nchw"):
        # Neither of them is compact.
        full = {"full": description["full"], "compact": description["full"]}
        self.teacher = network.Network(full, layout, fused=False, taps=taps).eval()
        self.student, self.target = Student(full, layout, fused=False, taps=taps), target
        self.cost = Cost(self.student, description["full"])
        self.decoders = nn.ModuleList(nn.Conv2d(width, width, 1) for width in self.student.tapped_channels)
        self.decoders.to(memory_format=network.LAYOUTS[layout])
        logits = [conv.choice for conv in self.student.masked()]
        own = {id(choice) for choice in logits}
        weights = [p for p in [*self.student.parameters(), *self.decoders.parameters()] if id(p) not in own]
        # `foreach` has PyTorch update all tensors by few calls, which is the faster.
        self.optimizers = [
            torch.optim.Adamax(weights, lr=1e-2, eps=1e-7, weight_decay=1e-4, foreach=True),
            torch.optim.Adamax(logits, lr=1e-2, eps=1e-7, foreach=True),
        ]

    def losses(self, images, labels):
        """Weighted: cross-entropy, distillation, reconstruction, cost."""
        with torch.no_grad():
            told, taught = self.teacher(images)
        logits, maps = self.student(images)
        pairs = list(zip(self.decoders, maps, taught))
        apart = sum(reconstruction(decoder(own), other) for decoder, own, other in pairs) / max(len(pairs), 1)
        excess = self.cost.drawn() / self.cost.base - self.target
        return (
            F.cross_entropy(logits, labels),
            DISTILLATION * distillation(logits, told),
            RECONSTRUCTION * apart,
            COST * excess**2,
        )

    def step(self, images, labels):
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        sum(self.losses(images, labels)).backward()
        for optimizer in self.optimizers:
            optimizer.step()


def stage_ends(description):
    """The last sum of every resolution, behind its activation: where the shortcut to the next one begins, and the end."""
    layers = description["full"]["layers"]
    ends = [layer["inputs"][0] for layer in layers if layer["type"] == "shortcut" and layer["stride"] != 1]
    return ends + [layer["inputs"][0] for layer in layers if layer["type"] == "global_avg_pool"]


def main():
    parser = train.asked(__doc__.splitlines()[0])
    parser.add_argument("--target", type=float, default=0.5, help="share of the multiply-accumulates that may be left")
    args = parser.parse_args()
    imported = train.peak_mib()
    description = train.begun(args)
    search = Search(description, stage_ends(description), args.target, args.layout)
    images = network.images(search.student, args.batch, args.layout)
    labels = torch.arange(args.batch) % search.student.classes
    train.timed(lambda: search.step(images, labels), args, description, imported, method="kdfs", network="full")


if __name__ == "__main__":
    main()
