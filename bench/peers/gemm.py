#!/usr/bin/env python3
"""How fast this machine multiplies a model's own matrices, in a process of its own: each linear layer's product forward
and its input's gradient by torch.mm, over the weights of all layers in turn, as a step walks them; the head over the
supervised rows only. What a step needs beside these (attention, norms, the adapter, the optimizer) is left out, so the
time is a bound from below on any step that trains an adapter on a frozen base.

    gemm.py '{"model": FOLDER, "tokens": 592, "supervised": 290, "passes": 3, "threads": 2, "device": "cpu",
              "dtype": "float32"}'
"""
import json
import pathlib
import sys
import time

import torch
from figures import linear_shapes

LEAST_BYTES = 512 << 20  # of distinct weights: more than any cache holds


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_shape(shape, copies, passes, place):
    """Seconds of both products of one layer, the median over `passes` walks through `copies` weights, after one."""
    weights = [torch.randn(shape.out_features, shape.in_features, **place) for _ in range(copies)]
    x, g = torch.randn(shape.rows, shape.in_features, **place), torch.randn(shape.rows, shape.out_features, **place)
    y, dx = torch.mm(x, weights[0].t()), torch.mm(g, weights[0])
    times = []
    for _ in range(passes + 1):
        synchronize(place["device"])
        started = time.monotonic()
        for weight in weights:
            torch.mm(x, weight.t(), out=y)
            torch.mm(g, weight, out=dx)
        synchronize(place["device"])
        times.append((time.monotonic() - started) / copies)
    return sorted(times[1:])[passes // 2]


def measure(request):
    torch.set_num_threads(request["threads"])
    place = {"device": torch.device(request["device"]), "dtype": getattr(torch, request["dtype"])}
    config = json.loads((pathlib.Path(request["model"]) / "config.json").read_text())
    torch.manual_seed(1)
    seconds, flops, shapes = 0.0, 0, []
    for shape in linear_shapes(config, request["tokens"], request["supervised"]):
        weight_bytes = shape.in_features * shape.out_features * torch.finfo(place["dtype"]).bits // 8
        copies = min(shape.count, max(1, LEAST_BYTES // weight_bytes))
        one = time_shape(shape, copies, request["passes"], place)
        seconds, flops = seconds + one * shape.count, flops + shape.flops * shape.count
        shapes.append({**shape._asdict(), "seconds": one, "gflops": shape.flops / one / 1e9})
    return {"seconds": seconds, "flops": flops, "gflops": flops / seconds / 1e9, "tokens": request["tokens"],
            "supervised": request["supervised"], "tokensPerSecond": request["tokens"] / seconds, "shapes": shapes,
            "threads": torch.get_num_threads()}


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
