"""bench/peers: operations, bound, ratios and table by hand-made runs; token caches and lengths that the sources promise."""
import pathlib
import statistics
import sys
import tempfile
import unittest

sys.path.insert(0, sys.argv.pop(1))

import figures  # noqa: E402
import lengths  # noqa: E402
import token_cache  # noqa: E402

CONFIG = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
          "intermediate_size": 1536, "vocab_size": 49152}


def run(repeat, name, tokens_per_second, peak=200 << 20, dropout=0.0, loss=2.0, random_weights=False, **more):
    return {"repeat": repeat, "name": name, "dropout": dropout, "tokensPerSecond": tokens_per_second, "peakBytes": peak,
            "firstLoss": loss, "randomWeights": random_weights, **more}


class OperationsTest(unittest.TestCase):
    def test_smollm2_by_hand(self):
        # 576x576 twice, 576x192 twice and 576x1536 three times in each of 30 layers; the head for half of the tokens.
        layer = 2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536
        self.assertEqual(figures.step_flops(CONFIG, 100, 50), 4 * (30 * layer * 100 + 576 * 49152 * 50))

    def test_head_size_may_differ_from_hidden_over_heads(self):
        shapes = {shape.name: shape for shape in figures.linear_shapes({**CONFIG, "head_dim": 128}, 1, 1)}
        self.assertEqual((shapes["q"].out_features, shapes["o"].in_features), (9 * 128, 9 * 128))
        self.assertEqual(shapes["k, v"].out_features, 3 * 128)
        self.assertEqual(shapes["k, v"].count, 60)


class SummaryTest(unittest.TestCase):
    def setUp(self):
        self.results = {"gemm": [{"repeat": 0, "tokensPerSecond": 400.0, "gflops": 160.0},
                                 {"repeat": 1, "tokensPerSecond": 200.0, "gflops": 80.0}],
                        "skipped": [{"name": "dora", "dropout": 0.05, "reason": "no --dropout"}],
                        "runs": [run(0, "peft_lora", 100.0, 400 << 20), run(1, "peft_lora", 50.0, 400 << 20),
                                 run(0, "sbora_fa", 300.0, 100 << 20, form="merged"), run(1, "sbora_fa", 150.0, 100 << 20),
                                 run(0, "sbora_fa", 240.0, dropout=0.05), run(0, "none", 320.0)]}

    def row(self, name, dropout=0.0):
        return next(row for row in figures.summarize(self.results) if (row["name"], row["dropout"]) == (name, dropout))

    def test_ratios_are_taken_within_a_round(self):
        # Half as fast a machine in the second round: speeds spread, ratios do not.
        row = self.row("sbora_fa")
        self.assertEqual(row["speed"], (225.0, 150.0, 300.0))
        self.assertEqual(row["ratios"][0], (3.0, 3.0, 3.0))
        self.assertEqual(row["vs_bound"], (0.75, 0.75, 0.75))
        self.assertEqual(row["memory"], (0.25, 0.25, 0.25))
        self.assertEqual(row["form"], "merged")

    def test_only_rounds_that_both_ran_are_compared(self):
        self.assertEqual(self.row("none")["ratios"][0], (3.2, 3.2, 3.2))

    def test_a_base_with_dropout_is_not_replaced_by_one_without(self):
        lora, dora, frozen = self.row("sbora_fa", 0.05)["ratios"]
        self.assertIsNone(lora)
        self.assertIsNone(dora)
        self.assertEqual(frozen, (0.75, 0.75, 0.75))  # the frozen limit has no dropout

    def test_the_table_says_all(self):
        text = figures.table(self.results)
        self.assertIn("| sbora_fa | 0 | merged | 225.0 (150.0–300.0) | 3.00 (3.00–3.00) | – | 0.94 (0.94–0.94) | "
                      "0.750 (0.750–0.750) | 100 (100–100) | 0.25 (0.25–0.25) |", text)
        self.assertIn("GEMM bound: 300.0 (200.0–400.0) tokens/s at 120.0 (80.0–160.0) GFLOP/s.", text)
        self.assertIn("Skipped: dora at dropout 0.05: no --dropout", text)

    def test_nothing_measured_is_a_table_without_rows(self):
        self.assertEqual(figures.table({"gemm": [], "skipped": [], "runs": []}).count("\n"), 1)

    def test_a_run_that_began_elsewhere_is_named(self):
        self.assertEqual(figures.unequal_losses(self.results["runs"], 1e-3), [])
        others = [run(0, "hf_full", 1.0, loss=2.01), run(0, "sbora_fa+nf4", 1.0, loss=3.0),
                  run(0, "paca", 1.0, loss=9.0, random_weights=True)]
        self.assertEqual(figures.unequal_losses(self.results["runs"] + others, 1e-3), ["hf_full"])


class TokenCacheTest(unittest.TestCase):
    def test_what_is_written_is_read(self):
        samples = [([5, 6, 7], [1, 0, 1]), ([8], [1]), ([9, 10], [0, 1])]
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "a.tokens"
            token_cache.write(path, samples)
            cache = token_cache.TokenCache(path)
            self.assertEqual([cache.sample(i) for i in range(len(cache))], samples)
            self.assertEqual(path.stat().st_size % 8, 0)
            path.write_bytes(b"SBORATOK" + bytes(300))
            with self.assertRaisesRegex(ValueError, "no token cache of version 3"):
                token_cache.TokenCache(path)

    def test_the_first_token_is_never_a_target(self):
        self.assertEqual(token_cache.targets([([5, 6, 7], [1, 0, 1]), ([8], [1])]), 1)


class LengthsTest(unittest.TestCase):
    def test_a_seed_gives_the_same_text(self):
        self.assertEqual(list(lengths.records(5, 1)), list(lengths.records(5, 1)))
        self.assertNotEqual(list(lengths.records(5, 1)), list(lengths.records(5, 2)))

    def test_lengths_follow_the_quantiles(self):
        records = list(lengths.records(4000, 1))
        middle = statistics.median(len(record["instruction"]) for record in records)
        self.assertLess(abs(middle - 169), 8)
        self.assertLessEqual(max(len(record["output"]) for record in records), 736)
        samples = list(lengths.token_samples(4000, 100, 256, 1))
        self.assertLessEqual(max(len(ids) for ids, _ in samples), 256)
        self.assertLess(max(max(ids) for ids, _ in samples), 100)
        self.assertAlmostEqual(token_cache.targets(samples) / sum(len(ids) for ids, _ in samples), 0.49, delta=0.02)

    def test_the_ends_are_the_ends(self):
        self.assertEqual(lengths.quantile(lengths.QUESTION, 0), 62)
        self.assertEqual(lengths.quantile(lengths.QUESTION, 1), 848)


unittest.main()
