#!/usr/bin/env python3
"""The service itself on a machine with an NVIDIA GPU and without network, from programs that were built elsewhere: server and
worker start, a small model of random weights is imported, a job is submitted for DEVICE_CUDA, trained, pulled, and its
adapter checked; once more on an NF4 base. Writes gpu_service_check_<gpu>_<yyyymm>.json and .md.

    scripts/gpu_pack --service build/gpu-service BUILD/bin                 where the programs are; BUILD has CUDA
    scripts/gpu_service_check.sh --programs build/gpu-service --out FOLDER on the GPU machine
    scripts/gpu_service_check.sh --programs FOLDER --device cpu            the same on a CPU; FOLDER has bin/
Exit status: 0 nothing failed, 1 something did, 2 the machine has no GPU or the flags are wrong.
"""
import argparse
import datetime
import functools
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bench/peers"), str(ROOT / "scripts")]

import machine  # noqa: E402
import report  # noqa: E402
import steps  # noqa: E402
import tiny_model  # noqa: E402
from started_programs import NotStarted, StartedPrograms  # noqa: E402
from steps import Failed  # noqa: E402

PROGRAMS = ("sbora-server", "sbora-worker", "sbora-client", "sbora-trainer")
ARCHIVE = "programs.tar.xz"  # of bin/ and lib/
START_SECONDS = 60


def library_path(programs, cuda):
    """What the programs were packed with, then LibTorch and CUDA out of this Python's own packages."""
    folders = [programs / "lib"]
    if cuda:
        found = importlib.util.find_spec("torch")
        if found is None:
            raise Failed("this Python has no torch, whose libraries the trainer needs; SBORA_PYTHON names another")
        site = pathlib.Path(found.origin).resolve().parents[1]
        folders += [site / "torch/lib", *sorted(site.glob("nvidia/*/lib"))]
    return ":".join(str(folder) for folder in folders if folder.exists())


def unpack(programs, work, cuda):
    """Where bin/ is, and where its libraries are."""
    if (programs / ARCHIVE).exists():
        with tarfile.open(programs / ARCHIVE) as archive:
            archive.extractall(work / "programs", filter="data")
        programs = work / "programs"
    return {"folder": str(programs), "libraries": library_path(programs, cuda)}


class Service:
    """Server and worker on loopback; stopped on leaving."""

    def __init__(self, programs, work, left):
        self.programs, self.work, self.left = pathlib.Path(programs["folder"]), work, left
        self.environment = {**os.environ, "LD_LIBRARY_PATH": programs["libraries"]}
        self.running, self.address = StartedPrograms(work, self.environment), ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.running.stop()

    def start(self, name, *flags):
        try:
            return self.running.start(self.programs / "bin" / f"sbora-{name}", name, *flags, seconds=min(START_SECONDS, self.left()))
        except NotStarted as error:
            raise Failed(str(error)) from None

    def client(self, *arguments):
        command = [self.programs / "bin/sbora-client", "--server", self.address, "--output", "json", *map(str, arguments)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=max(1, self.left()))
        except subprocess.TimeoutExpired:
            raise Failed(f"sbora-client {arguments[0]} did not end in time") from None
        if done.returncode != 0:
            said = done.stderr.strip().splitlines()
            raise Failed(f"sbora-client {arguments[0]}: exit status {done.returncode}: {said[-1] if said else 'no output'}")
        return done.stdout


