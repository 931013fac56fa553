#!/usr/bin/env python3
"""Reads our GGUF files with the `gguf` package and holds them against the Hugging Face folder they were made from.

    "$(scripts/reference_env)" scripts/numerics/check_gguf.py --model FOLDER FILE.gguf...

Each tensor's bytes must be those of gguf.quants on the folder's values under gguf's own names and llama.cpp's order of
q and k rows: F16 rounded to nearest even, Q8_0 quantised bit for bit, norms float32 unchanged. The config, the tokens,
the merges (of a sentencepiece tokenizer: what transformers makes of the scores, and the ids of the hostile texts) and
the chat template must be the folder's. An F16 file must give, in transformers' own GGUF loader, the
logits of the folder's model rounded to F16. Exit status: 0 all hold, 1 something differs.
"""
import argparse
import json
import pathlib
import sys

import harness
import gguf
import numpy as np
import torch
import transformers
from hostile_texts import hostile_texts
from reference_model import largest_difference, load, logits_of
from safetensors import safe_open
from transformers.tokenization_utils_base import generate_merges

PROMPTS = ["The capital of France is", "1, 2, 3, 5, 8, 13,", "Grüße 👋🏽, Zoë"]
LOGIT_TOLERANCE = 1e-4  # the same float32 weights through the same code


def folder_tensors(folder):
    """name -> float32 array, from all shards."""
    tensors = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, "pt") as file:
            for name in file.keys():
                tensors[name] = file.get_tensor(name).float().numpy()
    return tensors


def permuted(weight, heads):
    """llama.cpp's order of rows: the two halves of each head interleaved."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def value(reader, key):
    field = reader.get_field(key)
    return None if field is None else field.contents()


def check_tensors(reader, tensors, config):
    """Names of the tensors that differ, and how many were compared."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    written = {tensor.name: tensor for tensor in reader.tensors}
    wrong = []
    for hf_name, weight in tensors.items():
        name = names.get_name(hf_name.removesuffix(".weight")) + ".weight"
        tensor = written.pop(name)
        if hf_name.endswith("q_proj.weight"):
            weight = permuted(weight, config["num_attention_heads"])
        if hf_name.endswith("k_proj.weight"):
            weight = permuted(weight, config["num_key_value_heads"])
        if (weight.ndim == 1) != (tensor.tensor_type == gguf.GGMLQuantizationType.F32):
            wrong.append(f"{name} (type {tensor.tensor_type.name})")
        expected = gguf.quants.quantize(np.ascontiguousarray(weight), tensor.tensor_type)
        if expected.tobytes() != tensor.data.tobytes() or list(tensor.shape) != list(reversed(weight.shape)):
            wrong.append(name)
    wrong += [f"{name} (not in the folder)" for name in written if name != "rope_freqs.weight"]
    return wrong, len(tensors)


def check_metadata(reader, folder, config):
    """Keys whose value is not the folder's."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    by_id = {index: token for token, index in tokenizer["model"]["vocab"].items()}
    by_id |= {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    special = {token["id"] for token in tokenizer["added_tokens"] if token["special"]}
    wanted = {
        "general.architecture": "llama",
        "llama.block_count": config["num_hidden_layers"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.attention.layer_norm_rms_epsilon": np.float32(config["rms_norm_eps"]),
        "llama.rope.freq_base": np.float32(config["rope_theta"]),
        "llama.context_length": config["max_position_embeddings"],
        "llama.vocab_size": config["vocab_size"],
        "tokenizer.ggml.tokens": [by_id.get(i, f"[PAD{i}]") for i in range(config["vocab_size"])],
        "tokenizer.chat_template": settings.get("chat_template"),
    }
    pieces = tokenizer["model"].get("byte_fallback")
    if not pieces:
        wanted["tokenizer.ggml.merges"] = merges
    wrong = [key for key, expected in wanted.items() if value(reader, key) != expected]
    if pieces:
        scores = dict(zip(wanted["tokenizer.ggml.tokens"], value(reader, "tokenizer.ggml.scores")))
        derived = generate_merges(tokenizer["model"]["vocab"], {t: scores[t] for t in tokenizer["model"]["vocab"]})
        if set(map(" ".join, derived)) != set(merges):
            wrong.append("tokenizer.ggml.scores")
    types = value(reader, "tokenizer.ggml.token_type")
    if {i for i, kind in enumerate(types) if kind == gguf.TokenType.CONTROL} != special:
        wrong.append("tokenizer.ggml.token_type")
    return wrong


@torch.no_grad()
def largest_logit_difference(path, folder):
    """transformers' GGUF loader against the folder's own weights rounded to F16."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ours, theirs = load(path.parent, gguf_file=path.name), load(folder)
    for parameter in theirs.parameters():
        if parameter.ndim > 1:
            parameter.copy_(parameter.half().float())
    samples = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    return largest_difference(logits_of(ours, samples), logits_of(theirs, samples))


def check_gguf(checks, path, folder):
    path, folder = pathlib.Path(path), pathlib.Path(folder)
    config = json.loads((folder / "config.json").read_text())
    reader = gguf.GGUFReader(path)
    wrong, count = check_tensors(reader, folder_tensors(folder), config)
    checks.note(not wrong, f"{path.name} tensors", f"{count} compared bit for bit, {len(wrong)} differ {wrong[:3]}")
    keys = check_metadata(reader, folder, config)
    checks.note(not keys, f"{path.name} metadata", f"{len(keys)} keys differ {keys}")
    if value(reader, "tokenizer.ggml.model") == "llama":
        ours = transformers.PreTrainedTokenizerFast.from_pretrained(path.parent, gguf_file=path.name)
        theirs = transformers.LlamaTokenizer.from_pretrained(folder)
        texts = hostile_texts(200, seed=5)
        count = sum(ours(text)["input_ids"] != theirs(text)["input_ids"] for text in texts)
        checks.note(count == 0, f"{path.name} tokenizer", f"{len(texts)} hostile texts, {count} differ")
    if value(reader, "general.file_type") == gguf.LlamaFileType.MOSTLY_F16:
        worst = largest_logit_difference(path, folder)
        checks.note(worst <= LOGIT_TOLERANCE, f"{path.name} in transformers", f"max abs logit difference {worst:.2e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=pathlib.Path, help="the Hugging Face folder")
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    arguments = parser.parse_args()
    checks = harness.Checks()
    for path in arguments.files:
        check_gguf(checks, path, arguments.model)
    return checks.exit_status("check_gguf")


if __name__ == "__main__":
    sys.exit(main())
