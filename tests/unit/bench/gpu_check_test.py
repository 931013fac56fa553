"""bench/gpu: the checklist by a clock of its own, and what is read out of other programs' outputs."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(sys.argv.pop(1))
sys.path[:0] = [str(SOURCE / "bench/peers"), str(SOURCE / "bench/gpu")]

import report  # noqa: E402
import steps  # noqa: E402
import tiny_model  # noqa: E402

CONFIG = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 512}


class ChecklistTest(unittest.TestCase):
    def setUp(self):
        self.now, self.seen, self.document = 0.0, [], {}

    def checklist(self, budget=100, wanted=None):
        return steps.Checklist(self.document, budget, lambda document: self.seen.append(len(document["steps"])), wanted,
                               lambda: self.now)

    def takes(self, seconds, result=None, error=None):
        def step():
            self.now += seconds
            if error:
                raise error
            return result
        return step

    def test_each_ending_is_kept_and_reported(self):
        checklist = self.checklist()
        self.assertEqual(checklist.run("one", self.takes(10, {"a": 1})), {"a": 1})
        self.assertIsNone(checklist.run("two", self.takes(5, error=steps.Skip("no GPU"))))
        self.assertIsNone(checklist.run("three", self.takes(5, error=steps.Failed("wrong"))))
        self.assertEqual([(step["status"], step["reason"], step["seconds"]) for step in self.document["steps"]],
                         [("ok", "", 10.0), ("skipped", "no GPU", 5.0), ("failed", "wrong", 5.0)])
        self.assertEqual(checklist.failed(), ["three"])
        self.assertEqual(self.seen, [1, 2, 3])

    def test_no_step_begins_without_the_time_that_it_needs(self):
        checklist = self.checklist(budget=100)
        checklist.run("long", self.takes(80))
        checklist.run("late", self.takes(1), least=30)
        self.assertEqual(self.document["steps"][1]["status"], "skipped")
        self.assertEqual(self.document["steps"][1]["reason"], "20 s of the time were left, 30 are needed")

    def test_only_what_is_asked_for_runs(self):
        self.checklist(wanted={"b"}).run("a", self.takes(1))
        self.assertEqual(self.document["steps"][0]["reason"], "not asked for")

    def test_a_defect_of_the_check_itself_is_not_hidden(self):
        with self.assertRaises(KeyError):
            self.checklist().run("a", self.takes(1, error=KeyError("x")))

    def test_the_file_is_whole_at_any_time(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "a.json"
            steps.write_json(path)({"steps": []})
            self.assertEqual(json.loads(path.read_text()), {"steps": []})
            self.assertEqual([file.name for file in path.parent.iterdir()], ["a.json"])

    def test_names_of_devices_become_names_of_files(self):
        self.assertEqual(steps.slug("NVIDIA H100 80GB HBM3"), "h100_80gb_hbm3")
        self.assertEqual(steps.slug("AMD EPYC 9B45 Processor"), "epyc_9b45")
        self.assertEqual(steps.slug("Intel(R) Xeon(R) CPU"), "xeon_cpu")


class OutputsTest(unittest.TestCase):
    def test_calls_are_paired_with_their_copies(self):
        runs = [{"name": "cuda/a/manual_time", "bytes_per_second": 8e9},
                {"name": "cuda/a/copy/manual_time", "bytes_per_second": 16e9},
                {"name": "cuda/b/manual_time", "error_occurred": True, "error_message": "CUDA_LAUNCH_FAILED"}]
        self.assertEqual(report.kernel_rows({"benchmarks": runs}), [("cuda/a", 8.0, 16.0, ""),
                                                                   ("cuda/b", 0.0, 0.0, "CUDA_LAUNCH_FAILED")])

    def test_nsys(self):
        text = ("Processing [x.sqlite] with [report.py]...\n\nTime (%),Total Time (ns),Instances,Name\n"
                '60.0,3000000,2,"gemm<a, b>"\n40.0,2000000,4,copy\n')
        self.assertEqual(report.kernel_times(text, "Name", {"Total Time (ns)": 1e-6}),
                         [("gemm<a, b>", 2, 3.0), ("copy", 4, 2.0)])

    def test_ncu(self):
        text = ('==PROF== Connected\n{"tokens": 1}\n"ID","Kernel Name","gpu__time_duration.sum"\n"","","ns"\n'
                '"0","copy","1,000"\n"1","gemm","5000"\n"2","copy","2000"\n')
        self.assertEqual(report.kernel_times(text, "Kernel Name", {"gpu__time_duration.sum": 1e-6}),
                         [("gemm", 1, 0.005), ("copy", 2, 0.003)])

    def test_a_profiler_that_failed_gives_nothing(self):
        self.assertEqual(report.kernel_times("LibraryNotLoaded\n", "Kernel Name", {}), [])

    def test_share_of_the_peak(self):
        # Of each layer's linear parameters for all tokens, and the head's for half of them.
        parameters = 2 * (4 * 64 * 64 + 3 * 64 * 128)
        operations = 4 * (parameters * 10 + 64 * 512 * 5)
        self.assertAlmostEqual(report.share_of_peak(CONFIG, 10, 5, 2.0, 1.0), operations / 2e12)

    def test_the_report_names_what_is_missing(self):
        document = {"title": "Check", "device": "NVIDIA X", "month": "2026-11", "revision": "abc", "tiny": True,
                    "weights": "random",
                    "machine": {"cpu": {"model": "C", "cores": 2}, "gpus": []}, "peakTflops": 0, "memory": "peak",
                    "modelConfig": CONFIG, "kernels": [("cpu/a", 1.0, 2.0, "")], "profile": [("k|x", 1, 2.0)],
                    "profileBy": "p",
                    "loads": [{"name": "l", "tokens": 4, "supervised": 2, "runs": [], "gemm": [],
                               "skipped": [{"name": "dora", "dropout": 0.0, "reason": "no time"}]}],
                    "steps": [{"name": "nccl", "status": "skipped", "reason": "no GPU", "seconds": 0.0}]}
        text = report.markdown(document)
        for said in ("Its figures mean nothing", "| nccl | skipped: no GPU | 0.0 |", "| cpu/a | 1.0 | 2.0 | 0.50 |",
                     "Skipped: dora at dropout 0: no time", "| k x | 1 | 2.00 |"):
            self.assertIn(said, text)


class CommandTest(unittest.TestCase):
    def test_a_machine_without_a_gpu_says_so(self):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([sys.executable, SOURCE / "bench/gpu/check.py", "--out", folder],
                                  capture_output=True, text=True, env={"PATH": folder})
            self.assertEqual(done.returncode, 2)
            self.assertIn("this machine has no NVIDIA GPU (nvidia-smi lists none); --device cpu", done.stderr)
            done = subprocess.run([sys.executable, SOURCE / "bench/gpu/check.py", "--device", "cpu", "--steps", "sing"],
                                  capture_output=True, text=True)
            self.assertEqual(done.returncode, 2)
            self.assertIn("--steps: known are build, ", done.stderr)

    def test_a_folder_without_programs_says_so(self):
        with tempfile.TemporaryDirectory() as folder:
            program = SOURCE / "bench/gpu/service_check.py"
            done = subprocess.run([sys.executable, program, "--programs", folder, "--device", "cpu"],
                                  capture_output=True, text=True)
            self.assertEqual(done.returncode, 2)
            self.assertIn("has no programs.tar.xz, and its bin lacks sbora-server, sbora-worker", done.stderr)


class TinyModelTest(unittest.TestCase):
    def test_the_file_holds_what_the_header_says(self):
        with tempfile.TemporaryDirectory() as folder:
            tiny_model.write_model(pathlib.Path(folder) / "m", hidden=8, layers=1, heads=2)
            content = (pathlib.Path(folder) / "m/model.safetensors").read_bytes()
            size = int.from_bytes(content[:8], "little")
            header = json.loads(content[8:8 + size])
            self.assertEqual(max(tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"),
                             len(content) - 8 - size)
            self.assertEqual(header["model.layers.0.self_attn.k_proj.weight"]["shape"], [4, 8])

    def test_each_byte_has_a_letter_of_its_own(self):
        self.assertEqual(len(set(tiny_model.byte_letters())), 256)
        self.assertEqual(tiny_model.byte_letters()[ord("a")], "a")


unittest.main()
