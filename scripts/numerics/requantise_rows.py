#!/usr/bin/env python3
"""What a row in NF4 loses when a change is added and it is quantised anew, as FB's merge into NF4 does (docs/numerics.md).

Normal weights in blocks of 64, normal changes of several sizes; needs nothing but Python."""
import bisect
import math
import random

VALUES = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
          -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
          0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
MIDPOINTS = [(low + high) / 2 for low, high in zip(VALUES, VALUES[1:])]
BLOCKS, SIZE = 3000, 64


def quantise(block):
    scale = max(map(abs, block))
    return [VALUES[bisect.bisect_left(MIDPOINTS, x / scale)] * scale for x in block]


def difference(first, second):
    return [[x - y for x, y in zip(a, b)] for a, b in zip(first, second)]


def size(blocks):
    return math.sqrt(sum(x * x for block in blocks for x in block) / (BLOCKS * SIZE))


def main():
    rng = random.Random(1)
    weights = [[rng.gauss(0, 1) for _ in range(SIZE)] for _ in range(BLOCKS)]
    base = [quantise(block) for block in weights]
    print(f"NF4 alone: {size(difference(base, weights)):.3f}")
    print("change  error/row  error/change  kept")
    for change_size in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0):
        change = [[rng.gauss(0, change_size) for _ in range(SIZE)] for _ in range(BLOCKS)]
        meant = [[x + y for x, y in zip(a, b)] for a, b in zip(base, change)]
        merged = [quantise(block) for block in meant]
        error = size(difference(merged, meant))
        moved = difference(merged, base)
        kept = sum(x * y for a, b in zip(moved, change) for x, y in zip(a, b)) / (size(change) ** 2 * BLOCKS * SIZE)
        print(f"{change_size:6} {error / size(meant):10.4f} {error / size(change):13.3f} {kept:5.3f}")


if __name__ == "__main__":
    main()
