"""Sets runs of dcff and of `learn.py` side by side: tables of accuracy and loss on the augmented training images, and a figure.

    python learn_figure.py --side dcff dcff-seed*.jsonl --side PyTorch seed*.json --figure learning.svg

A file of dcff, `.jsonl`, is the `metrics.jsonl` of a run. Prints Markdown, each run under the name of its file, and the first
side's distance from each of the others. It needs nothing but Python.
"""

import argparse
import json
import math
import pathlib
import statistics

COLOURS = ["#1b9e77", "#d95f02", "#7570b3", "#666666"]
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 380, 52, 16, 16, 44


def read(path):
    """Accuracies in per cent and losses, epoch by epoch."""
    with open(path, encoding="utf-8") as file:
        if path.endswith(".jsonl"):
            epochs = [json.loads(line)["train"] for line in file if line.strip()]
        else:
            epochs = json.load(file)["epochs"]
    return [100 * epoch["accuracy"] for epoch in epochs], [epoch["loss"] for epoch in epochs]


def at(runs, epoch):
    """What the runs that came that far have in that epoch, counted from 0."""
    return [run[epoch] for run in runs if len(run) > epoch]


def spread(values):
    return statistics.stdev(values) if len(values) > 1 else math.nan


def error_of_difference(a, b):
    """The standard error of the difference of two means; both sides draw apart, so runs are not paired."""
    return math.sqrt(sum(statistics.variance(v) / len(v) for v in (a, b)))


def table(sides, names, digits):
    """`sides`: for each program its runs, and `names` what they are called."""
    last = max(len(run) for runs in sides.values() for run in runs)
    yield "| program | run |" + "".join(f" epoch {e + 1} |" for e in range(last))
    yield "| --- | --- |" + " ---: |" * last
    row = lambda name, what, cells: f"| {name} | {what} | " + " | ".join(cells) + " |"
    number = lambda value: "" if math.isnan(value) else f"{value:.{digits}f}"
    for name, runs in sides.items():
        for called, run in zip(names[name], runs):
            yield row(name, called, [number(run[e]) if e < len(run) else "" for e in range(last)])
        every = [at(runs, e) for e in range(last)]
        yield row(name, "runs", [str(len(v)) for v in every])
        yield row(name, "mean", [number(statistics.mean(v)) if v else "" for v in every])
        yield row(name, "standard deviation", [number(spread(v)) for v in every])
    (first, own), *others = sides.items()
    for name, runs in others:
        pairs = [(at(own, e), at(runs, e)) for e in range(last)]
        both = [pair if min(map(len, pair)) > 1 else None for pair in pairs]
        means = [statistics.mean(pair[0]) - statistics.mean(pair[1]) if pair else math.nan for pair in both]
        errors = [error_of_difference(*pair) if pair else math.nan for pair in both]
        yield row(f"{first} - {name}", "difference of the means", map(number, means))
        yield row(f"{first} - {name}", "its standard error", map(number, errors))


def figure(sides):
    """Means of all of a side's runs, with a band of one standard deviation to either side, and every run as a thin line."""
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
        colour = COLOURS[number % len(COLOURS)]
        # The mean of a few of the runs would bend where the others end.
        many = [(e, at(runs, e)) for e in range(last) if len(at(runs, e)) == len(runs) > 1]
        means = [(e, statistics.mean(v)) for e, v in many]
        band = [(e, statistics.mean(v), spread(v)) for e, v in many]
        edge = [(e, v + d) for e, v, d in band] + [(e, v - d) for e, v, d in reversed(band)]
        yield f'<polygon fill="{colour}" fill-opacity="0.15" points="{points(edge)}"/>'
        for run in runs:
            yield f'<polyline fill="none" stroke="{colour}" stroke-opacity="0.35" stroke-width="0.7" points="{points(enumerate(run))}"/>'
        yield f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{points(means)}"/>'
        line, text = TOP + 14 + 16 * number, f"{name}: mean ± 1 standard deviation, {len(runs)} runs"
        yield f'<path d="M{LEFT + 14} {line}h22" stroke="{colour}" stroke-width="2"/><text x="{LEFT + 42}" y="{line + 4}">{text}</text>'
    yield "</svg>"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", nargs="+", action="append", required=True, metavar=("NAME", "FILE"), help="one or more")
    parser.add_argument("--figure", metavar="FILE.svg")
    args = parser.parse_args()
    both = {name: [read(path) for path in paths] for name, *paths in args.side}
    names = {name: [pathlib.Path(path).stem for path in paths] for name, *paths in args.side}
    if empty := [name for name, runs in both.items() if not runs]:
        raise SystemExit(f"--side {empty[0]}: expected files, got none")
    accuracies, losses = ({name: [run[i] for run in runs] for name, runs in both.items()} for i in (0, 1))
    print("Accuracy, %:\n")
    print("\n".join(table(accuracies, names, 2)))
    print("\nLoss:\n")
    print("\n".join(table(losses, names, 4)))
    if args.figure:
        with open(args.figure, "w", encoding="utf-8") as file:
            file.write("\n".join(figure(accuracies)) + "\n")


if __name__ == "__main__":
    main()
