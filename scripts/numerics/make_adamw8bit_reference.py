#!/usr/bin/env python3
"""Writes tests/data/golden/adamw8bit: what bitsandbytes' AdamW8bit does on the CPU, step by step.

Run with the interpreter that scripts/reference_env prints. The C++ test tests/unit/trainer_loop/adamw8bit_test.cc reads
the file, so ordinary test runs need no Python. Seeded: a second run writes the same bytes on the same machine.

Two tensors: `large`, whose moments are held in 8 bits (with a short last block, a block whose gradients are all zero, one
of tiny and one of huge gradients), and `small`, below the 4096 elements from which bitsandbytes uses 8 bits. State and
parameters are those after each step; gradients are the step's.
"""
import pathlib
import sys

import bitsandbytes
import torch
from bitsandbytes.functional import create_dynamic_map
from safetensors.torch import save_file

LARGE, SMALL, STEPS, BLOCK = (66, 70), (40,), 4, 256
ADAMW = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)


def gradients(generator, shape):
    grad = torch.randn(shape, generator=generator) * 0.01
    if shape == LARGE:
        flat = grad.view(-1)
        flat[2 * BLOCK:3 * BLOCK] = 0
        flat[4 * BLOCK:5 * BLOCK] *= 1e-12
        flat[6 * BLOCK:7 * BLOCK] *= 1e12
    return grad


def main():
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2] / "tests/data/golden"
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(8)
    weights = {"large": torch.nn.Parameter(torch.randn(LARGE, generator=generator) * 0.1),
               "small": torch.nn.Parameter(torch.randn(SMALL, generator=generator) * 0.1)}
    optimizer = bitsandbytes.optim.AdamW8bit(weights.values(), **ADAMW)
    tensors = {"map.signed": create_dynamic_map(signed=True), "map.unsigned": create_dynamic_map(signed=False)}
    tensors.update({f"0.{name}.weight": weight.detach().clone() for name, weight in weights.items()})
    for step in range(1, STEPS + 1):
        for name, weight in weights.items():
            weight.grad = gradients(generator, tuple(weight.shape))
            tensors[f"{step}.{name}.gradient"] = weight.grad.clone()
        optimizer.step()
        for name, weight in weights.items():
            state = optimizer.state[weight]
            tensors[f"{step}.{name}.weight"] = weight.detach().clone()
            tensors[f"{step}.{name}.m"] = state["state1"].clone()
            tensors[f"{step}.{name}.v"] = state["state2"].clone()
            if state["state1"].dtype == torch.uint8:
                tensors[f"{step}.{name}.m_scales"] = state["absmax1"].clone()
                tensors[f"{step}.{name}.v_scales"] = state["absmax2"].clone()
    folder = root / "adamw8bit"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "steps.safetensors")
    print("bitsandbytes", bitsandbytes.__version__, {name: list(t.shape) for name, t in tensors.items() if name.startswith("1.")})


if __name__ == "__main__":
    main()
