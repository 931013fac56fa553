#!/usr/bin/env python3
"""Builds the trainer, its kernel tests and benchmarks on a machine with one NVIDIA GPU and without network, and runs them:
kernel tests, compute-sanitizer, the device check, kernels against copies, whole steps at LLaMA-3-8B shapes with seeded
random weights beside PEFT, NCCL with one rank, a profile. Within --budget seconds, the important ones first; what there
was no time for, or what the machine refuses, is named with the reason. Writes gpu_check_<gpu>_<yyyymm>.json and .md.

    scripts/gpu_pack build/gpu-deps                                        where there is a network
    scripts/gpu_check.sh --deps build/gpu-deps --out FOLDER                on the GPU machine, from the same tree
    scripts/gpu_check.sh --device cpu                                      the same steps with tiny shapes, anywhere

Steps: build, kernel_tests, sanitizer, device_check, kernels, steps, nccl, profile. Exit status: 0 nothing failed, 1
something did, 2 the machine has no GPU or the flags are wrong.
"""
import argparse
import datetime
import functools
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench/peers"))

import figures  # noqa: E402
import lengths  # noqa: E402
import machine  # noqa: E402
import report  # noqa: E402
import runs  # noqa: E402
import steps  # noqa: E402
import token_cache  # noqa: E402
from steps import Failed, Skip  # noqa: E402

STEPS = ("build", "kernel_tests", "sanitizer", "device_check", "kernels", "steps", "nccl", "profile")
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "intermediate_size": 128, "vocab_size": 512, "bos_token_id": 1, "eos_token_id": 2}
WARMUP_STEPS = 2


class Load:
    """Samples of one shape, and what runs on them: (label, method, dropout, rank), the important ones first."""

    def __init__(self, name, samples, micro_batch, measured, rounds, cases):
        self.name, self.samples, self.micro_batch, self.measured, self.rounds, self.cases = \
            name, samples, micro_batch, measured, rounds, cases

    def make(self, folder):
        """The token cache, and mean (tokens, targets) of a step."""
        path = folder / (self.name.replace(" ", "-") + ".tokens")
        samples = list(self.samples)
        token_cache.write(path, samples)
        count = len(samples) / self.micro_batch
        return path, (round(sum(len(ids) for ids, _ in samples) / count), round(token_cache.targets(samples) / count))


def loads(vocabulary, tiny, peers):
    """Equal ranks where peers are compared; the ranks of the issue's own figures where not."""
    two, eight, largest = (32, 64, 64) if tiny else (2048, 8192, 256)  # tokens, tokens, rank
    full = functools.partial(lengths.full_samples, vocabulary=vocabulary, seed=1)
    lora = "peft_lora" if "peft_lora" in peers else "lora_twin"
    ours = lambda name, dropout=0.0, rank=32, label=None: (label or name, name, dropout, rank)  # noqa: E731
    theirs = [ours(name) for name in (lora, "peft_dora", "paca", "sbora_dense") if name in peers]
    theirs_dropped = [ours(name, 0.05) for name in (lora, "peft_dora") if name in peers]
    return [
        Load("arithmetic", lengths.token_samples(40, vocabulary, 256, 1), 4, 8, 2,
             [ours("sbora_fa"), *theirs[:1], ours("none"), ours("sbora_fa", 0.05), *theirs_dropped, *theirs[1:],
              ours("sbora_fa+nf4"), ours("lora"), ours("dora"), ours("sbora_fb")]),
        Load(f"8 x {two}", full(40, two), 8, 3, 1,
             [ours("sbora_fa", rank=64), ours("none"), ours("sbora_fa+nf4", rank=64),
              ours("sbora_fa", rank=8, label="sbora_fa r8"), ours("sbora_fa", rank=largest, label=f"sbora_fa r{largest}")]),
        Load(f"1 x {two}", full(4, two), 1, 2, 1, [ours("sbora_fa"), *theirs[:1]]),
        Load(f"1 x {eight}", full(4, eight), 1, 2, 1, [ours("sbora_fa"), *theirs[:1]]),
        Load(f"2 x {eight}", full(10, eight), 2, 3, 1, [ours("sbora_fa", rank=64), ours("sbora_fa+nf4", rank=64)]),
    ]


