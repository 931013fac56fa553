#!/usr/bin/env python3
"""Holds the service's evaluations of SmolLM2-135M-Instruct against a scripted transformers run, in float32 on the CPU.

    scripts/check_all reference
    "$(scripts/reference_env)" scripts/numerics/compare_evaluation.py --bin build/release/bin --data DIR

DIR holds tasks/boolq/test.json, tasks/AddSub/test.json, and mmlu/dev and mmlu/test as CSV files; none of it is part of
the repository. The prompts, the answers and the scores are made again here, from the published rules and by Python's own
re, csv and json. Checked, one line each, on the first rows of each:
  boolq and AddSub, greedy: prompts, generated text, answers found and scores are equal; the same with 4 beams, on fewer
  rows; MMLU with 5 shots: prompts and scores equal, letters' log-probabilities within 1e-3.
Where the two best tokens of a greedy step are closer than the tolerance there is no argmax to agree on: such rows are
counted and must be rare. Fewer new tokens are generated than the published settings ask for (--max-new-tokens): what is
compared is the decoding, not the model. Exit status: 0 all hold, 1 something differs or failed.
"""
import csv
import json
import pathlib
import re
import sys

import harness
import torch
import transformers
from harness import MODEL, TOLERANCE
from reference_model import load

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
    return abs(float(label) - float(found)) <= 0.001


# How an answer is found in a text, and when it is the label.
RULES = {"boolq": (find_word, str.__eq__), "AddSub": (find_number, same_number)}


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
    job = service.answer("evaluate", "--model", MODEL, "--dataset", dataset, "--examples", file, *arguments)
    return job["result"], harness.read_jsonl(file)


def check_generated(checks, service, reference, task, rows, beams, tokens):
    """`rows` records of a task through the service and through transformers."""
    name = f"{task} ({'greedy' if beams == 1 else f'{beams} beams'})"
    result, ours = evaluate(service, task.lower(), "--task", task, "--num-beams", beams, "--max-new-tokens", tokens,
                            "--max-samples", len(rows))
    prompts = [adapters_prompt(row["instruction"]) for row in rows]
    checks.note([example["prompt"] for example in ours] == prompts, f"{name} prompts", f"{len(prompts)} equal")

    texts, ids = reference.generate(prompts, tokens, beams)
    outputs = [text[len(prompt):].strip() for text, prompt in zip(texts, prompts, strict=True)]
    unequal = [i for i, output in enumerate(outputs) if ours[i]["output"].strip() != output]
    ties = [i for i in unequal if beams == 1 and reference.closest_call(prompts[i], ids[i]) <= TOLERANCE]
    differing = [i for i in unequal if i not in ties]
    first = f"; row {differing[0]}: {ours[differing[0]]['output']!r} and {outputs[differing[0]]!r}" if differing else ""
    checks.note(not differing and len(ties) <= len(rows) // 50, f"{name} generations",
                f"{len(rows)} rows of at most {tokens} tokens, {len(differing)} differ, {len(ties)} ties{first}")

    find, same = RULES[task]
    answers = [find(text.split("### Response:")[1].strip()) for text in texts]
    matches = [answer is not None and same(row["answer"], answer) for row, answer in zip(rows, answers, strict=True)]
    compared = [i for i in range(len(rows)) if i not in ties]
    wrong_answers = sum(ours[i]["answer"] != answers[i] for i in compared)
    wrong_scores = sum(ours[i]["match"] != matches[i] for i in compared)
    checks.note(wrong_answers == wrong_scores == 0, f"{name} answers and scores",
                f"{len(compared)} rows, {wrong_answers} and {wrong_scores} differ")
    correct = int(result["correct"])
    checks.note(abs(correct - sum(matches)) <= len(ties), f"{name} accuracy",
                f"{correct} of {len(rows)}, {result['unanswered']} unanswered; transformers {sum(matches)}, "
                f"{answers.count(None)} unanswered")


def read_questions(file, limit):
    with open(file, newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))[1:limit + 1]
    return [{"question": row[0], "choices": row[1:5], "answer": LETTERS[int(row[5])]} for row in rows]


