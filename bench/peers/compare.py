#!/usr/bin/env python3
"""Trains SmolLM2-135M for a few steps by each method and each program, one process after the other, several times round,
and prints a table of tokens/s and peak memory against PEFT's LoRA and against what the machine's GEMM rate allows.

    bench/compare_cpu [--data FILE] [--repeats N] ...          (builds, and calls this in the reference environment)

All train on the same samples in the same micro-batches: our trainer makes the token cache, the peers read it. Only
non-padding tokens count, and the first two steps of a run do not. Peers pad a batch to its longest sample, as their users
do; ours packs. Peak memory is the largest resident set of the process, loading included.
Methods are ours (sbora_fa, sbora_fb, lora, dora, full, sbora_fa+nf4, none: the frozen base's limit) and theirs (peft_lora,
peft_dora; sbora_dense: SBoRA-FA with a dense one-hot factor; paca; hf_full). What cannot run here is named, not left out.
"""
import argparse
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts/numerics"))

import figures  # noqa: E402
import harness  # noqa: E402
import lengths  # noqa: E402
import machine  # noqa: E402
import runs  # noqa: E402
import token_cache  # noqa: E402
from counter_rng import permutation  # noqa: E402

WARMUP_STEPS = 2  # BenchRequest's
SEED = 42
LOSS_TOLERANCE = 1e-3  # relative; the same as between our losses and transformers' (docs/numerics.md)
DEFAULT_PEERS = ("peft_lora", "peft_dora", "sbora_dense", "paca", "hf_full", *runs.OURS)
TINY = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 128, "head_dim": 16}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of the programs")
    parser.add_argument("--data", type=pathlib.Path, help="alpaca records, JSON or JSONL; default: seeded text")
    parser.add_argument("--model", type=pathlib.Path, help="Hugging Face folder or GGUF file; default: SmolLM2-135M-Instruct")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="measured in each run")
    parser.add_argument("--micro-batch", type=int, default=4, help="samples of a step")
    parser.add_argument("--cutoff", type=int, default=256, help="tokens of a sample at most")
    parser.add_argument("--loss-on", choices=("all", "response"), default="response")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dropout", default="0,0.05", help="list of adapter dropouts")
    parser.add_argument("--peers", default=",".join(DEFAULT_PEERS), help="list of methods")
    parser.add_argument("--output", type=pathlib.Path, default="compare_cpu.json", help="results, all runs included")
    parser.add_argument("--timeout", type=float, default=900, help="seconds that one run may take")
    parser.add_argument("--tiny", action="store_true",
                        help="a small model of random weights: tries the harness, its figures mean nothing")
    arguments = parser.parse_args()
    unknown = set(arguments.peers.split(",")) - set(DEFAULT_PEERS)
    if unknown:
        parser.error(f"--peers: {', '.join(sorted(unknown))} is unknown; known: {', '.join(DEFAULT_PEERS)}")
    return arguments


def model_folder(arguments, work):
    """What both sides load: config.json, weights, tokenizer.json."""
    model = arguments.model or harness.fetch_gguf()
    if not model.is_dir():
        harness.Dump(arguments.bin, work).run("import", model, work / "model")
        model = work / "model"
    if not arguments.tiny:
        return model
    tiny = work / "tiny"
    tiny.mkdir()
    config = {**json.loads((model / "config.json").read_text()), **TINY}
    (tiny / "config.json").write_text(json.dumps(config))
    for file in model.glob("tokenizer*"):
        shutil.copy(file, tiny)
    return tiny


def token_file(arguments, trainer, model, work):
    """Made by our trainer in a process of its own, so that no measured one holds a tokenizer."""
    data = arguments.data
    if data is None:
        data = work / "text.jsonl"
        lengths.write_records(data, (WARMUP_STEPS + arguments.steps) * arguments.micro_batch, seed=1)
    (work / "tokens").mkdir()
    trainer.bench({"model": model, "data": data, "cache-dir": work / "tokens", "cutoff": arguments.cutoff, "rank": 1,
                   "loss-on": arguments.loss_on, "micro-batch": 1, "steps": 1, "threads": arguments.threads}, arguments.timeout)
    return next((work / "tokens").glob("*.train.tokens"))