class Check:
    def __init__(self, arguments, work, service, cuda):
        self.arguments, self.work, self.service, self.cuda = arguments, work, service, cuda

    def start(self):
        self.service.address = self.service.start("server", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")["address"]
        slots = ["--cpu-slots", "0"] if self.cuda else []
        self.service.start("worker", "--server", self.service.address, "--name", "check", *slots)
        listed = json.loads(self.service.client("workers", "list"))
        workers = listed["workers"] if isinstance(listed, dict) else listed
        found = {"gpus": workers[0].get("gpus", []), "slots": int(workers[0].get("slotsTotal", 0))}
        if self.cuda and (not found["gpus"] or found["slots"] == 0):
            raise Failed(f"the worker offers no GPU: {found}; was it built with CUDA, and is libnvidia-ml there?")
        return found

    def inputs(self):
        size = {"hidden": 512, "layers": 4, "heads": 8} if self.cuda else {"hidden": 32, "layers": 2, "heads": 4}
        tiny_model.write_model(self.work / "tiny", **size)
        tiny_model.write_data(self.work / "colors.jsonl", 96)
        self.service.client("models", "import", self.work / "tiny", "--name", "tiny")
        self.service.client("datasets", "upload", self.work / "colors.jsonl", "--name", "colors")
        return size

    def job(self, name, *flags):
        """Submit, wait, pull; a job that asks for CUDA runs nowhere else. Without CPU slots it could not."""
        began = time.monotonic()
        self.service.client("submit", "--name", name, "--model", "tiny", "--dataset", "colors", "--method", "sbora_fa",
                            "--rank", 8, "--max-steps", 20, "--batch-size", 8, "--micro-batch-size", 4, "--learning-rate", "1e-3",
                            "--device", "cuda" if self.cuda else "cpu", *flags, "--wait")
        trained = time.monotonic() - began
        metrics = json.loads(self.service.client("jobs", "metrics", name))["metrics"]
        losses = [metric["loss"] for metric in metrics]
        self.service.client("pull", name, "-o", self.work / name)
        files = sorted(path.name for path in (self.work / name).iterdir())
        if len(losses) != 20 or not losses[-1] < losses[0]:
            raise Failed(f"{len(losses)} steps, loss {losses[:1]} -> {losses[-1:]}: it did not learn")
        if not {"adapter_model.safetensors", "manifest.json"} <= set(files):
            raise Failed(f"the pulled adapter consists of {files}")
        return {"seconds": round(trained, 1), "firstLoss": losses[0], "lastLoss": losses[-1], "files": files}


def run_steps(check, checklist):
    if checklist.run("start", check.start) and checklist.run("inputs", check.inputs):
        checklist.run("job", functools.partial(check.job, "plain"))
        checklist.run("nf4_job", functools.partial(check.job, "nf4", "--quantization", "nf4"))


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=pathlib.Path, required=True,
                        help=f"folder with {ARCHIVE}, or with bin/ (and lib/ where libraries came along)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/gpu-check-results"))
    parser.add_argument("--budget", type=float, default=300, help="seconds for everything")
    arguments = parser.parse_args()
    arguments.programs = arguments.programs.resolve()
    missing = [name for name in PROGRAMS if not os.access(arguments.programs / "bin" / name, os.X_OK)]
    if missing and not (arguments.programs / ARCHIVE).exists():
        parser.error(f"{arguments.programs} has no {ARCHIVE}, and its bin lacks {', '.join(missing)}; scripts/gpu_pack "
                     "--service makes such a folder")
    if arguments.device == "cuda" and not machine.gpus():
        parser.error("this machine has no NVIDIA GPU (nvidia-smi lists none); --device cpu tries the same steps")
    return arguments


def main():
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cuda, facts = arguments.device == "cuda", machine.facts()
    name = facts["gpus"][0].split(",")[0] if cuda else facts["cpu"]["model"]
    now = datetime.datetime.now(datetime.timezone.utc)
    document = {"title": "Check of the service", "device": name, "month": f"{now:%Y-%m}", "machine": facts, "tiny": not cuda,
                "revision": machine.revision_of(arguments.programs), "weights": "seeded random, a small model"}
    arguments.out.mkdir(parents=True, exist_ok=True)
    stem = arguments.out / f"gpu_service_check_{steps.slug(name) if cuda else 'dry_run'}_{now:%Y%m}"
    write_json = steps.write_json(stem.with_suffix(".json"))

    def save(current):
        write_json(current)
        stem.with_suffix(".md").write_text(report.markdown(current), encoding="utf-8")

    checklist = steps.Checklist(document, arguments.budget, save)
    with tempfile.TemporaryDirectory(prefix="gpu-service-check-") as folder:
        work = pathlib.Path(folder)
        programs = checklist.run("unpack", functools.partial(unpack, arguments.programs, work, cuda))
        if programs:
            with Service(programs, work, checklist.left) as service:
                run_steps(Check(arguments, work, service, cuda), checklist)
        for log in sorted(work.glob("*.log")):
            (arguments.out / f"gpu_service_{log.name}").write_bytes(log.read_bytes())
    print(report.markdown(document))
    failed = f"; failed: {', '.join(checklist.failed())}" if checklist.failed() else ""
    print(f"gpu_service_check: {stem}.json and .md{failed}")
    return 1 if checklist.failed() else 0


if __name__ == "__main__":
    sys.exit(main())