class Check:
    def __init__(self, arguments, work, document, checklist):
        self.arguments, self.work, self.document, self.checklist = arguments, work, document, checklist
        self.cuda = arguments.device != "cpu"
        self.build_dir = arguments.build.resolve()
        self.environment = {**os.environ, **({"SBORA_REQUIRE_GPU": "1"} if self.cuda else {})}
        self.trainer = runs.Trainer(self.build_dir / "bin/sbora-trainer")
        self.model = work / "model"
        self.model.mkdir()
        (self.model / "config.json").write_text(json.dumps(document["modelConfig"]))

    def call(self, command, timeout, cwd=ROOT):
        """(exit status, all output), which also goes to the log."""
        command = [str(part) for part in command]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                                  timeout=max(1.0, min(timeout, self.checklist.left())), cwd=cwd, env=self.environment)
            status, output = done.returncode, done.stdout
        except subprocess.TimeoutExpired as expired:
            status, output = None, expired.stdout or b""
            output = output.decode(errors="replace") if isinstance(output, bytes) else output
        with open(self.arguments.out / "gpu_check.log", "a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(command)}\n{output}\n[exit status {status}]\n")
        return status, output

    def must(self, command, timeout):
        status, output = self.call(command, timeout)
        if status is None:
            raise Failed(f"{pathlib.Path(str(command[0])).name} did not end in time")
        if status != 0:
            said = [line for line in output.splitlines() if re.search(r"error|failed|FAILED", line, re.IGNORECASE)]
            raise Failed(f"{pathlib.Path(str(command[0])).name}: {(said or output.splitlines() or ['no output'])[0][:300]}")
        return output

    # --- the steps

    def build(self):
        flags = {"CMAKE_BUILD_TYPE": "Release", "SBORA_WITH_SERVICE": "OFF", "SBORA_BUILD_BENCH": "ON",
                 "SBORA_WARNINGS_AS_ERRORS": "OFF", "SBORA_WITH_CUDA": "ON" if self.cuda else "OFF"}
        if self.arguments.deps:
            flags["CMAKE_PREFIX_PATH"] = flags["OPENSSL_ROOT_DIR"] = (self.arguments.deps / "usr").resolve()
        if self.cuda:
            flags.update(cuda_flags())
        configure = ["cmake", "-S", ROOT, "-B", self.build_dir, "-G", "Ninja"]
        self.must([*configure, *(f"-D{name}={value}" for name, value in flags.items())], 120)
        self.must(["cmake", "--build", self.build_dir, "-j", os.cpu_count(), "--target", "sbora-trainer", "kernel_tests",
                   "kernel_benches", "trainer_device_check_test"], self.arguments.build_timeout)
        return {name: str(value) for name, value in flags.items() if "PATH" not in name and "ROOT" not in name}

    def kernel_tests(self):
        output = self.must(["ctest", "--test-dir", self.build_dir / "tests/unit/kernels", "--no-tests=error",
                            "--output-on-failure", "-j", 2], 180)
        output += self.must([self.build_dir / "tests/trainer_device_check_test"], 60)
        skipped = re.findall(r"(\S+) \.+\*{3}Skipped", output)
        if self.cuda and skipped:
            raise Failed(f"skipped on a machine with a GPU: {', '.join(skipped)}")
        return {"passed": len(re.findall(r"\.\s+Passed", output)), "skipped": skipped}

    def sanitizer(self):
        if not self.cuda:
            raise Skip("no GPU")
        if not shutil.which("compute-sanitizer"):
            raise Skip("compute-sanitizer is not installed")
        tests = sorted((self.build_dir / "tests").glob("*_cuda_test"))
        found, refused = {}, {}
        for tool in ("memcheck", "racecheck"):
            for test in tests:
                status, output = self.call(["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", test], 60)
                if "Device not supported" in output or "not supported on" in output:
                    raise Skip("compute-sanitizer is refused here: " + first_line(output, "supported"))
                name = f"{tool} {test.name}"
                if status is None:
                    refused[name] = "did not end within a minute"
                elif status != 0:
                    raise Failed(f"{name}: {first_line(output, '=========')}")
                else:
                    found[name] = first_line(output, "SUMMARY")
        return {"clean": found, "skipped": refused}

    def device_check(self):
        """sbora-trainer compares a small model on a GPU with the CPU before any task (device_check.h)."""
        folder = self.work / "small"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({**self.document["modelConfig"], **TINY}))
        token_cache.write(folder / "small.tokens", list(lengths.full_samples(12, 32, TINY["vocab_size"], 1)))
        try:
            return self.trainer.bench({"model": folder, "data": folder / "small.tokens", "steps": 1, "rank": 8,
                                       "device": self.arguments.device}, min(120, self.checklist.left()))
        except runs.RunFailed as failure:
            raise Failed(str(failure)) from None

    def kernels(self):
        least = "0.1" if self.cuda else "0.001"
        kept, wrong = [], []
        for program in sorted((self.build_dir / "bench").glob("*_bench")):
            target = self.work / f"{program.name}.json"
            self.must([program, f"--benchmark_min_time={least}", f"--benchmark_out={target}", "--benchmark_out_format=json",
                       f"--benchmark_filter=^{'cuda' if self.cuda else 'cpu'}/"], 120)
            # A program without a case for this device writes no object.
            text = target.read_text() if target.exists() else ""
            rows = report.kernel_rows(json.loads(text)) if text.strip() else []
            kept += rows
            wrong += [f"{name}: {error}" for name, _, _, error in rows if error]
        self.document["kernels"] = kept
        if wrong or not kept:
            raise Failed("; ".join(wrong) or "no benchmark ran")
        return {"calls": len(kept)}

    def steps(self, peers):
        failed = []
        for load in loads(self.document["modelConfig"]["vocab_size"], self.document["tiny"], peers):
            path, (tokens, supervised) = load.make(self.work)
            settings = {"model": str(self.model), "cache": str(path), "microBatch": load.micro_batch,
                        "warmupSteps": WARMUP_STEPS, "steps": load.measured, "threads": self.arguments.threads,
                        "device": self.arguments.device, "dtype": "bfloat16" if self.cuda else "float32"}
            results = {"name": load.name, "tokens": tokens, "supervised": supervised, "runs": [], "gemm": [], "skipped": []}
            self.document["loads"].append(results)
            for repeat in range(load.rounds):
                self.measure_round(load, repeat, settings, results)
            failed += [f"{skip['name']} on {load.name}" for skip in results["skipped"] if skip["reason"].startswith("failed")]
        if failed:
            raise Failed(f"{', '.join(failed)}: the reasons are below the tables")
        return {"runs": sum(len(load["runs"]) for load in self.document["loads"])}

    def measure_round(self, load, repeat, settings, results):
        about = {"repeat": repeat, "loadAverage": os.getloadavg()[0]}
        cap = self.arguments.run_timeout
        for label, name, dropout, rank in load.cases:
            def skip(reason):
                results["skipped"].append({"name": label, "dropout": dropout, "reason": reason})
            left = self.checklist.left() - self.arguments.reserve
            if left < self.arguments.least_run:
                skip(f"{max(0, left):.0f} s of the time were left in round {repeat + 1}")
                continue
            reason = self.trainer.why_not(name, dropout) if name in runs.OURS else None
            if reason:
                skip(reason)
                continue
            one = {**settings, "rank": rank}
            try:
                try:
                    run = runs.measure(self.trainer, name, dropout, one, min(cap, left))
                except runs.RunFailed as failure:
                    if not re.search("OOM_GPU|out of memory", str(failure)):
                        raise
                    label += ", checkpointed"  # of activations, and the reader must know
                    run = runs.measure(self.trainer, name, dropout, {**one, "gradientCheckpointing": True},
                                       max(1, min(cap, self.checklist.left())))
            except runs.RunFailed as failure:
                skip(f"failed in round {repeat + 1}: {failure}")
                continue
            if self.cuda:
                run["peakBytes"] = run["peakDeviceBytes"] - run["weightBytes"]
            results["runs"].append({**about, **run, "name": label, "rank": rank})
            self.checklist.report(self.document)
        if self.checklist.left() < self.arguments.reserve:
            skip_bound = f"{self.checklist.left():.0f} s of the time were left in round {repeat + 1}"
            results["skipped"].append({"name": "GEMM bound", "dropout": 0.0, "reason": skip_bound})
            return
        try:
            bound = runs.measure_gemm(settings, results["tokens"], results["supervised"], 3,
                                      max(1, min(cap, self.checklist.left())))
            results["gemm"].append({**about, **bound})
        except runs.RunFailed as failure:
            reason = f"failed in round {repeat + 1}: {failure}"
            results["skipped"].append({"name": "GEMM bound", "dropout": 0.0, "reason": reason})

    def nccl(self):
        if not self.cuda:
            raise Skip("no GPU")
        tests = self.must(["ctest", "--test-dir", self.build_dir, "-N", "-R", "nccl"], 30)
        names = re.findall(r"Test +#\d+: (\S+)", tests)
        if not names:
            raise Skip("this tree has no test of NCCL")
        self.must(["cmake", "--build", self.build_dir, "-j", os.cpu_count(), "--target", *names], 180)
        self.must(["ctest", "--test-dir", self.build_dir, "--output-on-failure", "-R", "nccl"], 60)
        return {"tests": names, "ranks": 1}

    def profile(self):
        """Kernels of a few steps, on a model of the same shapes and two layers: a profiler's price is by the launch."""
        if not self.cuda:
            raise Skip("no GPU: kernels of a step are profiled there alone")
        folder = self.work / "two-layers"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({**self.document["modelConfig"], "num_hidden_layers": 2}))
        cache = self.work / "profile.tokens"
        token_cache.write(cache, list(lengths.full_samples(24, 2048, self.document["modelConfig"]["vocab_size"], 1)))
        bench = [self.trainer.program, "bench", "--model", folder, "--data", cache, "--method", "sbora_fa", "--rank", 64,
                 "--micro-batch", 8, "--steps", 1, "--device", self.arguments.device]
        for profiler in (self.by_nsys, self.by_ncu):
            rows = profiler(bench)
            if rows:
                self.document["profile"] = rows
                return {"by": self.document["profileBy"], "kernels": len(rows)}
        raise Skip("neither nsys nor ncu gave one here; the log has what they said")

    def by_nsys(self, bench):
        if not shutil.which("nsys"):
            return []
        self.document["profileBy"] = "nsys, sums of all launches of the process, its device check included"
        target = self.work / "step"
        status, _ = self.call(["nsys", "profile", "--trace=cuda", "--sample=none", "--cpuctxsw=none", "-o", target, *bench], 120)
        if status != 0:
            return []
        _, output = self.call(["nsys", "stats", "--report", "cuda_gpu_kern_sum", "--format", "csv", f"{target}.nsys-rep"], 60)
        return report.kernel_times(output, "Name", {"Total Time (ns)": 1e-6})

    def by_ncu(self, bench):
        """Clocks are left as they are: the machine may be shared."""
        if not shutil.which("ncu"):
            return []
        self.document["profileBy"] = "ncu, one launch at a time, sums of all launches of the process, its device check included"
        _, output = self.call(["ncu", "--clock-control", "none", "--metrics", "gpu__time_duration.sum", "--csv", "--page", "raw",
                               "--print-units", "base", *bench], 150)
        return report.kernel_times(output, "Kernel Name", {"gpu__time_duration.sum": 1e-6})