def measured_load(cache, arguments):
    """(tokens, targets) of all measured steps."""
    samples = token_cache.TokenCache(cache)
    first, last = WARMUP_STEPS * arguments.micro_batch, (WARMUP_STEPS + arguments.steps) * arguments.micro_batch
    if last > len(samples):
        sys.exit(f"error: the data has {len(samples)} samples, {last} are needed: lower --steps or --micro-batch")
    drawn = [samples.sample(i) for i in permutation(SEED, 0, len(samples))[first:last]]
    return sum(len(ids) for ids, _ in drawn), token_cache.targets(drawn)


def plan(arguments, trainer):
    """((name, dropout) to run, skipped with reasons)."""
    wanted, skipped = [], []
    for dropout in (float(value) for value in arguments.dropout.split(",")):
        for name in arguments.peers.split(","):
            if dropout and name in runs.WITHOUT_DROPOUT:
                continue
            reason = trainer.why_not(name, dropout) if name in runs.OURS else None
            if reason:
                skipped.append({"name": name, "dropout": dropout, "reason": reason})
            else:
                wanted.append((name, dropout))
    return wanted, skipped


def write(path, results):
    """After each run: what is there survives an interruption."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    part.replace(path)


def measure_round(repeat, wanted, trainer, settings, load, arguments, results):
    """Everything once; each round starts elsewhere, so that no method is always the first."""
    turn = repeat * 3 % len(wanted)
    for name, dropout in [("gemm", 0.0), *wanted[turn:], *wanted[:turn]]:
        about = {"repeat": repeat, "loadAverage": os.getloadavg()[0]}
        print(f"round {repeat + 1}/{arguments.repeats}: {name} at dropout {dropout:g} (load {about['loadAverage']:.1f})",
              file=sys.stderr, flush=True)
        if name == "gemm":
            tokens, supervised = (round(count / arguments.steps) for count in load)
            results["gemm"].append({**about, **runs.measure_gemm(settings, tokens, supervised, 3, arguments.timeout)})
            continue
        try:
            one = runs.measure(trainer, name, dropout, settings, arguments.timeout)
        except runs.RunFailed as failure:
            results["skipped"].append({"name": name, "dropout": dropout, "reason": f"failed in round {repeat + 1}: {failure}"})
            continue
        if one["tokens"] != load[0]:
            sys.exit(f"error: {name} trained on {one['tokens']} tokens, the others on {load[0]}: not the same samples")
        results["runs"].append({**about, **one})
        write(arguments.output, results)


def main():
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves through the with block: nothing stays behind
    arguments.bin = arguments.bin.resolve()
    trainer = runs.Trainer(arguments.bin / "sbora-trainer")
    with tempfile.TemporaryDirectory(prefix="compare-", dir=harness.CACHE) as folder:
        work = pathlib.Path(folder)
        model = model_folder(arguments, work)
        cache = token_file(arguments, trainer, model, work)
        settings = {"model": str(model), "cache": str(cache), "rank": arguments.rank, "microBatch": arguments.micro_batch,
                    "warmupSteps": WARMUP_STEPS, "steps": arguments.steps, "threads": arguments.threads, "device": "cpu",
                    "dtype": "float32"}
        load = measured_load(cache, arguments)
        wanted, skipped = plan(arguments, trainer)
        if not wanted:
            sys.exit("error: nothing to measure: " + "; ".join(f"{skip['name']}: {skip['reason']}" for skip in skipped))
        results = {"revision": machine.revision(), "machine": machine.facts(), "skipped": skipped, "runs": [], "gemm": [],
                   "settings": {**settings, "model": (arguments.model or pathlib.Path("SmolLM2-135M-Instruct")).name,
                                "cache": arguments.data.name if arguments.data else "seeded text", "cutoff": arguments.cutoff,
                                "lossOn": arguments.loss_on, "tokens": load[0], "targets": load[1], "tiny": arguments.tiny}}
        for repeat in range(arguments.repeats):
            measure_round(repeat, wanted, trainer, settings, load, arguments, results)
        write(arguments.output, results)
    print(f"{results['machine']['cpu']['model']}, {arguments.threads} threads, float32, {load[0]} tokens in {arguments.steps} "
          f"steps, {load[1]} of them targets, {arguments.repeats} rounds; median (range). Raw runs: {arguments.output}\n")
    print(figures.table(results))
    unequal = figures.unequal_losses(results["runs"], LOSS_TOLERANCE)
    if unequal:
        sys.exit(f"error: {', '.join(unequal)} began with another loss than the others: not the same work")
    if any("failed in round" in skip["reason"] for skip in results["skipped"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
