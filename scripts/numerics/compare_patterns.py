#!/usr/bin/env python3
"""Holds adapters whose modules differ in rank, alpha and layers against PEFT and transformers, in float32 on the CPU.

    scripts/check_all reference
    "$(scripts/reference_env)" scripts/numerics/compare_patterns.py --bin build/release/bin

A model of random weights is imported. SBoRA-FA, SBoRA-FB, LoRA and DoRA are trained with two placements each: ranks and
alphas by module and by layer beside a target of one layer alone; and the same on a range of layers. Checked, per adapter:
  PEFT adapts exactly the modules that the job named, each with its rank and scale, and every tensor of our export is in
  the loaded model; its logits are those of our merged checkpoint in transformers, and not the base's.
Exit status: 0 all hold, 1 something differs or failed. Takes a minute; needs the programs.
"""
import json
import sys

import harness
import peft
import tokenizers
import torch
import transformers
from harness import MODEL
from reference_model import TARGETS, largest_difference, load, logits_of
from safetensors import safe_open

LAYERS, RANK, ALPHA = 12, 4, 8.0
METHODS = ["sbora_fa", "sbora_fb", "lora", "dora"]
TOLERANCE = 1e-4
# Layers 1 and 11: a key for one must not take the other along.
PATTERNS = {
    "patterns": {"flags": ["--target-modules", "q,layers.11.v,down",
                           "--rank-pattern", "q=2,layers.1.q=6,layers.11.q=3,down=5",
                           "--alpha-pattern", "layers.1.down=3,layers.11.v=1.5,q=10"],
                 "ranks": {"q_proj": 2, "1.q_proj": 6, "11.q_proj": 3, "down_proj": 5},
                 "alphas": {"1.down_proj": 3, "11.v_proj": 1.5, "q_proj": 10},
                 "adapted": lambda layer, module: module in ("q_proj", "down_proj") or (layer, module) == (11, "v_proj")},
    "layers": {"flags": ["--target-modules", "q,up", "--target-layers", "1-2,11", "--rank-pattern", "up=2,layers.11.up=6"],
               "ranks": {"up_proj": 2, "11.up_proj": 6}, "alphas": {},
               "adapted": lambda layer, module: module in ("q_proj", "up_proj") and layer in (1, 2, 11)},
}


def make_model(folder):
    torch.manual_seed(5)
    config = transformers.LlamaConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=LAYERS, num_attention_heads=4,
                                      num_key_value_heads=2, vocab_size=258, max_position_embeddings=128, bos_token_id=256,
                                      eos_token_id=257, tie_word_embeddings=True)
    transformers.LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)


def entry(entries, layer, module, otherwise):
    return entries.get(f"{layer}.{module}", entries.get(module, otherwise))


def check(checks, service, base, method, name, pattern):
    job = f"{method.replace('_', '-')}-{name}"
    service.client("submit", "--name", job, "--wait", "--model", MODEL, "--dataset", "lines", "--method", method,
                   "--rank", RANK, "--alpha", ALPHA, *pattern["flags"], "--max-steps", 8, "--batch-size", 4, "--micro-batch-size", 2,
                   "--learning-rate", "1e-2", "--cutoff-tokens", 64, "--checkpoint-every-seconds", 0)
    exported, merged = service.work / f"{job}-peft", service.work / f"{job}-merged"
    service.client("adapters", "export", job, "--format", "peft", "-o", exported)
    service.client("adapters", "merge", job, "-o", merged)
    model = peft.PeftModel.from_pretrained(load(base), exported).eval()

    wanted, found = {}, {}
    for layer in range(LAYERS):
        for module in TARGETS:
            if pattern["adapted"](layer, module):
                rank = entry(pattern["ranks"], layer, module, RANK)
                wanted[layer, module] = (rank, entry(pattern["alphas"], layer, module, ALPHA) / rank)
    for path, module in model.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            parts = path.split(".")
            shape = module.lora_A["default"].weight.shape[0]
            found[int(parts[parts.index("layers") + 1]), parts[-1]] = (shape, module.scaling["default"])
    checks.note(found == wanted, f"{job} modules", f"{len(found)} adapted, ranks and scales as asked" if found == wanted
                else f"wanted {wanted}, PEFT has {found}")

    state = peft.get_peft_model_state_dict(model)
    with safe_open(exported / "adapter_model.safetensors", "pt") as file:
        same = set(file.keys()) == set(state) and all(torch.equal(file.get_tensor(key), state[key]) for key in state)
    checks.note(same, f"{job} tensors", f"{len(state)} in the file and in PEFT's model")

    generator = torch.Generator().manual_seed(9)
    probes = [torch.randint(0, 256, (24,), generator=generator).tolist() for _ in range(8)]
    theirs, ours, plain = logits_of(model, probes), logits_of(load(merged), probes), logits_of(load(base), probes)
    apart, moved = largest_difference(theirs, ours), largest_difference(theirs, plain)
    checks.note(apart <= TOLERANCE and moved > 100 * TOLERANCE, f"{job} logits",
                f"PEFT and merged differ by {apart:.1e} at most, training moved them by {moved:.2g}")


def compare(comparison, _):
    base, lines = comparison.work / "tiny", comparison.work / "lines.jsonl"
    make_model(base)
    lines.write_text("".join(json.dumps({"prompt": f"item {i} is ", "completion": ("red", "blue", "green")[i % 3]}) + "\n"
                             for i in range(32)))
    with comparison.start_service(base) as service:
        service.upload("lines", lines)
        for method in METHODS:
            for name, pattern in PATTERNS.items():
                check(comparison.checks, service, base, method, name, pattern)


if __name__ == "__main__":
    sys.exit(harness.main("compare_patterns", __doc__, compare))