def first_line(output, having):
    return next((line.strip() for line in output.splitlines() if having in line), output.strip()[:200])[:300]


def cuda_flags():
    """Where this machine has LibTorch (inside Python's torch) and nvcc, and what its GPU is."""
    import torch
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not pathlib.Path(nvcc).exists():
        raise Failed("nvcc is neither in PATH nor in /usr/local/cuda")
    site = pathlib.Path(torch.__file__).resolve().parents[1]
    major, minor = torch.cuda.get_device_capability()
    return {"SBORA_TORCH_ROOT": site, "SBORA_CUDA_ROOT": pathlib.Path(nvcc).resolve().parents[1],
            "SBORA_CUDA_ARCHITECTURES": f"{major}{minor}"}


def tree_revision(deps):
    """The tree may have come without its history: then what gpu_pack noted."""
    known = machine.revision()
    return machine.revision_of(deps) if known == "unknown" else known


def peers_here():
    """Which of theirs this Python can run."""
    def has(module):
        return importlib.util.find_spec(module) is not None
    if not (has("torch") and has("transformers")):
        return []
    return list(runs.THEIRS) if has("peft") else ["lora_twin", "paca"]


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", help="cuda:0, or cpu for tiny shapes")
    parser.add_argument("--deps", type=pathlib.Path, help="what scripts/gpu_pack made; default: the system's own packages")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/gpu-check-results"))
    parser.add_argument("--build", type=pathlib.Path, help="default build/gpu-check, or build/gpu-check-cpu")
    parser.add_argument("--budget", type=float, default=570, help="seconds for everything")
    parser.add_argument("--build-timeout", type=float, default=330, help="seconds of them for the compilers")
    parser.add_argument("--run-timeout", type=float, default=90, help="seconds for one run of the trainer or of a peer")
    parser.add_argument("--least-run", type=float, default=25, help="seconds that must be left for a run to begin")
    parser.add_argument("--reserve", type=float, default=60, help="seconds kept for what follows the whole steps")
    parser.add_argument("--steps", default=",".join(STEPS), help="list of steps; build is needed by the others once")
    parser.add_argument("--config", type=pathlib.Path, default=ROOT / "examples/configs/llama-3-8b.json")
    parser.add_argument("--peak-tflops", type=float, default=790, help="that shares are told of")
    parser.add_argument("--threads", type=int, default=0, help="0: all there are, on a CPU two")
    arguments = parser.parse_args()
    arguments.steps = arguments.steps.split(",")
    if set(arguments.steps) - set(STEPS):
        parser.error(f"--steps: known are {', '.join(STEPS)}")
    if arguments.device != "cpu" and not machine.gpus():
        parser.error("this machine has no NVIDIA GPU (nvidia-smi lists none); --device cpu tries the same steps with tiny shapes")
    on_cpu = arguments.device == "cpu"
    arguments.build = arguments.build or ROOT / ("build/gpu-check-cpu" if on_cpu else "build/gpu-check")
    arguments.threads = arguments.threads or (min(2, os.cpu_count()) if on_cpu else os.cpu_count())
    return arguments


