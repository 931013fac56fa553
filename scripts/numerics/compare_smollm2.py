#!/usr/bin/env python3
"""Holds what the service computes on SmolLM2-135M-Instruct against transformers and PEFT, in float32 on the CPU.

    scripts/check_all reference
    "$(scripts/reference_env)" scripts/numerics/compare_smollm2.py --bin build/release/bin

The model is imported from its GGUF file by our importer. A server and a worker on loopback train four small adapters
(SBoRA-FA and LoRA on prompts with completions, SBoRA-FB and DoRA on chats), export, merge and evaluate them;
tests/numerics/reference/dump.cc writes our ids and logits. Checked, one line each:
  tokenizer ids equal on 200 hostile strings; base logits on 50 prompts; the exported PEFT folder and the merged
  checkpoint give our adapter's logits; the validation loss we report is transformers' loss of the merged model; the NF4
  base equals bitsandbytes' in every bit, and its logits are transformers' with bitsandbytes' de-quantised weights; the
  GGUF exports (F16, Q8_0) hold the merged checkpoint bit for bit (check_gguf.py), and our importer reads them back.
Exit status: 0 all hold, 1 something differs or failed. Needs the programs, reference_dump and 5 GB of disk.
"""
import json
import random
import sys

import harness
import make_nf4_reference
import peft
import torch
from check_gguf import check_gguf, folder_tensors
from harness import MODEL, MODULES, TOLERANCE
from hostile_texts import hostile_texts
from reference_model import largest_difference, load, logits_of, loss_of, tokenize_record

GGUF_ROUNDING = {"f16": 2.0 ** -11, "q8_0": 0.5 / 127 + 2.0 ** -11}  # half a step of the type, of the largest value
TRAIN, VALIDATION = 48, 16
PROMPTS, ADAPTER_PROMPTS = 50, 12
TOPICS = ["The capital of France is", "def quicksort(items):\n    ", "Water boils at", "Once upon a time, in a small",
          "1, 2, 3, 5, 8, 13,", "Die Hauptstadt von Österreich heißt", "SELECT name FROM users WHERE", "🙂 Hello! How",
          "In 1969, Neil Armstrong", "The opposite of cold is"]


