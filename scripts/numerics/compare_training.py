#!/usr/bin/env python3
"""Trains LoRA and DoRA on SmolLM2-135M-Instruct twice, by the service and by PEFT, in float32 on the CPU, from the same
initial A and B, on the same batches and with the same optimizer, and holds the two runs against each other.

    scripts/check_all reference
    "$(scripts/reference_env)" scripts/numerics/compare_training.py --bin build/release/bin

The reference takes nothing from our programs but the imported base and its tokenizer: initial A and data order come
from counter_rng.py, masks from transformers' offsets, AdamW, clipping and schedule from PyTorch. Checked per method:
  the loss of each of 50 steps within 1e-4 relative; the trained adapter, loaded by PEFT from our export, gives the
  reference's logits within 1e-2 of the distance that training moved them.
Exit status: 0 all hold, 1 something differs or failed. Needs the programs and 5 GB of disk.
"""
import sys

import harness
import numpy as np
import peft
import torch
from counter_rng import lora_a, permutation
from harness import MODEL, MODULES
from reference_model import TARGETS, largest_difference, load, logits_of, tokenize_record

STEPS, BATCH, MICRO_BATCH = 50, 4, 2
RANK, ALPHA, LEARNING_RATE, MAX_NORM, SEED = 8, 16, 5e-4, 1.0, 3
LOSS_TOLERANCE = 1e-4  # relative, at each step
PROBES = 8


def train_with_service(service, method):
    """The metrics of each step, and the folder of the exported adapter."""
    name = f"{method}-training"
    service.client("submit", "--name", name, "--wait", "--model", MODEL, "--dataset", "tickets", "--method", method,
                   "--rank", RANK, "--alpha", ALPHA, "--target-modules", ",".join(MODULES),
                   "--max-steps", STEPS, "--batch-size", BATCH, "--micro-batch-size", MICRO_BATCH,
                   "--learning-rate", LEARNING_RATE, "--schedule", "linear", "--max-gradient-norm", MAX_NORM,
                   "--cutoff-tokens", "256", "--seed", SEED, "--checkpoint-every-seconds", "0")
    metrics = service.answer("jobs", "metrics", name)["metrics"]
    service.client("adapters", "export", name, "--format", "peft", "-o", service.work / name)
    return metrics, service.work / name


def start_peft(base, method):
    """PEFT's model at our step 0: A as the seed draws it, B zero, magnitudes where PEFT itself puts them."""
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS, bias="none",
                             use_dora=method == "dora")
    model = peft.get_peft_model(load(base), config).train()
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and name.split(".")[-1] in TARGETS:
            a = module.lora_A["default"].weight
            with torch.no_grad():
                a.copy_(torch.from_numpy(lora_a(SEED, name.removeprefix("base_model.model."), *a.shape)))
            assert module.lora_B["default"].weight.count_nonzero() == 0
    return model


def step_loss(model, batch):
    """Mean over the batch's supervised tokens, its gradient added; one sample at a time, without padding."""
    count = sum(sum(mask[1:]) for _, mask in batch)
    total = 0.0
    for ids, mask in batch:
        labels = torch.tensor([token if keep else -100 for token, keep in zip(ids[1:], mask[1:])])
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum") / count
        loss.backward()
        total += loss.double().item()
    return total


def train_with_peft(model, samples):
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (STEPS - step) / STEPS)
    order = permutation(SEED, 0, len(samples))
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        losses.append(step_loss(model, [samples[i] for i in order[step * BATCH:(step + 1) * BATCH]]))
        torch.nn.utils.clip_grad_norm_(trained, MAX_NORM)
        optimizer.step()
        schedule.step()
    return losses, sum(parameter.numel() for parameter in trained)


def check_method(comparison, service, records, method):
    checks, base, tokenizer = comparison.checks, comparison.base, comparison.tokenizer
    metrics, exported = train_with_service(service, method)
    samples = [tokenize_record(tokenizer, record) for record in records["train"]]
    model = start_peft(base, method)
    losses, parameters = train_with_peft(model, samples)

    ours = service.answer("adapters", "get", f"{method}-training")
    checks.note(int(ours["trainableParameters"]) == parameters, f"{method} trained parameters", f"{parameters}")
    tokens = sum(len(ids) for ids, _ in samples)
    checks.note(len(metrics) == STEPS and int(metrics[-1]["trainedTokens"]) == tokens, f"{method} tokens seen",
                f"{tokens} in {len(metrics)} steps")
    relative = [abs(metric["loss"] - loss) / loss for metric, loss in zip(metrics, losses, strict=True)]
    worst = int(np.argmax(relative))
    checks.note(max(relative) <= LOSS_TOLERANCE, f"{method} loss of each of {STEPS} steps",
                f"largest relative difference {relative[worst]:.1e} at step {worst + 1}, at the last "
                f"{relative[-1]:.1e}; loss {losses[0]:.4f} -> {losses[-1]:.4f}")

    probes = [tokenize_record(tokenizer, record)[0] for record in records["heldout"]]
    theirs = logits_of(model.eval(), probes)
    loaded = peft.PeftModel.from_pretrained(load(base), exported).eval()
    apart = largest_difference(logits_of(loaded, probes), theirs)
    moved = largest_difference(logits_of(load(base), probes), theirs)
    checks.note(apart <= 1e-2 * moved, f"{method} trained adapters' logits",
                f"max abs difference {apart:.1e}, training moved them by {moved:.1f}")


def compare(comparison, _):
    # One epoch: no sample twice.
    records = harness.write_tickets(comparison.work / "tickets", 12, STEPS * BATCH, PROBES)
    with comparison.start_service() as service:
        service.upload("tickets", comparison.work / "tickets/train.jsonl")
        for method in ("lora", "dora"):
            check_method(comparison, service, records, method)


if __name__ == "__main__":
    sys.exit(harness.main("compare_training", __doc__, compare))
