"""A small LLaMA of seeded random weights in a folder, with a byte-level tokenizer (one token a byte), and a data set for it:
what the service can be tried with where no model can be fetched. Standard library only."""
import json
import math
import random
import struct

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCABULARY = 264


def byte_letters():
    """GPT-2's printable stand-in for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def tokenizer():
    vocabulary = {letter: byte for byte, letter in enumerate(byte_letters())}
    vocabulary |= {token: 256 + i for i, token in enumerate(SPECIAL)}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": 256 + i, "content": token, **plain} for i, token in enumerate(SPECIAL)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "vocab": vocabulary, "merges": []}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": level, "post_processor": None, "decoder": level, "model": model}


def config(hidden, layers, heads):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": heads // 2, "head_dim": hidden // heads,
            "intermediate_size": 2 * hidden, "vocab_size": VOCABULARY, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "tie_word_embeddings": True, "hidden_act": "silu", "torch_dtype": "float32",
            "bos_token_id": 256, "eos_token_id": 258}


def shapes(model):
    hidden, keys, ffn = model["hidden_size"], model["num_key_value_heads"] * model["head_dim"], model["intermediate_size"]
    found = {"model.embed_tokens.weight": (VOCABULARY, hidden), "model.norm.weight": (hidden,)}
    for i in range(model["num_hidden_layers"]):
        layer = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (keys, hidden), "self_attn.v_proj": (keys, hidden),
                 "self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (ffn, hidden), "mlp.up_proj": (ffn, hidden),
                 "mlp.down_proj": (hidden, ffn), "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}
        found |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    return found


def write_model(folder, hidden, layers, heads, seed=1):
    folder.mkdir(parents=True)
    model, draw = config(hidden, layers, heads), random.Random(seed)
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes(model).items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes(model).values():
            count = math.prod(shape)
            values = [1.0] * count if len(shape) == 1 else [0.1 * draw.gauss(0, 1) for _ in range(count)]
            file.write(struct.pack(f"<{count}f", *values))
    (folder / "config.json").write_text(json.dumps(model))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    template = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
                "'\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
    words = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[2], "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(words))


def write_data(path, samples):
    colours = ("red", "blue", "green")
    with open(path, "w", encoding="utf-8") as file:
        for i in range(samples):
            file.write(json.dumps({"prompt": f"color of item {i}: ", "completion": colours[i % 3]}) + "\n")
