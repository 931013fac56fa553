#!/usr/bin/env python3
"""Writes tests/data/golden: tiny LLaMA checkpoints and what transformers and PEFT compute with them.

Run with the interpreter that scripts/reference_env prints. The C++ test tests/numerics/trainer_nn/golden_test.cc reads
the files, so ordinary test runs need no Python. Seeded: a second run writes the same bytes.

SBoRA is expressed as a PEFT LoRA whose one factor is one-hot and frozen: FA has A = one-hot rows (B trained), FB has
B = one-hot columns (A trained). LoRA and DoRA are PEFT's own, with random A, B and magnitudes, on one variant. Full
fine-tuning is transformers with torch.optim.AdamW.
Everything is float32 on one thread, the attention "eager".
"""
import pathlib
import sys

import peft
import torch
import transformers
from safetensors.torch import save_file

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK, ALPHA = 4, 6.0
LENGTHS = [11, 1, 37]
BEAMS, BEAM_TOKENS = (2, 4), 24
# AdamW divides by the gradient's own size: where that is 1e-7, rounding decides the step, and at a rate of 1e-3 float32 and
# float64 weights of transformers itself lie 9e-6 apart after three steps. At 1e-4 it is 9e-7. The decay is as large as a step.
FULL_STEPS, FULL_CLIP, FULL_ADAMW = 3, 1.0, dict(lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=1.0)
BASE = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            head_dim=8, vocab_size=61, max_position_embeddings=64, rms_norm_eps=1e-5, attn_implementation="eager")
VARIANTS = {
    "plain": dict(tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
    "tied_linear": dict(tie_word_embeddings=True,
                        rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 100000.0}),
    "llama3": dict(tie_word_embeddings=True,
                   rope_parameters={"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                                    "high_freq_factor": 4.0, "original_max_position_embeddings": 32}),
}


def make_model(options):
    torch.manual_seed(20240705)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**BASE, **options)).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.2)
            else:
                parameter.uniform_(0.5, 1.5)
    return model


def loss_sum(model, samples):
    """Sum over all next-token predictions, and the logits of every row."""
    total, logits = 0, []
    for ids in samples:
        out = model(input_ids=ids[None]).logits[0]
        logits.append(out)
        total = total + torch.nn.functional.cross_entropy(out[:-1], ids[1:], reduction="sum")
    return total, torch.cat(logits)


def with_adapter(options, **more):
    """A fresh model with PEFT's LoRA on all targets, and its adapted modules by short name."""
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS, bias="none", **more)
    model = peft.get_peft_model(make_model(options), config).eval()
    modules = {name.removeprefix("base_model.model."): module for name, module in model.named_modules()
               if hasattr(module, "lora_A") and name.split(".")[-1] in TARGETS}
    return model, modules


def sbora_case(options, method, samples):
    model, modules = with_adapter(options)
    generator = torch.Generator().manual_seed(3)
    tensors, trained = {}, {}
    for short, module in modules.items():
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        dim = a.shape[1] if method == "sbora_fa" else b.shape[0]
        index = torch.randperm(dim, generator=generator)[:RANK].sort().values
        one_hot = torch.nn.functional.one_hot(index, dim).float()
        frozen, factor = (a, b) if method == "sbora_fa" else (b, a)
        with torch.no_grad():
            frozen.copy_(one_hot if method == "sbora_fa" else one_hot.t())
            factor.copy_(torch.randn(factor.shape, generator=generator) * 0.1)
        frozen.requires_grad_(False)
        factor.requires_grad_(True)
        tensors[f"{method}.{short}.index"] = index.to(torch.int32)
        tensors[f"{method}.{short}.factor"] = factor.detach().clone()
        trained[f"{method}.{short}.gradient"] = factor
    loss, logits = loss_sum(model, samples)
    loss.backward()
    tensors[f"{method}.loss"] = loss.detach().reshape(1)
    tensors[f"{method}.logits"] = logits.detach().contiguous()
    tensors.update({name: factor.grad.contiguous() for name, factor in trained.items()})
    return tensors