def main():
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    tiny, facts = arguments.device == "cpu", machine.facts()
    name = facts["gpus"][0].split(",")[0] if not tiny else facts["cpu"]["model"]
    now = datetime.datetime.now(datetime.timezone.utc)
    config = json.loads(arguments.config.read_text())
    document = {"title": "Check of the trainer", "device": name, "month": f"{now:%Y-%m}",
                "revision": tree_revision(arguments.deps), "machine": facts, "tiny": tiny,
                "modelConfig": {**config, **TINY} if tiny else config, "loads": [], "kernels": [], "profile": [], "profileBy": "",
                "weights": f"seeded random, shapes of {'a small model' if tiny else arguments.config.stem}",
                "peakTflops": 0 if tiny else arguments.peak_tflops, "memory": "peak" if tiny else "peak above the weights"}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "gpu_check.log").unlink(missing_ok=True)
    stem = arguments.out / f"gpu_check_{'dry_run' if tiny else steps.slug(name)}_{now:%Y%m}"
    write_json = steps.write_json(stem.with_suffix(".json"))

    def save(current):
        write_json(current)
        stem.with_suffix(".md").write_text(report.markdown(current), encoding="utf-8")

    checklist = steps.Checklist(document, arguments.budget, save, set(arguments.steps))
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        check = Check(arguments, pathlib.Path(folder), document, checklist)
        checklist.run("build", check.build, least=60)
        if check.trainer.program.exists():
            checklist.run("kernel_tests", check.kernel_tests)
            checklist.run("device_check", check.device_check)
            checklist.run("kernels", check.kernels, least=20)
            checklist.run("sanitizer", check.sanitizer, least=60)
            checklist.run("steps", functools.partial(check.steps, peers_here()), least=60)
            checklist.run("nccl", check.nccl, least=20)
            checklist.run("profile", check.profile, least=30)
    print(report.markdown(document))
    failed = f"; failed: {', '.join(checklist.failed())}" if checklist.failed() else ""
    print(f"gpu_check: {stem}.json and .md{failed}")
    return 1 if checklist.failed() else 0


if __name__ == "__main__":
    sys.exit(main())
