"""Sets runs of `learn.py` beside runs of dcff: a table of accuracies on the augmented training images, and a figure.

    python learn_figure.py --dcff runs/*/metrics.jsonl --pytorch seed*.json --figure learning.svg

Prints Markdown. It needs nothing but Python.
"""

import argparse
import json
import math
import statistics

COLOURS = {"dcff": "#1b9e77", "PyTorch": "#d95f02"}
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 380, 52, 16, 16, 44


def dcff_run(path):
    """Accuracies in per cent and losses, epoch by epoch."""
    with open(path, encoding="utf-8") as lines:
        epochs = [json.loads(line)["train"] for line in lines if line.strip()]
    return [100 * e["accuracy"] for e in epochs], [e["loss"] for e in epochs]


def pytorch_run(path):
    with open(path, encoding="utf-8") as file:
        epochs = json.load(file)["epochs"]
    return [100 * e["accuracy"] for e in epochs], [e["loss"] for e in epochs]


def at(runs, epoch):
    """What the runs that came that far have in that epoch, counted from 0."""
    return [run[epoch] for run in runs if len(run) > epoch]


def spread(values):
    return statistics.stdev(values) if len(values) > 1 else math.nan


def error_of_difference(a, b):
    """The standard error of the difference of two means; both sides draw apart, so runs are not paired."""
    return math.sqrt(sum(statistics.variance(v) / len(v) for v in (a, b)))


def table(sides, digits):
    """`sides`: for each program its runs."""
    last = max(len(run) for runs in sides.values() for run in runs)
    yield "| program | run |" + "".join(f" epoch {e + 1} |" for e in range(last))
    yield "| --- | --- |" + " ---: |" * last
    row = lambda name, what, cells: f"| {name} | {what} | " + " | ".join(cells) + " |"
    number = lambda value: "" if math.isnan(value) else f"{value:.{digits}f}"
    for name, runs in sides.items():
        for i, run in enumerate(runs):
            yield row(name, i + 1, [number(run[e]) if e < len(run) else "" for e in range(last)])
        every = [at(runs, e) for e in range(last)]
        yield row(name, "mean", [number(statistics.mean(v)) if v else "" for v in every])
        yield row(name, "standard deviation", [number(spread(v)) for v in every])
    (first, a), (second, b) = sides.items()
    pairs = [(at(a, e), at(b, e)) for e in range(last)]
    both = [p if min(map(len, p)) > 1 else None for p in pairs]
    means = [statistics.mean(p[0]) - statistics.mean(p[1]) if p else math.nan for p in both]
    errors = [error_of_difference(*p) if p else math.nan for p in both]
    yield row(f"{first} - {second}", "difference of the means", map(number, means))
    yield row(f"{first} - {second}", "its standard error", map(number, errors))


def figure(sides):
    """Means with a band of one standard deviation to either side, and every run as a thin line."""
    last = max(len(run) for runs in sides.values() for run in runs)
    values = [value for runs in sides.values() for run in runs for value in run]
    low, high = math.floor(min(values) / 5) * 5, math.ceil(max(values) / 5) * 5
    x = lambda e: LEFT + (WIDTH - LEFT - RIGHT) * e / max(last - 1, 1)
    y = lambda v: TOP + (HEIGHT - TOP - BOTTOM) * (high - v) / (high - low)
    points = lambda pairs: " ".join(f"{x(e):.1f},{y(v):.1f}" for e, v in pairs)
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">'
    yield "<title>Accuracy on the augmented training images, epoch by epoch</title>"
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    for v in range(low, high + 1, 5):
        yield f'<path d="M{LEFT} {y(v):.1f}H{WIDTH - RIGHT}" stroke="#eee"/>'
        yield f'<text x="{LEFT - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v}</text>'
    for e in range(last):
        yield f'<text x="{x(e):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{e + 1}</text>'
    yield f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">epoch</text>'
    middle = (TOP + HEIGHT - BOTTOM) / 2
    yield f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">accuracy, %</text>'
    for number, (name, runs) in enumerate(sides.items()):
        colour = COLOURS[name]
        means = [(e, statistics.mean(at(runs, e))) for e in range(last) if at(runs, e)]
        band = [(e, v, spread(at(runs, e))) for e, v in means if len(at(runs, e)) > 1]
        edge = [(e, v + d) for e, v, d in band] + [(e, v - d) for e, v, d in reversed(band)]
        yield f'<polygon fill="{colour}" fill-opacity="0.15" points="{points(edge)}"/>'
        for run in runs:
            yield f'<polyline fill="none" stroke="{colour}" stroke-opacity="0.35" stroke-width="0.7" points="{points(enumerate(run))}"/>'
        yield f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{points(means)}"/>'
        line, text = TOP + 14 + 16 * number, f"{name}: mean of {len(runs)} seeds, ± 1 standard deviation"
        yield f'<path d="M{LEFT + 14} {line}h22" stroke="{colour}" stroke-width="2"/><text x="{LEFT + 42}" y="{line + 4}">{text}</text>'
    yield "</svg>"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dcff", nargs="+", required=True, metavar="METRICS.jsonl")
    parser.add_argument("--pytorch", nargs="+", required=True, metavar="FILE.json")
    parser.add_argument("--figure", metavar="FILE.svg")
    args = parser.parse_args()
    both = {"dcff": [dcff_run(path) for path in args.dcff], "PyTorch": [pytorch_run(path) for path in args.pytorch]}
    accuracies, losses = ({name: [run[i] for run in runs] for name, runs in both.items()} for i in (0, 1))
    print("Accuracy, %:\n")
    print("\n".join(table(accuracies, 2)))
    print("\nLoss:\n")
    print("\n".join(table(losses, 4)))
    if args.figure:
        with open(args.figure, "w", encoding="utf-8") as file:
            file.write("\n".join(figure(accuracies)) + "\n")


if __name__ == "__main__":
    main()
