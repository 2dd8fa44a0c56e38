"""Times forward passes of a finished dcff network, compact and dense, in PyTorch: eager, frozen by torch.jit, and with
--compile by torch.compile, its weights frozen too.

    dcff bench train --arch vgg16 --describe > vgg16.json
    python infer.py vgg16.json --batch 1 --threads 1 --layout channels-last

Prints one JSON object a line with the keys of `dcff bench infer --json`.
"""

import argparse
import json
import statistics
import sys
import time
import warnings

import torch

import network
from train import peak_mib

WARM_UP = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", help="what `dcff bench train --describe` printed, or - for standard input")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layout", choices=list(network.LAYOUTS), default="channels-last")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile as well; needs a C++ compiler")
    args = parser.parse_args()
    imported = peak_mib()
    torch.set_num_threads(args.threads)
    torch.set_num_interop_threads(1)
    torch.manual_seed(0)
    # torch.jit is deprecated, and still the faster of the two for some networks.
    warnings.simplefilter("ignore")

    description = json.load(sys.stdin if args.network == "-" else open(args.network, encoding="utf-8"))
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
        median = statistics.median(seconds)
        line = {
            "program": "pytorch",
            "version": torch.__version__,
            "task": "infer",
            "arch": description["full"]["name"],
            "network": name,
            "layout": args.layout,
            "mode": mode,
            "threads": args.threads,
            "batch": args.batch,
            "precision": "f32",
            "images_per_s": args.batch / median,
            "median_step_ms": 1e3 * median,
            "peak_rss_mib": peak_mib(),
            "import_rss_mib": imported,
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
