"""Steps of a check that must use its minutes well: each has a name, ends as ok, failed or skipped with a reason, and what
is known so far is on disk after each. Standard library only; tests/unit/bench has its tests."""
import json
import time


class Skip(Exception):
    """Cannot run here, and why. No failure."""


class Failed(Exception):
    """Ran, and is wrong."""


class Checklist:
    """Runs steps within `budget` seconds, by `clock`. `report(document)` is called after each."""

    def __init__(self, document, budget, report, wanted=None, clock=time.monotonic):
        self.document, self.report, self.wanted, self.clock = document, report, wanted, clock
        self.ends = clock() + budget
        document["steps"] = []

    def left(self):
        return max(0.0, self.ends - self.clock())

    def run(self, name, function, least=5):
        """Calls `function()`, whose result is kept under the step's "data". A step that needs more seconds than are left
        is skipped, and so is one that was not asked for. Returns the data, None unless ok."""
        step = {"name": name, "status": "ok", "reason": "", "seconds": 0.0}
        started = self.clock()
        try:
            if self.wanted is not None and name not in self.wanted:
                raise Skip("not asked for")
            if self.left() < least:
                raise Skip(f"{self.left():.0f} s of the time were left, {least} are needed")
            step["data"] = function()
        except Skip as skip:
            step.update(status="skipped", reason=str(skip))
        except Failed as failure:
            step.update(status="failed", reason=str(failure))
        step["seconds"] = round(self.clock() - started, 1)
        self.document["steps"].append(step)
        self.report(self.document)
        return step.get("data")

    def failed(self):
        return [step["name"] for step in self.document["steps"] if step["status"] == "failed"]


def write_json(path):
    def report(document):
        part = path.with_suffix(".part")
        part.write_text(json.dumps(document, indent=1) + "\n")
        part.replace(path)
    return report


def slug(name):
    """A GPU's or CPU's name as a part of a file's name: "NVIDIA H100 80GB HBM3" is "h100_80gb_hbm3"."""
    words = "".join(letter.lower() if letter.isalnum() else " " for letter in name).split()
    return "_".join(word for word in words if word not in ("nvidia", "amd", "intel", "r", "tm", "processor")) or "unknown"
