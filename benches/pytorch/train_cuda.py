"""Times training steps of a dcff network in PyTorch on a GPU: channels-last, eager and compiled with CUDA graphs.

    dcff bench train --arch vgg16 --describe > vgg16.json
    python train_cuda.py vgg16.json --precision bf16

Prints one JSON object a line: `mode`, `precision`, `images_per_s` and `median_step_ms`, or `error` where a mode fails.
"""

import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

import network

WARM_UP = 10
GROUP = 20


def measure(step, rounds, batch):
    """Median seconds of a step; steps are timed in groups, so that the host may run ahead as in training."""
    for _ in range(WARM_UP):
        step()
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(GROUP):
            step()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / GROUP)
    seconds = statistics.median(times)
    return {"images_per_s": batch / seconds, "median_step_ms": 1e3 * seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", help="what `dcff bench train --describe` printed, or - for standard input")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", choices=["f32", "tf32", "bf16"], default="bf16")
    parser.add_argument("--modes", default="eager,compiled")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = args.precision != "f32"
    torch.backends.cuda.matmul.allow_tf32 = args.precision != "f32"
    description = json.load(sys.stdin if args.network == "-" else open(args.network, encoding="utf-8"))
    for mode in args.modes.split(","):
        line = {
            "program": "pytorch",
            "version": torch.__version__,
            "arch": description["full"]["name"],
            "device": torch.cuda.get_device_name(),
            "mode": mode,
            "precision": args.precision,
            "batch": args.batch,
        }
        try:
            net = network.Network(description, "channels-last").cuda()
            images = network.images(net, args.batch, "channels-last").cuda()
            labels = (torch.arange(args.batch) % net.classes).cuda()
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
            run = torch.compile(net, mode="max-autotune") if mode == "compiled" else net

            def step():
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast("cuda", torch.bfloat16, enabled=args.precision == "bf16"):
                    loss = F.cross_entropy(run(images).flatten(1).float(), labels)
                loss.backward()
                optimizer.step()

            line.update(measure(step, args.rounds, args.batch))
        except Exception as error:  # one mode that fails must not hide the others
            line["error"] = str(error).splitlines()[0] if str(error) else type(error).__name__
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
