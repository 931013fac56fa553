"""Server and worker as scripts start them: each until it says by its ready file that it serves, ended in reverse order."""
import json
import subprocess
import time


class NotStarted(Exception):
    """Says which program, and the last that it said."""


class StartedPrograms:
    """Programs of one folder of logs, ready files and data; `environment` None is this process's own."""

    def __init__(self, work, environment=None):
        self.work, self.environment, self.processes = work, environment, []

    def start(self, program, name, *arguments, seconds):
        """Runs `program` with the data, ready file and log of `name`. What the ready file says; NotStarted after so many seconds."""
        ready, log = self.work / f"{name}.json", self.work / f"{name}.log"
        with open(log, "wb") as output:
            self.processes.append(subprocess.Popen(
                [program, *arguments, "--data-dir", self.work / name, "--ready-file", ready],
                stdout=output, stderr=output, env=self.environment))
        ends = time.monotonic() + seconds
        while not (ready.exists() and ready.stat().st_size):
            if self.processes[-1].poll() is not None or time.monotonic() > ends:
                said = log.read_text(errors="replace").splitlines()
                raise NotStarted(f"sbora-{name} did not start: {said[-1] if said else 'it said nothing'}")
            time.sleep(0.05)
        return json.loads(ready.read_text())

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