def question_text(row):
    choices = "".join(f"\n{letter}. {text}" for letter, text in zip(LETTERS, row["choices"], strict=True))
    return f"{row['question']}{choices}\nAnswer:"


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


def letter_ids(tokenizer, scoring):
    """The tokens of A to D that a scoring looks at: alone, or as they follow a space."""
    if scoring == "choice_likelihood":
        return [tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in LETTERS]
    return [tokenizer(f"Answer: {letter}", add_special_tokens=False)["input_ids"][-1] for letter in LETTERS]


def check_mmlu(checks, service, reference, questions, dev, scoring):
    """`questions`: (subject, question), in the order of the service; `dev`: the questions shown, by subject."""
    name, count = f"MMLU {scoring}", len(questions)
    result, ours = evaluate(service, "mmlu-test", "--task", "mmlu", "--few-shot-dataset", "mmlu-dev",
                            "--scoring", scoring, "--max-samples", count)
    prompts = [mmlu_prompt(subject, dev[subject], question) for subject, question in questions]
    checks.note([example["prompt"] for example in ours] == prompts, f"{name} prompts", f"{count} equal")

    ids = letter_ids(reference.tokenizer, scoring)
    theirs = [reference.letters(prompt, ids) for prompt in prompts]
    worst = max(abs(a - b) for example, letters in zip(ours, theirs, strict=True)
                for a, b in zip(example["choice_log_probabilities"], letters, strict=True))
    checks.note(worst <= TOLERANCE, f"{name} log-probabilities",
                f"{len(LETTERS) * count} letters, max abs difference {worst:.2e}")

    matches = [LETTERS[letters.index(max(letters))] == question["answer"]
               for letters, (_, question) in zip(theirs, questions, strict=True)]
    wrong = sum(example["match"] != match for example, match in zip(ours, matches, strict=True))
    by_subject = {}
    for (subject, _), match in zip(questions, matches, strict=True):
        by_subject.setdefault(subject, []).append(match)
    mean = sum(sum(found) / len(found) for found in by_subject.values()) / len(by_subject)
    same_subjects = ({score["subject"]: (int(score["correct"]), int(score["samples"])) for score in result["subjects"]}
                     == {subject: (sum(found), len(found)) for subject, found in by_subject.items()})
    checks.note(wrong == 0 and same_subjects and abs(result["subjectMean"] - mean) < 1e-12, f"{name} scores",
                f"{wrong} differ, {sum(matches)} of {count} right, mean over {len(by_subject)} subjects "
                f"{result['subjectMean']:.4f}")


def compare(comparison, options):
    checks, data = comparison.checks, options.data.resolve()
    reference = Reference(comparison.base)
    sets = write_questions(data, comparison.work, options.rows // len(SUBJECTS))
    with comparison.start_service() as service:
        for task in ("boolq", "AddSub"):
            file = data / "tasks" / task / "test.json"
            rows = json.loads(file.read_text(encoding="utf-8"))[:options.rows]
            service.upload(task.lower(), file)
            check_generated(checks, service, reference, task, rows, 1, options.max_new_tokens)
            check_generated(checks, service, reference, task, rows[:options.beam_rows], 4, options.max_new_tokens)
        for split in ("dev", "test"):
            service.upload(f"mmlu-{split}", comparison.work / split)
        questions = [(subject, question) for subject in sorted(SUBJECTS) for question in sets[subject, "test"]]
        dev = {subject: sets[subject, "dev"] for subject in SUBJECTS}
        check_mmlu(checks, service, reference, questions, dev, "choice_likelihood")
        check_mmlu(checks, service, reference, questions[:len(questions) // 5], dev, "choice_likelihood_spaced")


def add_options(parser):
    parser.add_argument("--data", required=True, type=pathlib.Path, help="folder of tasks/ and mmlu/")
    parser.add_argument("--rows", type=int, default=100, help="of each task (default 100)")
    parser.add_argument("--beam-rows", type=int, default=10, help="of these with beams (default 10)")
    parser.add_argument("--max-new-tokens", type=int, default=32)


if __name__ == "__main__":
    sys.exit(harness.main("compare_evaluation", __doc__, compare, add_options))
