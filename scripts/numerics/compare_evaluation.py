#!/usr/bin/env python3
"""Holds the service's evaluations of SmolLM2-135M-Instruct against a scripted transformers run, in float32 on the CPU.

    scripts/check_all reference
    "$(scripts/reference_env)" scripts/numerics/compare_evaluation.py --bin build/release/bin --data DIR

DIR holds tasks/boolq/test.json, tasks/AddSub/test.json, and mmlu/dev and mmlu/test as CSV files; none of it is part of the
repository. The prompts, the answers and the scores are made again here, from the published rules and by Python's own re,
csv and json. Checked, one line each, on the first rows of each:
  boolq and AddSub, greedy: prompts, generated text, answers found and scores are equal;
  both with 4 beams, on fewer rows; MMLU with 5 shots: prompts and scores equal, letters' log-probabilities within 1e-3.
Where the two best tokens of a greedy step are closer than the tolerance there is no argmax to agree on: such rows are
counted and must be rare. Fewer new tokens are generated than the published settings ask for (--max-new-tokens): what is
compared is the decoding, not the model. Exit status: 0 all hold, 1 something differs or failed.
"""
import argparse
import csv
import json
import pathlib
import re
import signal
import sys
import tempfile
import time
import warnings

import torch
import transformers

from compare_smollm2 import CACHE, TOLERANCE, Checks, Dump, Service, fetch_gguf, load

SUBJECTS = ["abstract_algebra", "anatomy", "management", "world_religions"]
LETTERS = "ABCD"
SHOTS = 5
BATCH = 10
INDENT = " " * 16


def adapters_prompt(instruction):
    """As LLM-Adapters' evaluation scripts write it; the training script's has other spaces."""
    return (f"Below is an instruction that describes a task. Write a response that appropriately completes the request. \n\n"
            f"{INDENT}### Instruction:\n{INDENT}{instruction}\n\n{INDENT}### Response:\n{INDENT}")


def find_word(text):
    found = re.findall(r"true|false", text)
    return found[0] if found else None


def find_number(text):
    found = re.findall(r"-?\d+\.?\d*", text.replace(",", ""))
    return found[-1] if found else None


def same_number(label, found):
    return found is not None and abs(float(label) - float(found)) <= 0.001


class Reference:
    """Their side: transformers."""

    def __init__(self, folder):
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        self.model = load(folder)

    def end_tokens(self):
        ends = self.model.config.eos_token_id
        return {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}

    @torch.no_grad()
    def generate(self, prompts, tokens, beams):
        """The whole texts, as the published scripts decode them, and the new ids of each."""
        config = transformers.GenerationConfig(
            max_new_tokens=tokens, num_beams=beams, do_sample=False, length_penalty=1.0, early_stopping=False,
            eos_token_id=sorted(self.end_tokens()), pad_token_id=self.tokenizer.pad_token_id)
        texts, ids = [], []
        for first in range(0, len(prompts), BATCH):
            inputs = self.tokenizer(prompts[first:first + BATCH], return_tensors="pt", padding=True)
            out = self.model.generate(**inputs, generation_config=config)
            new = out[:, inputs["input_ids"].shape[1]:]
            texts += self.tokenizer.batch_decode(out, skip_special_tokens=True)
            ids += new.tolist()
        return texts, ids

    @torch.no_grad()
    def closest_call(self, prompt, new_ids):
        """The least distance between the two best logits along an answer."""
        prompt_ids = self.tokenizer(prompt)["input_ids"]
        ids = [token for token in new_ids if token != self.tokenizer.pad_token_id]
        logits = self.model(input_ids=torch.tensor([prompt_ids + ids])).logits[0, len(prompt_ids) - 1:]
        best = logits.topk(2, dim=-1).values
        return (best[:, 0] - best[:, 1]).min().item()

    @torch.no_grad()
    def letters(self, prompt, letter_ids):
        logits = self.model(input_ids=torch.tensor([self.tokenizer(prompt)["input_ids"]])).logits[0, -1]
        return torch.log_softmax(logits, -1)[letter_ids].tolist()


