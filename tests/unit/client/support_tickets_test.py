"""The example generator: same seed, same bytes; held-out messages are new; records are short and well-formed."""
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

GENERATOR = sys.argv.pop(1)


def generate(folder, *arguments):
    subprocess.run([sys.executable, GENERATOR, "--out", folder, *arguments], check=True, capture_output=True)
    return [pathlib.Path(folder, name).read_bytes() for name in ("train.jsonl", "heldout.jsonl")]


def shape(prompt):
    """The message without what varies: the words of a pattern alone."""
    return re.sub(r"\d{5}", "#", prompt)


class SupportTickets(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def test_same_seed_gives_same_bytes_and_another_seed_does_not(self):
        first = generate(self.folder.name, "--seed", "7")
        self.assertEqual(first, generate(self.folder.name, "--seed", "7"))
        self.assertNotEqual(first, generate(self.folder.name, "--seed", "8"))

    def test_sets_are_large_enough_and_disjoint(self):
        train, heldout = ([json.loads(line) for line in text.splitlines()] for text in generate(self.folder.name))
        self.assertGreaterEqual(len(train), 640)
        self.assertEqual(len(heldout), 60)
        orders = [{json.loads(record["completion"])["order"] for record in records} for records in (train, heldout)]
        self.assertFalse(orders[0] & orders[1])
        self.assertFalse({shape(r["prompt"]) for r in train} & {shape(r["prompt"]) for r in heldout})

    def test_every_ticket_can_be_read_off_its_message(self):
        for text in generate(self.folder.name):
            for line in text.splitlines():
                record = json.loads(line)
                ticket = json.loads(record["completion"])
                self.assertEqual(list(ticket), ["product", "category", "priority", "order"])
                self.assertIn(ticket["product"], record["prompt"])
                self.assertIn(ticket["order"], record["prompt"])
                self.assertLess(len(record["prompt"]) + len(record["completion"]), 260)


if __name__ == "__main__":
    unittest.main()
