#!/usr/bin/env python3
"""Trains for a few steps and holds core/estimate.h against what the trainer took: peak memory (VmHWM) and time.

    "$(scripts/reference_env)" scripts/numerics/estimate_bench.py --bin build/release/bin [--threads 2]

Three models (SmolLM2-135M-Instruct; two of random weights with its tokenizer, half and a fortieth of its size),
SBoRA-FA and -FB at rank 32 on q, k, v, up, down, two micro-batches of full samples, through `sbora-trainer bench`, which
runs the loop of a real job. Time is scaled as the coordinator scales it, from the first run of the same model and from
the last run of another one of similar size, by counted operations. Prints a table in Markdown and the largest errors;
nothing is fitted.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import harness
import transformers

RANK = 32
# hidden, layers, heads, key heads, intermediate; in the order of the runs
SHAPES = {"tiny": (64, 4, 4, 2, 128), "half": (448, 20, 7, 7, 1216), "smollm2": None}
LOADS = ((2, 128), (4, 256))  # samples of a micro-batch, tokens of a sample
SIZE_RATIO = 4  # core::kTimeSizeRatio
MIB = 1 << 20


def random_model(folder, base, shape):
    """An HF folder of random weights with the tokenizer of `base`."""
    hidden, layers, heads, key_heads, intermediate = shape
    config = transformers.AutoConfig.from_pretrained(base)
    config.update({"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
                   "num_key_value_heads": key_heads, "intermediate_size": intermediate, "head_dim": hidden // heads})
    transformers.set_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(folder)


def write_data(path):
    """Texts longer than any cutoff."""
    words = "the model reads a long line of plain words and learns to say which word comes next".split()
    with open(path, "w", encoding="utf-8") as file:
        for i in range(64):
            text = " ".join(words[(i + j) % len(words)] for j in range(400))
            file.write(json.dumps({"prompt": f"{i}:", "completion": " " + text}) + "\n")


def bench(programs, folder, data, *flags):
    done = subprocess.run([programs / "sbora-trainer", "bench", "--model", folder, "--data", data, "--rank", str(RANK),
                           "--output", "json", *map(str, flags)],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True)
    return json.loads(done.stdout)


def make_caches(programs, work):
    """Token caches by length, made by processes of their own, as an agent has them made: a job holds no tokenizer."""
    random_model(work / "tokenizer", work / "smollm2", SHAPES["tiny"])
    for _, tokens in LOADS:
        (work / f"cache-{tokens}").mkdir()
        bench(programs, work / "tokenizer", work / "long.jsonl", "--cache-dir", work / f"cache-{tokens}", "--cutoff",
              tokens, "--micro-batch", 1, "--steps", 1)


def run_case(programs, work, model, method, load, arguments):
    folder, (samples, tokens) = work / model, load
    estimate = json.loads(subprocess.run(
        [programs / "reference_dump", "estimate", folder, method, str(RANK), str(samples), str(tokens)],
        stdout=subprocess.PIPE, check=True, text=True).stdout)
    cache = next((work / f"cache-{tokens}").glob("*.train.tokens"))
    took = bench(programs, folder, cache, "--method", method, "--micro-batch", samples, "--steps", arguments.steps,
                 "--threads", arguments.threads)
    assert took["tokens"] == samples * tokens * took["steps"], took
    return {"model": model, "method": method, "load": f"{samples} x {tokens}", "estimate": estimate,
            "bytes": (folder / "model.safetensors").stat().st_size, "peak": took["peakMemoryBytes"],
            "step": took["seconds"] / took["steps"], "tokens/s": took["tokensPerSecond"]}


def percent(estimated, measured):
    return 100.0 * (estimated / measured - 1)


def scaled_from(row, rows):
    """The runs that a coordinator would go by: (class, run)."""
    before = rows[:rows.index(row)]
    same = [other for other in before if other["model"] == row["model"]]
    others = [other for other in before if other["model"] != row["model"]
              and 1 / SIZE_RATIO <= other["bytes"] / row["bytes"] <= SIZE_RATIO]
    found = [("same model", same[0])] if same else []
    return found + ([("other model", others[-1])] if others else [])


def report(rows):
    errors = {"memory": []}
    print("| model | method | micro-batch | peak estimated MiB | measured MiB | error | GFLOP/s | step s | scaled: same model "
          "| scaled: other model |\n|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        memory = percent(row["estimate"]["peakBytes"], row["peak"])
        errors["memory"].append(memory)
        times = {"same model": "–", "other model": "–"}
        for kind, other in scaled_from(row, rows):
            error = percent(other["step"] * row["estimate"]["flops"] / other["estimate"]["flops"], row["step"])
            errors.setdefault("time, " + kind, []).append(error)
            times[kind] = f"{error:+.0f} %"
        print(f"| {row['model']} | {row['method']} | {row['load']} | {row['estimate']['peakBytes'] / MIB:.0f} | "
              f"{row['peak'] / MIB:.0f} | {memory:+.1f} % | {row['estimate']['flops'] / row['step'] / 1e9:.1f} | "
              f"{row['step']:.2f} | {times['same model']} | {times['other model']} |")
    print()
    for name, values in errors.items():
        print(f"largest error of {name}: {max(values, key=abs):+.1f} % of {len(values)} runs")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of the programs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2, help="measured; two more warm up")
    parser.add_argument("--models", default=",".join(SHAPES), help="of these, in this order")
    arguments = parser.parse_args()
    programs = arguments.bin.resolve()
    transformers.logging.set_verbosity_error()
    print(f"load average at the start: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="estimate-", dir=harness.CACHE) as folder:
        work = pathlib.Path(folder)
        subprocess.run([programs / "reference_dump", "import", harness.fetch_gguf(), work / "smollm2"], check=True)
        write_data(work / "long.jsonl")
        make_caches(programs, work)
        rows = []
        for model in arguments.models.split(","):
            if SHAPES[model] is not None:
                random_model(work / model, work / "smollm2", SHAPES[model])
            for load in LOADS:
                for method in ("sbora_fa", "sbora_fb"):
                    rows.append(run_case(programs, work, model, method, load, arguments))
                    print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        report(rows)
    print(f"load average at the end: {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