def write_data(work):
    """Support tickets as prompts with completions, and the same as chats. Returns the records by file name."""
    sets = {}
    for part, records in harness.write_tickets(work / "tickets", 11, TRAIN, VALIDATION).items():
        sets[f"text-{part}"] = records
        sets[f"chat-{part}"] = [{"messages": [{"role": "user", "content": record["prompt"] + "Grüße 👋🏽, Zoë"},
                                              {"role": "assistant", "content": record["completion"]}]}
                                for record in records]
    for name, records in sets.items():
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (work / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return sets


def check_base(comparison):
    checks, dump, base, tokenizer = comparison.checks, comparison.dump, comparison.base, comparison.tokenizer
    texts = hostile_texts(200, seed=5)
    theirs = tokenizer(texts)["input_ids"]
    ours = dump.ids(base, texts)
    wrong = [i for i in range(len(texts)) if ours[i] != theirs[i]]
    first = f"; first: {texts[wrong[0]][:80]!r}: {ours[wrong[0]][:12]} and {theirs[wrong[0]][:12]}" if wrong else ""
    checks.note(not wrong, "tokenizer ids",
                f"{len(texts)} strings, {sum(map(len, theirs))} ids, {len(wrong)} differ{first}")

    rng = random.Random(6)
    prompts = TOPICS + [rng.choice(TOPICS) + " " + text[:60] for text in rng.sample(texts, PROMPTS - len(TOPICS))]
    samples = [ids[:32] for ids in tokenizer(prompts)["input_ids"]]
    checks.logits("base logits", dump.logits(base, samples), logits_of(load(base), samples))


def check_nf4(comparison):
    """All linear weights bit for bit, then what the whole model computes with them."""
    checks, dump, base = comparison.checks, comparison.dump, comparison.base
    nf4 = comparison.work / "nf4"
    dump.run("quantize", base, nf4)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # fixes the order in which PyTorch adds up the scales
    differing, weights, elements = make_nf4_reference.differences(base / "model.safetensors", nf4 / "model.safetensors")
    checks.note(not differing and weights == 210, "NF4 codes, scale codes, group scales and offsets against bitsandbytes",
                f"{weights} weights, {elements} elements, {len(differing)} tensors differ {differing[:3]}")
    model = load(base)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("_proj.weight"):
                parts = make_nf4_reference.quantise(parameter)
                _, values = make_nf4_reference.dequantise(parts, parameter.numel(), torch.float32)
                parameter.copy_(values.reshape(parameter.shape))
    torch.set_num_threads(threads)
    samples = [comparison.tokenizer(text)["input_ids"] for text in TOPICS]
    checks.logits("NF4 logits", dump.logits(nf4, samples, verb="nf4_logits"), logits_of(model, samples))


def train(service, kind, method):
    """Trains, pulls, exports and merges; returns the adapter and the loss that an evaluation reports."""
    name, work = method.replace("_", "-"), service.work
    service.client("submit", "--name", name, "--wait", "--model", MODEL, "--dataset", f"{kind}-train",
                   "--validation-dataset", f"{kind}-heldout", "--method", method, "--rank", "8", "--alpha", "16",
                   "--target-modules", ",".join(MODULES), "--max-steps", "6", "--batch-size", "8",
                   "--learning-rate", "2e-3", "--cutoff-tokens", "256", "--seed", "3")
    service.client("pull", name, "-o", work / name)
    service.client("adapters", "export", name, "--format", "peft", "-o", work / f"{name}-peft")
    service.client("adapters", "merge", name, "-o", work / f"{name}-merged")
    evaluation = service.answer("evaluate", "--adapter", name, "--dataset", f"{kind}-heldout", "--no-exact-match")
    return service.answer("adapters", "get", name), evaluation["result"]["loss"]


def check_adapter(comparison, service, kind, method, records):
    checks, base = comparison.checks, comparison.base
    adapter, evaluated = train(service, kind, method)
    folder = comparison.work / method.replace("_", "-")
    masked = [tokenize_record(comparison.tokenizer, record) for record in records]
    samples = [ids[:64] for ids, _ in masked[:ADAPTER_PROMPTS]]
    ours = comparison.dump.logits(base, samples, folder)

    model = load(base)
    moved = largest_difference(ours, logits_of(model, samples))
    checks.note(moved > 100 * TOLERANCE, f"{method} adapter changes the base", f"max abs difference {moved:.2e}")
    model = peft.PeftModel.from_pretrained(model, f"{folder}-peft").eval()
    checks.logits(f"{method} PEFT export", ours, logits_of(model, samples))
    del model
    merged = load(f"{folder}-merged")
    checks.logits(f"{method} merged checkpoint", ours, logits_of(merged, samples))
    loss, tokens = loss_of(merged, masked)
    for source, value in (("job", adapter.get("validationLoss")), ("evaluation", evaluated)):
        close = value is not None and abs(value - loss) <= TOLERANCE
        difference = "" if value is None else f", difference {abs(value - loss):.2e}"
        checks.note(close, f"{method} validation loss of the {source}",
                    f"{value}, transformers {loss:.6f} over {tokens} tokens{difference}")


def check_exports(comparison, service, name):
    """GGUF files of one adapter against its merged checkpoint."""
    checks, work = comparison.checks, comparison.work
    merged = work / f"{name}-merged"
    for kind in ("f16", "q8_0"):
        folder = work / f"{name}-{kind}"
        service.client("adapters", "export", name, "--format", "gguf", "--gguf-type", kind, "-o", folder)
        path = folder / f"model-{kind}.gguf"
        check_gguf(checks, path, merged)
        back = work / f"{name}-{kind}-back"
        comparison.dump.run("import", path, back)
        wanted, found = folder_tensors(merged), folder_tensors(back)
        worst = max(abs(found[key] - wanted[key]).max() / abs(wanted[key]).max() for key in wanted)
        checks.note(set(wanted) == set(found) and worst <= GGUF_ROUNDING[kind], f"{path.name} imported again",
                    f"largest difference {worst:.2e} of a tensor's largest value")


def compare(comparison, _):
    check_base(comparison)
    check_nf4(comparison)
    records = write_data(comparison.work)
    with comparison.start_service() as service:
        for name in records:
            service.upload(name, comparison.work / f"{name}.jsonl")
        for kind, method in (("text", "sbora_fa"), ("chat", "sbora_fb"), ("text", "lora"), ("chat", "dora")):
            check_adapter(comparison, service, kind, method, records[f"{kind}-heldout"])
        check_exports(comparison, service, "sbora-fa")


if __name__ == "__main__":
    sys.exit(harness.main("compare_smollm2", __doc__, compare))