def evaluate(service, dataset, *arguments):
    """The service's result and its examples."""
    file = service.work / f"{dataset}.examples.jsonl"
    job = service.client("evaluate", "--model", "smollm2", "--dataset", dataset, "--examples", file, *arguments)
    return job["result"], [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def check_generated(checks, service, reference, task, rows, beams, tokens):
    """`rows` records of a task through the service and through transformers."""
    name = f"{task} ({'greedy' if beams == 1 else f'{beams} beams'})"
    find, same = (find_word, str.__eq__) if task == "boolq" else (find_number, same_number)
    result, ours = evaluate(service, task.lower(), "--task", task, "--num-beams", beams, "--max-new-tokens", tokens,
                            "--max-samples", len(rows))
    prompts = [adapters_prompt(row["instruction"]) for row in rows]
    checks.note([example["prompt"] for example in ours] == prompts, f"{name} prompts", f"{len(prompts)} equal")
    texts, ids = reference.generate(prompts, tokens, beams)
    differing, ties, answers, scores, right = [], 0, 0, 0, 0
    for i, (row, example, text) in enumerate(zip(rows, ours, texts, strict=True)):
        response = text.split("### Response:")[1].strip()
        found = find(response)
        correct = found is not None and bool(same(row["answer"], found))
        right += correct
        if example["output"].strip() != text[len(prompts[i]):].strip():
            if beams == 1 and reference.closest_call(prompts[i], ids[i]) <= TOLERANCE:
                ties += 1
                continue
            differing.append(i)
        answers += example["answer"] != found
        scores += example["match"] != correct
    first = f"; first {differing[0]}: {ours[differing[0]]['output']!r} and {texts[differing[0]][-200:]!r}" if differing else ""
    checks.note(not differing and ties <= len(rows) // 50, f"{name} generations",
                f"{len(rows)} rows of at most {tokens} tokens, {len(differing)} differ, {ties} ties{first}")
    checks.note(answers == 0 and scores == 0, f"{name} answers and scores", f"{answers} and {scores} differ")
    total = int(result["correct"])
    checks.note(abs(total - right) <= ties, f"{name} accuracy",
                f"{total} of {len(rows)}, {result['unanswered']} unanswered; transformers {right}")


def read_questions(file, limit):
    with open(file, newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))[1:limit + 1]
    return [{"question": row[0], "choices": row[1:5], "answer": LETTERS[int(row[5])]} for row in rows]


def question_text(row):
    return row["question"] + "".join(f"\n{letter}. {text}" for letter, text in zip(LETTERS, row["choices"])) + "\nAnswer:"


def mmlu_prompt(subject, dev, row):
    words = "".join(" " + word for word in subject.split("_"))
    shots = "".join(f"{question_text(shot)} {shot['answer']}\n\n" for shot in dev[:SHOTS])
    return f"The following are multiple choice questions (with answers) about {words}.\n\n{shots}{question_text(row)}"


def write_questions(data, work, rows):
    """Two folders of CSV files, as a user has them, with `rows` test questions each; and the questions by subject."""
    sets = {}
    for subject in SUBJECTS:
        for split, limit in (("dev", SHOTS), ("test", rows)):
            (work / split).mkdir(exist_ok=True)
            source = data / "mmlu" / split / f"{subject}_{split}.csv"
            sets[subject, split] = read_questions(source, limit)
            with open(source, newline="", encoding="utf-8") as stream:
                lines = list(csv.reader(stream))[:limit + 1]
            with open(work / split / source.name, "w", newline="", encoding="utf-8") as stream:
                csv.writer(stream).writerows(lines)
    return sets


