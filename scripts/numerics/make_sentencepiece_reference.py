#!/usr/bin/env python3
"""Makes tests/data/golden/sentencepiece: a small sentencepiece model and the ids that transformers' LlamaTokenizer gives.

    "$(scripts/reference_env)" scripts/numerics/make_sentencepiece_reference.py

tokenizer.model: BPE with byte fallback and LLaMA's settings, trained on seeded text. ids.json: for each way to say a
tokenizer (tokenizer_config.json, or a GGUF file's scores and keys) the ids of the hostile texts, with special tokens. The
texts are those of hostile_texts.py that are short, and some about spaces and special tokens.
"""
import json
import os
import pathlib
import random
import shutil
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import gguf  # noqa: E402
import sentencepiece  # noqa: E402
import transformers  # noqa: E402
from sentencepiece import sentencepiece_model_pb2  # noqa: E402

from hostile_texts import hostile_texts  # noqa: E402

OUT = pathlib.Path(__file__).parents[2] / "tests" / "data" / "golden" / "sentencepiece"
SIZE = 520
WORDS = ("the column of each weight is trained and the others stay as they are banana aaaa ssss tokenizer tokens token "
         "Hello world don't 1234 2024 naïve Straße über русский язык это слово 日本語 日本 の テスト").split()
SPACES = [" hi", "  hi", "▁hi", "hi ", "<s> hi", " <s>  hi<|turn|> x", "hi<|turn|>there", "</s></s> a", "<unk>", "a\n\nb",
          "<0x41>", "baaaaaad", "🙂 日本語の語"]
BASE = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False}
PAD = {"content": "[PAD]", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
FOLDERS = {
    "default": BASE,
    "legacy": BASE | {"legacy": True},
    "without_bos": BASE | {"add_bos_token": False, "legacy": False},
    "with_pad": BASE | {"added_tokens_decoder": {str(SIZE): PAD}, "pad_token": "[PAD]"},
}


def train(folder):
    rng = random.Random(11)
    text = folder / "text.txt"
    lines = [" ".join(rng.choice(WORDS) for _ in range(rng.randrange(3, 14))) + rng.choice([".", "!", "  ok", ""])
             for _ in range(400)]
    text.write_text("\n".join(lines), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=SIZE, model_type="bpe", byte_fallback=True,
        character_coverage=0.999, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, num_threads=1, user_defined_symbols=["<|turn|>"], minloglevel=2)
    model = folder / "tokenizer.model"
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.read_bytes())
    proto.trainer_spec.ClearField("input")  # where it was trained
    proto.trainer_spec.ClearField("model_prefix")
    model.write_bytes(proto.SerializeToString(deterministic=True))
    return model


def write_gguf(path, pieces, scores):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece.piece for piece in pieces])
    writer.add_token_scores(scores)
    writer.add_token_types([piece.type for piece in pieces])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def main():
    texts = [text for text in hostile_texts(120, seed=5) if len(text) <= 120] + SPACES
    cases = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        model = train(folder)
        OUT.mkdir(parents=True, exist_ok=True)
        shutil.copy(model, OUT / "tokenizer.model")
        for case, config in FOLDERS.items():
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
            tokenizer = transformers.LlamaTokenizer.from_pretrained(folder)
            cases.append({"name": case, "config": config, "ids": [tokenizer(text)["input_ids"] for text in texts]})
        proto = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString(model.read_bytes())
        rng = random.Random(3)
        for case, scores in {"gguf": [piece.score for piece in proto.pieces],
                             "gguf_of_other_scores": [rng.randrange(4096) / 16 for _ in proto.pieces],
                             "gguf_of_equal_scores": [float(rng.randrange(5)) for _ in proto.pieces]}.items():
            target = folder / case
            target.mkdir()
            write_gguf(target / "model.gguf", proto.pieces, scores)
            tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(target, gguf_file="model.gguf")
            cases.append({"name": case, "scores": scores, "ids": [tokenizer(text)["input_ids"] for text in texts]})
    versions = {module.__name__: module.__version__ for module in (transformers, sentencepiece)}
    with open(OUT / "ids.json", "w", encoding="utf-8") as file:
        json.dump({"versions": versions, "texts": texts, "cases": cases}, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
