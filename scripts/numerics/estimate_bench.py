#!/usr/bin/env python3
"""Runs real jobs and holds what `sbora-client estimate` said before them against what they took: peak memory of the
trainer (VmHWM) and seconds a step, both from the manifest that the job commits.

    "$(scripts/reference_env)" scripts/numerics/estimate_bench.py --bin build/release/bin [--threads 2]

Three models (SmolLM2-135M-Instruct; two of random weights with its tokenizer, half and a thousandth of its size),
SBoRA-FA and -FB, two micro-batches. All samples have exactly cutoff_tokens tokens and the loss counts all of them, as an
estimate assumes. Time is scaled from the jobs that ran before in the same project, so the first job of a model is
estimated from another model or not at all. Prints a table in Markdown and the largest errors; nothing is fitted.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import transformers
from compare_smollm2 import CACHE, Service, fetch_gguf

RANK = 32
# hidden, layers, heads, key heads, intermediate
SHAPES = {"tiny": (64, 4, 4, 2, 128), "half": (448, 20, 7, 7, 1216)}
LOADS = ((2, 128, 6), (4, 256, 3))  # samples of a micro-batch, tokens of a sample, steps
MIB = 1 << 20


def random_model(folder, base, shape):
    """An HF folder of random weights with the tokenizer of `base`."""
    hidden, layers, heads, key_heads, intermediate = shape
    config = transformers.AutoConfig.from_pretrained(base)
    config.update({"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
                   "num_key_value_heads": key_heads, "intermediate_size": intermediate, "head_dim": hidden // heads})
    transformers.set_seed(1)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(folder)


def write_data(path):
    """Texts longer than any cutoff."""
    words = "the model reads a long line of plain words and learns to say which word comes next".split()
    with open(path, "w", encoding="utf-8") as file:
        for i in range(64):
            text = " ".join(words[(i + j) % len(words)] for j in range(400))
            file.write(json.dumps({"prompt": f"{i}:", "completion": " " + text}) + "\n")


def run_case(service, model, method, load, threads):
    micro, cutoff, steps = load
    name = f"{model}-{method.replace('_', '-')}-{micro}x{cutoff}"
    spec = ["--model", model, "--dataset", "long", "--method", method, "--rank", RANK, "--batch-size", micro,
            "--micro-batch-size", micro, "--cutoff-tokens", cutoff, "--max-steps", steps, "--loss-on", "all",
            "--threads", threads, "--device", "cpu"]
    estimate = service.client("estimate", *spec)
    service.client("submit", "--name", name, "--wait", *spec)
    folder = service.work / name
    service.client("pull", name, "-o", folder)
    summary = json.loads((folder / "manifest.json").read_text())["summary"]
    time = estimate.get("time")
    return {"model": model, "method": method, "load": f"{micro} x {cutoff}",
            "memory": int(estimate["memory"]["peakBytes"]), "parts": estimate["memory"],
            "measured_memory": summary["peak_memory_bytes"],
            "step": time["secondsPerStep"] if time else None,
            "by": time["measuredBy"].rsplit("/", 1)[1] if time else "",
            "measured_step": summary["seconds"] / summary["steps"]}


def percent(estimated, measured):
    return 100.0 * (estimated / measured - 1)


def report(rows):
    print("| model | method | micro-batch | peak estimated MiB | measured MiB | error | step estimated s | measured s | error | scaled from |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    errors = {"memory": [], "time, same model": [], "time, other model": []}
    for row in rows:
        memory = percent(row["memory"], row["measured_memory"])
        errors["memory"].append(abs(memory))
        time = "| – |"
        if row["step"] is not None:
            error = percent(row["step"], row["measured_step"])
            same = row["by"].startswith(row["model"])
            errors["time, same model" if same else "time, other model"].append(abs(error))
            time = f"| {error:+.0f} % |"
        step = "–" if row["step"] is None else f"{row['step']:.2f}"
        print(f"| {row['model']} | {row['method']} | {row['load']} | {row['memory'] / MIB:.0f} | "
              f"{row['measured_memory'] / MIB:.0f} | {memory:+.1f} % | {step} | {row['measured_step']:.2f} {time} {row['by']} |")
    print()
    for name, values in errors.items():
        if values:
            print(f"largest error of {name}: {max(values):.1f} % of {len(values)} jobs")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of the programs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path, help="also write all figures here")
    parser.add_argument("--models", default="tiny,half,smollm2", help="in this order")
    arguments = parser.parse_args()
    programs = arguments.bin.resolve()
    transformers.logging.set_verbosity_error()
    print(f"load average at the start: {os.getloadavg()[0]:.1f}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="estimate-", dir=CACHE) as folder:
        work = pathlib.Path(folder)
        gguf, base = fetch_gguf(), work / "base"
        subprocess.run([programs / "reference_dump", "import", gguf, base], check=True)
        write_data(work / "long.jsonl")
        rows = []
        with Service(programs, work) as service:
            service.client("datasets", "upload", work / "long.jsonl", "--name", "long")
            for model in arguments.models.split(","):
                source = gguf
                if model in SHAPES:
                    source = work / f"{model}-model"
                    random_model(source, base, SHAPES[model])
                service.client("models", "import", source, "--name", model)
                for load in LOADS:
                    for method in ("sbora_fa", "sbora_fb"):
                        rows.append(run_case(service, model, method, load, arguments.threads))
                        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        report(rows)
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"load average at the end: {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
