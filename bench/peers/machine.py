"""Where a measurement ran: what a reader needs to judge it, and nothing that names the machine. Standard library only."""
import os
import pathlib
import platform
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
TELLING = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "avx512_fp16", "amx_tile", "amx_bf16")


def cpu():
    facts = dict(line.split(":", 1) for line in pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
                 if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    present = facts.get("flags", "").split()
    return {"model": facts.get("model name", platform.machine()), "cores": os.cpu_count(),
            "usableCores": len(os.sched_getaffinity(0)), "flags": [flag for flag in TELLING if flag in present]}


def memory_bytes():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def gpus():
    """Lines of name, memory and driver; empty without nvidia-smi."""
    try:
        return subprocess.run(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"],
                              capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []


def facts():
    return {"cpu": cpu(), "memoryBytes": memory_bytes(), "kernel": platform.release(), "gpus": gpus(),
            "loadAverage": os.getloadavg()}


def revision():
    """The commit, with "+changes" where the tree differs from it; "unknown" outside a repository."""
    try:
        git = ["git", "-C", ROOT]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True,
                                 check=True).stdout.strip()
        return head + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def revision_of(packed):
    """What scripts/gpu_pack noted in a folder that it made; else that of the tree."""
    noted = pathlib.Path(packed) / "revision" if packed else None
    return noted.read_text().strip() if noted and noted.exists() else revision()
