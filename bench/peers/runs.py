"""One measurement each, in a process of its own: ours by `sbora-trainer bench`, theirs by peer.py, the products by gemm.py.
Standard library only."""
import functools
import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
OURS = ("sbora_fa", "sbora_fb", "lora", "dora", "full", "sbora_fa+nf4", "none")
THEIRS = ("peft_lora", "peft_dora", "sbora_dense", "paca", "hf_full", "lora_twin")
WITHOUT_DROPOUT = ("full", "none", "paca", "hf_full")
USAGE_ERROR = 2  # ExitCode::kUsage


class RunFailed(Exception):
    """What the process said last."""


def run_json(command, timeout, environment=None):
    """The last line of the process's standard output, as JSON."""
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=timeout,
                              env={**os.environ, **(environment or {})})
    except subprocess.TimeoutExpired:
        raise RunFailed(f"did not end within {timeout:.0f} s") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise RunFailed(f"exit status {done.returncode}: {said[-1] if said else 'no output'}")
    return json.loads(done.stdout.strip().splitlines()[-1])


class Trainer:
    """`sbora-trainer bench`, and what this build of it can do."""

    def __init__(self, program):
        self.program = pathlib.Path(program)

    def bench(self, flags, timeout):
        command = [self.program, "bench", "--output", "json"]
        for name, value in flags.items():
            command += [f"--{name}", value]
        return run_json(command, timeout)

    def _says(self, *flags):
        done = subprocess.run([self.program, "bench", *flags], capture_output=True, text=True)
        return done.returncode, done.stderr + done.stdout

    @functools.cache
    def knows_flag(self, flag):
        return f'unknown flag "--{flag}"' not in self._says(f"--{flag}", "0")[1]

    @functools.cache
    def knows_method(self, method):
        return self._says("--model", "/nowhere", "--data", "/nowhere.tokens", "--method", method)[0] != USAGE_ERROR

    def why_not(self, name, dropout):
        """None, or why this build cannot run it."""
        method = name.removesuffix("+nf4")
        if not self.knows_method(method):
            return f"this sbora-trainer has no --method {method}"
        if dropout and not self.knows_flag("dropout"):
            return "this sbora-trainer bench has no --dropout"
        return None


def measure_ours(trainer, name, dropout, settings, timeout):
    flags = {"model": settings["model"], "data": settings["cache"], "method": name, "rank": settings["rank"],
             "micro-batch": settings["microBatch"], "steps": settings["steps"], "threads": settings["threads"],
             "device": settings["device"], "gradient-checkpointing": int(settings.get("gradientCheckpointing", False))}
    if dropout:
        flags["dropout"] = dropout
    return trainer.bench(flags, timeout)


def measure_theirs(name, dropout, settings, timeout):
    """`settings` has model, cache, rank, microBatch, warmupSteps, steps, threads, device and dtype."""
    request = {**settings, "method": name, "dropout": dropout}
    return run_json([sys.executable, HERE / "peer.py", json.dumps(request)], timeout,
                    {"OMP_NUM_THREADS": str(settings["threads"])})


def measure(trainer, name, dropout, settings, timeout):
    one = measure_ours(trainer, name, dropout, settings, timeout) if name in OURS else \
        measure_theirs(name, dropout, settings, timeout)
    device_peak = one.get("peakDeviceBytes", 0)
    return {"name": name, "dropout": dropout, **one, "peakBytes": device_peak or one["peakMemoryBytes"]}


def measure_gemm(settings, tokens, supervised, passes, timeout):
    request = {"tokens": tokens, "supervised": supervised, "passes": passes,
               **{field: settings[field] for field in ("model", "threads", "device", "dtype")}}
    return run_json([sys.executable, HERE / "gemm.py", json.dumps(request)], timeout,
                    {"OMP_NUM_THREADS": str(settings["threads"])})
