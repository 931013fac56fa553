#!/usr/bin/env python3
"""Writes tests/data/golden/nf4: weights and what bitsandbytes makes of them on the CPU.

    "$(scripts/reference_env)" scripts/numerics/make_nf4_reference.py

tests/unit/kernels/nf4_test.cc reads the files, so ordinary test runs need no Python. Seeded: a second run writes the same
bytes. compare_smollm2.py uses the functions here to hold a whole model against bitsandbytes.

One thread: PyTorch adds up the scales' mean in an order that depends on the number of threads above 32768 scales.
"""
import pathlib

import numpy
import torch
from bitsandbytes import functional
from safetensors import safe_open
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
BLOCK = 64


def quantise(weight):
    """codes, scales, scale codes, group scales, offset: what nf4.h names so."""
    codes, state = functional.quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4")
    scales = state.absmax
    _, nested = functional.quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4", compress_statistics=True)
    return {"codes": codes.flatten(), "scales": scales, "scale_codes": nested.absmax,
            "group_scales": nested.state2.absmax, "offset": nested.offset.reshape(1)}


def dequantise(parts, elements, dtype):
    """Through the float scales and through the double-quantised ones."""
    state = functional.QuantState(absmax=parts["scales"], shape=(elements,), dtype=dtype, blocksize=BLOCK,
                                  quant_type="nf4", code=functional.get_4bit_type("nf4", device="cpu"))
    plain = functional.dequantize_4bit(parts["codes"].unsqueeze(1), state)
    inner = functional.QuantState(absmax=parts["group_scales"], code=functional.create_dynamic_map(), blocksize=256,
                                  dtype=torch.float32)
    state.absmax, state.nested, state.offset, state.state2 = parts["scale_codes"], True, parts["offset"][0], inner
    return plain, functional.dequantize_4bit(parts["codes"].unsqueeze(1), state)


def weights():
    """Name -> float32 values. Sizes around the block, around the group of 256 scales, odd; extreme values."""
    random = numpy.random.default_rng(20240705)
    normal = lambda n, scale=0.02: (random.standard_normal(n) * scale).astype(numpy.float32)
    cases = {f"normal_{n}": normal(n) for n in (1, 2, 63, 64, 65, 127, 128, 1000, 4097, 64 * 257 + 5)}
    cases["outliers"] = normal(2048)
    cases["outliers"][::97] *= 40
    cases["tiny"] = normal(640, 1e-36)
    cases["subnormal"] = numpy.repeat(numpy.float32([1e-39, -3e-40, 1e-45, 0.0]), 48)
    cases["huge"] = normal(321, 3e4)
    cases["zero"] = numpy.zeros(130, numpy.float32)
    cases["negative_zero"] = numpy.full(130, -0.0, numpy.float32)
    cases["one_zero_block"] = normal(256)
    cases["one_zero_block"][64:128] = 0
    cases["equal_scales"] = numpy.tile(normal(64), 5)
    # Every midpoint between codes and its two neighbours, beside an element of 1 that makes the scale 1.
    code = functional.get_4bit_type("nf4", device="cpu")
    middle = ((code[1:] + code[:-1]) / 2).numpy()
    near = numpy.concatenate([middle, numpy.nextafter(middle, numpy.float32(2)), numpy.nextafter(middle, numpy.float32(-2))])
    cases["midpoints"] = numpy.concatenate([near, numpy.ones(64 - len(near), numpy.float32)]).astype(numpy.float32)
    return cases


def scale_sweep():
    """Scales whose centred values run over the whole 8-bit map: 40 groups, each with its own largest value."""
    random = numpy.random.default_rng(7)
    spread = random.standard_normal((40, 256)) * numpy.exp(random.standard_normal((40, 256)) * 3)
    return torch.from_numpy(numpy.abs(spread).astype(numpy.float32).reshape(-1)[:10117])


def write_golden(out_dir):
    out_dir.mkdir(parents=True, exist_ok=True)
    for name, dtype in DTYPES.items():
        tensors = {}
        for case, values in weights().items():
            weight = torch.from_numpy(values).to(dtype)
            if not torch.isfinite(weight).all():
                continue  # huge values do not fit float16
            parts = quantise(weight)
            tensors[f"{case}.weight"] = weight
            tensors |= {f"{case}.{part}": value for part, value in parts.items()}
            for out_name, out_dtype in DTYPES.items():
                plain, nested = dequantise(parts, len(values), out_dtype)
                if case == "subnormal" and out_name == "bf16":
                    continue  # bitsandbytes rounds these to zero where the processor has AVX-512 BF16, else as we do
                if out_dtype == dtype or case == "outliers":
                    tensors[f"{case}.dequantized.{out_name}"] = plain
                    tensors[f"{case}.dequantized_double.{out_name}"] = nested
        save_file({key: value.contiguous() for key, value in tensors.items()}, out_dir / f"{name}.safetensors")
    scales = scale_sweep()
    offset = scales.mean()
    codes, state = functional.quantize_blockwise(scales - offset, blocksize=256)
    restored = functional.dequantize_blockwise(codes, state) + offset
    save_file({"scales": scales, "scale_codes": codes, "group_scales": state.absmax, "offset": offset.reshape(1),
               "restored": restored}, out_dir / "scales.safetensors")


def same_bits(a, b):
    view = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[a.element_size()]
    return a.dtype == b.dtype and a.numel() == b.numel() and torch.equal(a.flatten().view(view), b.flatten().view(view))


def differences(base, ours):
    """Each linear weight of `base` (safetensors) against the NF4 folder's file `ours` (core/nf4_model.h): the tensors that
    differ in a bit, and how many weights and elements were compared."""
    differing, count, elements = [], 0, 0
    with safe_open(base, "pt") as plain, safe_open(ours, "pt") as quantised:
        for name in (name for name in plain.keys() if name.endswith("_proj.weight")):
            weight = plain.get_tensor(name)
            module = name.removesuffix(".weight")
            parts = quantise(weight)
            for part in ("codes", "scale_codes", "group_scales", "offset"):
                if not same_bits(quantised.get_tensor(f"{module}.nf4_{part}"), parts[part]):
                    differing.append(f"{module}.nf4_{part}")
            count, elements = count + 1, elements + weight.numel()
    return differing, count, elements


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_golden(ROOT / "tests/data/golden/nf4")
