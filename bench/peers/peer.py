#!/usr/bin/env python3
"""One measurement of the other side, in a process of its own: transformers and PEFT train for a few steps as their users
do, and one JSON object with tokens/s and peak memory is printed.

    peer.py '{"method": "peft_lora", "model": FOLDER, "cache": FILE.tokens, "rank": 32, "dropout": 0, "microBatch": 4,
              "warmupSteps": 2, "steps": 8, "threads": 2, "device": "cpu", "dtype": "float32"}'

FOLDER with config.json alone: random weights. A step is what transformers' Trainer does in one: a batch padded to its
longest sample, the model's own loss, backward, clipping at 1, AdamW. On a GPU in bfloat16 it runs under autocast, as
Trainer's bf16 option does. Samples and their order are those of `sbora-trainer bench`, seed 42.
"""
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts/numerics"))

import methods  # noqa: E402
import token_cache  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from counter_rng import permutation  # noqa: E402

SEED = 42  # core::TrainingSpec's
IGNORED = -100


def micro_batches(request):
    """Lists of (ids, masks), one list a step."""
    cache, size = token_cache.TokenCache(request["cache"]), request["microBatch"]
    steps = request["warmupSteps"] + request["steps"]
    if steps * size > len(cache):
        sys.exit(f"{steps} steps of {size} samples need more than the {len(cache)} samples of {request['cache']}")
    order = permutation(SEED, 0, len(cache))
    return [[cache.sample(i) for i in order[step * size:(step + 1) * size]] for step in range(steps)]


def padded(samples, device):
    longest = max(len(ids) for ids, _ in samples)
    ids, labels, seen = [], [], []
    for sample, masks in samples:
        empty = longest - len(sample)
        ids.append(sample + [0] * empty)
        labels.append([token if mask else IGNORED for token, mask in zip(sample, masks)] + [IGNORED] * empty)
        seen.append([1] * len(sample) + [0] * empty)
    return {"input_ids": torch.tensor(ids, device=device), "labels": torch.tensor(labels, device=device),
            "attention_mask": torch.tensor(seen, device=device)}


def open_model(request, device, dtype):
    folder = pathlib.Path(request["model"])
    if (folder / "model.safetensors").exists() or (folder / "model.safetensors.index.json").exists():
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device), False
    config = transformers.AutoConfig.from_pretrained(folder)
    torch.manual_seed(1)
    with device:
        return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype), True


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_resident_bytes():
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def train(model, batches, request, device, dtype):
    """(seconds of the measured steps, losses of all)."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.0)
    mixed = device.type == "cuda" and dtype == torch.bfloat16
    losses, started = [], 0.0
    for step, samples in enumerate(batches):
        if step == request["warmupSteps"]:
            synchronize(device)
            started = time.monotonic()
        batch = padded(samples, device)
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=mixed):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.detach())
    synchronize(device)
    return time.monotonic() - started, [loss.item() for loss in losses]


def measure(request):
    torch.set_num_threads(request["threads"])
    device, dtype = torch.device(request["device"]), getattr(torch, request["dtype"])
    batches = micro_batches(request)
    model, random_weights = open_model(request, device, dtype)
    model.config.use_cache = False  # as Trainer sets it
    weight_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if request.get("gradientCheckpointing"):
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    model = methods.METHODS[request["method"]](model, request["rank"], request["dropout"]).train()
    seconds, losses = train(model, batches, request, device, dtype)
    measured = batches[request["warmupSteps"]:]
    tokens = sum(len(ids) for samples in measured for ids, _ in samples)
    padding = sum(max(len(ids) for ids, _ in samples) * len(samples) for samples in measured) - tokens
    return {"tokensPerSecond": tokens / seconds, "tokens": tokens, "padding": padding, "steps": len(measured),
            "seconds": seconds, "firstLoss": losses[0], "lastLoss": losses[-1],
            "trainableParameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "weightBytes": weight_bytes, "peakMemoryBytes": peak_resident_bytes(), "randomWeights": random_weights,
            "peakDeviceBytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
            "threads": torch.get_num_threads(), "versions": versions()}


def versions():
    found = {"torch": torch.__version__, "transformers": transformers.__version__}
    if "peft" in sys.modules:
        found["peft"] = sys.modules["peft"].__version__
    return found


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    print(json.dumps(measure(json.loads(sys.argv[1]))))