def check_mmlu(checks, service, reference, sets, rows):
    for split in ("dev", "test"):
        service.client("datasets", "upload", service.work / split, "--name", f"mmlu-{split}")
    tokenizer = reference.tokenizer
    first = [tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in LETTERS]
    spaced = [tokenizer(f"Answer: {letter}", add_special_tokens=False)["input_ids"][-1] for letter in LETTERS]
    wanted = [(subject, row) for subject in sorted(SUBJECTS) for row in sets[subject, "test"]]
    prompts = [mmlu_prompt(subject, sets[subject, "dev"], row) for subject, row in wanted]
    both = [reference.letters(prompt, first + spaced) for prompt in prompts]
    for scoring, begin, count in (("choice_likelihood", 0, len(prompts)), ("choice_likelihood_spaced", 4, len(prompts) // 5)):
        result, ours = evaluate(service, "mmlu-test", "--task", "mmlu", "--few-shot-dataset", "mmlu-dev", "--scoring", scoring,
                                "--max-samples", count)
        checks.note([example["prompt"] for example in ours] == prompts[:count], f"MMLU {scoring} prompts", f"{count} equal")
        theirs = [letters[begin:begin + 4] for letters in both[:count]]
        worst = max(abs(a - b) for example, letters in zip(ours, theirs, strict=True)
                    for a, b in zip(example["choice_log_probabilities"], letters, strict=True))
        checks.note(worst <= TOLERANCE, f"MMLU {scoring} log-probabilities", f"{4 * count} letters, max abs difference {worst:.2e}")
        correct = [LETTERS[max(range(4), key=letters.__getitem__)] == row["answer"]
                   for letters, (_, row) in zip(theirs, wanted)]
        wrong = sum(example["match"] != right for example, right in zip(ours, correct, strict=True))
        by_subject = {}
        for (subject, _), right in zip(wanted, correct):
            by_subject.setdefault(subject, []).append(right)
        mean = sum(sum(rights) / len(rights) for rights in by_subject.values()) / len(by_subject)
        ours_by = {score["subject"]: (int(score["correct"]), int(score["samples"])) for score in result["subjects"]}
        same = ours_by == {subject: (sum(rights), len(rights)) for subject, rights in by_subject.items()}
        checks.note(wrong == 0 and same and abs(result["subjectMean"] - mean) < 1e-12, f"MMLU {scoring} scores",
                    f"{wrong} differ, {sum(correct)} of {count} right, mean over {len(by_subject)} subjects "
                    f"{result['subjectMean']:.4f}")


def run(checks, programs, data, options):
    with tempfile.TemporaryDirectory(prefix="reference-", dir=CACHE) as folder:
        work = pathlib.Path(folder)
        gguf, base = fetch_gguf(), work / "base"
        Dump(programs / "reference_dump", work).run("import", gguf, base)
        reference = Reference(base)
        sets = write_questions(data, work, options.rows // len(SUBJECTS))
        with Service(programs, work) as service:
            service.client("models", "import", gguf, "--name", "smollm2")
            for task in ("boolq", "AddSub"):
                rows = json.loads((data / "tasks" / task / "test.json").read_text(encoding="utf-8"))[:options.rows]
                service.client("datasets", "upload", data / "tasks" / task / "test.json", "--name", task.lower())
                check_generated(checks, service, reference, task, rows, 1, options.max_new_tokens)
                check_generated(checks, service, reference, task, rows[:options.beam_rows], 4, options.max_new_tokens)
            check_mmlu(checks, service, reference, sets, options.rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of the programs")
    parser.add_argument("--data", required=True, type=pathlib.Path, help="folder of tasks/ and mmlu/")
    parser.add_argument("--rows", type=int, default=100, help="of each task (default 100)")
    parser.add_argument("--beam-rows", type=int, default=10, help="of these with beams (default 10)")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves through the with blocks: nothing stays behind
    warnings.simplefilter("ignore", FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    checks, started = Checks(), time.monotonic()
    run(checks, options.bin.resolve(), options.data.resolve(), options)
    verdict = f"FAILED: {', '.join(checks.failed)}" if checks.failed else "all comparisons hold"
    print(f"compare_evaluation: {verdict} ({time.monotonic() - started:.0f} s)")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