@torch.no_grad()
def beam_case(model, samples):
    """Answers of beam search without prompt and end token, laid end to end, for each number of beams. End tokens are some
    that greedy answers hold, so that beams do end."""
    model.generation_config.eos_token_id = None  # else 2 stands in where a call names none
    options = dict(max_new_tokens=BEAM_TOKENS, do_sample=False, pad_token_id=0)

    def answer_to(ids, **more):
        config = transformers.GenerationConfig(**options, **more)
        return model.generate(ids[None], attention_mask=torch.ones_like(ids)[None], generation_config=config)[0, len(ids):]

    end_tokens = sorted({int(answer_to(ids)[6 + 5 * i]) for i, ids in enumerate(samples)})
    tensors = {"prompts": torch.cat(samples).to(torch.int32),
               "prompt_lengths": torch.tensor(LENGTHS, dtype=torch.int32),
               "end_tokens": torch.tensor(end_tokens, dtype=torch.int32),
               "max_new_tokens": torch.tensor([BEAM_TOKENS], dtype=torch.int32)}
    for beams in BEAMS:
        answers = []
        for ids in samples:
            answer = answer_to(ids, num_beams=beams, length_penalty=1.0, early_stopping=False, eos_token_id=end_tokens)
            answers.append(answer[:-1] if int(answer[-1]) in end_tokens else answer)
        tensors[f"beams{beams}.lengths"] = torch.tensor([len(answer) for answer in answers], dtype=torch.int32)
        tensors[f"beams{beams}.answers"] = torch.cat(answers).to(torch.int32)
    return tensors


def full_case(options, samples):
    """All weights: the first step's gradients of the mean loss, and losses and weights of AdamW steps with clipping."""
    model = make_model(options)
    targets = sum(len(ids) - 1 for ids in samples)
    optimizer = torch.optim.AdamW(model.parameters(), **FULL_ADAMW)
    tensors, losses = {}, []
    for step in range(FULL_STEPS):
        optimizer.zero_grad()
        loss = loss_sum(model, samples)[0] / targets
        loss.backward()
        if step == 0:
            tensors.update({f"gradient.{name}": p.grad.clone() for name, p in model.named_parameters()})
        torch.nn.utils.clip_grad_norm_(model.parameters(), FULL_CLIP)
        optimizer.step()
        losses.append(loss.detach())
    tensors.update({f"weight.{name}": p.detach().clone() for name, p in model.named_parameters()})
    tensors["losses"] = torch.stack(losses)
    return tensors


def lora_case(options, method, samples):
    """Values, gradients, logits with the adapter and after merge_and_unload; tensors under PEFT's names in the file."""
    model, modules = with_adapter(options, use_dora=method == "dora")
    generator = torch.Generator().manual_seed(4)
    trained = {}
    for short, module in modules.items():
        parts = {"lora_A.weight": module.lora_A["default"].weight, "lora_B.weight": module.lora_B["default"].weight}
        if method == "dora":
            parts["lora_magnitude_vector"] = module.lora_magnitude_vector["default"].weight
        for suffix, part in parts.items():
            noise = torch.randn(part.shape, generator=generator) * 0.1
            with torch.no_grad():  # magnitudes stay near the rows' lengths
                part.copy_(part * (1 + noise) if suffix == "lora_magnitude_vector" else noise)
            trained[f"{method}.base_model.model.{short}.{suffix}"] = part
    loss, logits = loss_sum(model, samples)
    loss.backward()
    tensors = {f"{method}.loss": loss.detach().reshape(1), f"{method}.logits": logits.detach().contiguous()}
    for name, part in trained.items():
        tensors[name] = part.detach().clone()
        tensors[f"{name}.gradient"] = part.grad.contiguous()
    with torch.no_grad():
        tensors[f"{method}.merged_logits"] = loss_sum(model.merge_and_unload(), samples)[1].contiguous()
    return tensors


def main():
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2] / "tests/data/golden"
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    generator = torch.Generator().manual_seed(5)
    samples = [torch.randint(0, BASE["vocab_size"], (length,), generator=generator) for length in LENGTHS]
    for variant, options in VARIANTS.items():
        model = make_model(options)
        folder = root / variant
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        with torch.no_grad():
            loss, logits = loss_sum(model, samples)
        tensors = {"loss": loss.reshape(1), "logits": logits.contiguous(),
                   "ids": torch.cat(samples).to(torch.int32), "lengths": torch.tensor(LENGTHS, dtype=torch.int32)}
        for method in ("sbora_fa", "sbora_fb"):
            tensors.update(sbora_case(options, method, samples))
        if variant == "plain":
            for method in ("lora", "dora"):
                tensors.update(lora_case(options, method, samples))
        save_file(tensors, folder / "golden.safetensors")
        if variant != "llama3":  # one with a head of its own, one with tied embeddings
            save_file(full_case(options, samples), folder / "full.safetensors")
        beams = beam_case(model, samples)
        save_file(beams, folder / "beams.safetensors")
        print(variant, "beam answers", [beams[f"beams{count}.lengths"].tolist() for count in BEAMS])
        print(variant, "loss", float(loss), "tensors", len(tensors))


if __name__ == "__main__":
    main()
