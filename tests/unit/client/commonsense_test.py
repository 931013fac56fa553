"""examples/commonsense/prepare.py on made-up sets: sizes, disjoint parts, and no test question in training."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

PROGRAM = sys.argv.pop(1)
TASKS = ("ARC-Challenge", "ARC-Easy", "boolq", "openbookqa")


def row(text: str) -> dict:
    return {"instruction": text, "input": "", "output": "the correct answer is true", "answer": "true"}


def run(data: pathlib.Path, out: pathlib.Path, *more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, PROGRAM, "--data", data, "--out", out, "--train", "5", "--held", "3", "--test", "2", *more]
    return subprocess.run(command, capture_output=True, text=True)


class PrepareTest(unittest.TestCase):
    def setUp(self):
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.data = pathlib.Path(temp.name) / "data"
        self.out = pathlib.Path(temp.name) / "out"
        for task in TASKS:
            (self.data / task).mkdir(parents=True)
            rows = [row(f"{task}: question {number}?") for number in range(10)]
            (self.data / task / "train.json").write_text(json.dumps(rows))
        # Two of boolq's training questions are asked again in its test, one in other spelling.
        asked = [row("BOOLQ: question 0"), row("boolq: question 1?"), row("new?")]
        (self.data / "boolq" / "test.json").write_text(json.dumps(asked))

    def lines(self, name: str) -> list[str]:
        return [json.loads(line)["instruction"] for line in (self.out / name).read_text().splitlines()]

    def test_parts_are_disjoint_and_without_test_questions(self):
        done = run(self.data, self.out)
        self.assertEqual(done.returncode, 0, done.stderr)
        train, held = self.lines("train.jsonl"), self.lines("held.jsonl")
        self.assertEqual(len(train), 20)
        self.assertEqual(len(held), 12)
        self.assertEqual(len(set(train + held)), 32)
        self.assertFalse({"boolq: question 0?", "boolq: question 1?"} & set(train + held))
        self.assertEqual(len(json.loads((self.out / "boolq-test.json").read_text())), 2)
        before = (self.out / "train.jsonl").read_bytes()
        run(self.data, self.out)
        self.assertEqual((self.out / "train.jsonl").read_bytes(), before)
        run(self.data, self.out, "--seed", "8")
        self.assertNotEqual((self.out / "train.jsonl").read_bytes(), before)

    def test_too_few_rows_and_no_sets_are_errors(self):
        done = run(self.data, self.out, "--held", "4")
        self.assertIn("boolq has 8 rows that no test set has, 9 are asked for", done.stderr)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("holds no test.json", run(self.out, self.out).stderr)


unittest.main()
