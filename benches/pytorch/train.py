"""Times whole training steps of a dcff network in PyTorch: forward with P.W, loss, backward, SGD with momentum.

    dcff bench train --arch vgg16 --describe > vgg16.json
    python train.py vgg16.json --threads 1 --layout channels-last

Prints one JSON object with the keys of `dcff bench train --json`, and `import_rss_mib`: the memory that importing
PyTorch took, which depends on its build and not on the network.
"""

import argparse
import json
import resource
import statistics
import sys
import time

import torch
import torch.nn.functional as F

import network

WARM_UP = 2


def peak_mib():
    """The most memory that this process ever had resident."""
    # In KiB, on macOS in bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def asked(about, **defaults):
    """A parser of what all programs that time steps have in common."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("network", help="what `dcff bench train --describe` printed, or - for standard input")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layout", choices=list(network.LAYOUTS), default="channels-last")
    parser.set_defaults(**defaults)
    return parser


def begun(args):
    """The described networks; sets the threads and the seed."""
    torch.set_num_threads(args.threads)
    torch.set_num_interop_threads(1)
    torch.manual_seed(0)
    return json.load(sys.stdin if args.network == "-" else open(args.network, encoding="utf-8"))


def timed(step, args, description, imported, **more):
    """Runs `step` again and again and prints the median of its times."""
    times = []
    for number in range(WARM_UP + args.rounds):
        start = time.perf_counter()
        step()
        if number >= WARM_UP:
            times.append(time.perf_counter() - start)
    told("train", times, args, description, imported, **more)


def told(task, times, args, description, imported, **more):
    """Prints what the median of `times` comes to, with `more` beside it."""
    median = statistics.median(times)
    line = {
        "program": "pytorch",
        "version": torch.__version__,
        "task": task,
        "arch": description["full"]["name"],
        "network": "compact",
        "layout": args.layout,
        "threads": args.threads,
        "batch": args.batch,
        "precision": "f32",
        "images_per_s": args.batch / median,
        "median_step_ms": 1e3 * median,
        "peak_rss_mib": peak_mib(),
        "import_rss_mib": imported,
    }
    print(json.dumps(line | more))


def main():
    parser = asked(__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="bf16: by torch.autocast")
    args = parser.parse_args()
    imported = peak_mib()
    description = begun(args)
    net = network.Network(description, args.layout)
    images = network.images(net, args.batch, args.layout)
    labels = torch.arange(args.batch) % net.classes
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
            loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()

    timed(step, args, description, imported, precision=args.precision)


if __name__ == "__main__":
    main()
