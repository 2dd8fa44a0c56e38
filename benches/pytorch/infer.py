"""Times forward passes of a finished dcff network, compact and dense, in PyTorch: eager, frozen by torch.jit, and with
--compile by torch.compile, its weights frozen too.

    dcff bench train --arch vgg16 --describe > vgg16.json
    python infer.py vgg16.json --batch 1 --threads 1 --layout channels-last

Prints one JSON object a line with the keys of `dcff bench infer --json`.
"""

import time
import warnings

import torch

import network
from train import asked, begun, peak_mib, told

WARM_UP = 3


def main():
    parser = asked(__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true", help="measure torch.compile as well; needs a C++ compiler")
    args = parser.parse_args()
    imported = peak_mib()
    description = begun(args)
    # torch.jit is deprecated, and still the faster of the two for some networks.
    warnings.simplefilter("ignore")
    full = {"full": description["full"], "compact": description["full"]}
    runners = {}
    for name, described in (("compact", description), ("dense", full)):
        net = network.Network(described, args.layout, fused=False).eval()
        images = network.images(net, args.batch, args.layout)
        with torch.no_grad():
            frozen = torch.jit.optimize_for_inference(torch.jit.trace(net, images))
        runners[name, "eager"], runners[name, "jit"] = net, frozen
        if args.compile:
            from torch._inductor import config as inductor

            inductor.freezing = True
            runners[name, "compile"] = torch.compile(net)
    times = {key: [] for key in runners}
    # Small batches are over soon: more of them fit the same time.
    rounds = args.rounds * max(64 // args.batch, 1)
    with torch.no_grad():
        for step in range(WARM_UP + rounds):
            for key, net in runners.items():
                start = time.perf_counter()
                net(images)
                if step >= WARM_UP:
                    times[key].append(time.perf_counter() - start)
    for (name, mode), seconds in times.items():
        told("infer", seconds, args, description, imported, network=name, mode=mode)


if __name__ == "__main__":
    main()
