#!/usr/bin/env python3
"""Cuts a small commonsense study out of LLM-Adapters' data sets (arXiv 2304.01933; its folder dataset/).

    prepare.py --data DIR --out DIR [--train 96] [--held 64] [--test 100] [--seed 7]

Writes train.jsonl and held.jsonl (so many rows of each of the four train sets, drawn by the seed, disjoint), and for each
test set that is there TASK-test.json (its first rows, as they are). Questions that any test set has are in neither of the
first two: a few occur in both in the published files.
"""
import argparse
import json
import pathlib
import random
import re
import sys

TRAIN_SETS = ("ARC-Challenge", "ARC-Easy", "boolq", "openbookqa")


def read(path: pathlib.Path) -> list[dict]:
    rows = json.loads(path.read_text())
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("instruction"), str) or not isinstance(row.get("output"), str):
            sys.exit(f"prepare.py: {path}, row {number}: instruction and output must be texts")
    return rows


def key(row: dict) -> str:
    """Two questions are the same when they have the same letters and digits."""
    return re.sub("[^a-z0-9]+", "", row["instruction"].lower())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--train", type=int, default=96)
    parser.add_argument("--held", type=int, default=64)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--seed", type=int, default=7)
    flags = parser.parse_args()

    tests = {task: read(flags.data / task / "test.json") for task in TRAIN_SETS if (flags.data / task / "test.json").exists()}
    if not tests:
        sys.exit(f"prepare.py: {flags.data} holds no test.json of {', '.join(TRAIN_SETS)}; name LLM-Adapters' folder dataset/")
    asked = {key(row) for rows in tests.values() for row in rows}

    flags.out.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[dict]] = {"train": [], "held": []}
    for task in TRAIN_SETS:
        rows = read(flags.data / task / "train.json")
        fresh = [row for row in rows if key(row) not in asked]
        needed = flags.train + flags.held
        if len(fresh) < needed:
            sys.exit(f"prepare.py: {task} has {len(fresh)} rows that no test set has, {needed} are asked for")
        random.Random(f"{flags.seed} {task}").shuffle(fresh)
        parts["train"] += fresh[: flags.train]
        parts["held"] += fresh[flags.train : needed]
        print(f"{task}: {len(rows)} rows, {len(rows) - len(fresh)} left out because a test set has them")
    for name, rows in parts.items():
        random.Random(f"{flags.seed} {name}").shuffle(rows)
        (flags.out / f"{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        print(f"{name}.jsonl: {len(rows)} rows")
    for task, rows in tests.items():
        (flags.out / f"{task}-test.json").write_text(json.dumps(rows[: flags.test], ensure_ascii=False))
        print(f"{task}-test.json: {min(flags.test, len(rows))} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
