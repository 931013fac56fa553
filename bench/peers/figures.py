"""The arithmetic behind the tables: operations of a step, the bound that they set, medians, spreads and ratios. Standard
library only; tests/unit/bench has its tests."""
import collections
import statistics

BASES = {"÷ PEFT LoRA": "peft_lora", "÷ PEFT DoRA": "peft_dora", "÷ frozen limit": "none"}  # heading: what is divided by
MIB = 1 << 20


class Shape(collections.namedtuple("Shape", "name in_features out_features rows count")):
    """A kind of linear layer: `count` of them, each over `rows` tokens of a step."""

    @property
    def flops(self):
        """Of one layer: forward and the input's gradient, a product and a sum each."""
        return 4 * self.in_features * self.out_features * self.rows


def linear_shapes(config, tokens, supervised):
    """The linear layers of a LLaMA by its Hugging Face config; the head sees only positions with a target."""
    hidden, layers, ffn = config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    head_size = config.get("head_dim") or hidden // heads
    queries, keys = heads * head_size, (config.get("num_key_value_heads") or heads) * head_size
    return [Shape("q", hidden, queries, tokens, layers), Shape("k, v", hidden, keys, tokens, 2 * layers),
            Shape("o", queries, hidden, tokens, layers), Shape("gate, up", hidden, ffn, tokens, 2 * layers),
            Shape("down", ffn, hidden, tokens, layers), Shape("head", hidden, config["vocab_size"], supervised, 1)]


def step_flops(config, tokens, supervised):
    return sum(shape.flops * shape.count for shape in linear_shapes(config, tokens, supervised))


class Spread(collections.namedtuple("Spread", "median low high")):
    @classmethod
    def of(cls, values):
        """None of no values."""
        values = list(values)
        return cls(statistics.median(values), min(values), max(values)) if values else None


def paired(values, base):
    """Ratios of two {repeat: figure}, for the repeats that both have: load that comes and goes hits both sides of a pair."""
    return [values[repeat] / base[repeat] for repeat in sorted(values.keys() & base.keys())]


def by_repeat(runs, field):
    """{(name, dropout): {repeat: figure}}"""
    found = collections.defaultdict(dict)
    for run in runs:
        found[run["name"], run["dropout"]][run["repeat"]] = run[field]
    return found


def summarize(results):
    """One row for each (name, dropout), in the order of their first runs. `ratios` holds tokens/s over each of BASES at
    the same dropout (a base that knows no dropout: at 0); `vs_bound` over what the GEMM rate of the same round allows;
    `memory` the peak over PEFT LoRA's."""
    speeds, peaks = by_repeat(results["runs"], "tokensPerSecond"), by_repeat(results["runs"], "peakBytes")
    bounds = {run["repeat"]: run["tokensPerSecond"] for run in results["gemm"]}

    def base_of(figures, name, dropout):
        return figures.get((name, dropout)) or (figures.get((name, 0.0), {}) if name == "none" else {})

    rows = []
    for (name, dropout), speed in speeds.items():
        forms = {run.get("form") for run in results["runs"] if (run["name"], run["dropout"]) == (name, dropout)}
        rows.append({"name": name, "dropout": dropout, "runs": len(speed), "form": ", ".join(sorted(filter(None, forms))),
                     "speed": Spread.of(speed.values()),
                     "ratios": [Spread.of(paired(speed, base_of(speeds, base, dropout))) for base in BASES.values()],
                     "vs_bound": Spread.of(paired(speed, bounds)), "peak": Spread.of(peaks[name, dropout].values()),
                     "memory": Spread.of(paired(peaks[name, dropout], base_of(peaks, "peft_lora", dropout)))})
    return rows


def unequal_losses(runs, tolerance):
    """Names of runs whose first loss is another one than most: they did not do the same work. Adapters start as nothing,
    so all runs on one base begin with one loss; NF4 is another base, and random weights are each program's own."""
    same = [run for run in runs if not run["randomWeights"] and not run["name"].endswith("+nf4")]
    if not same:
        return []
    middle = statistics.median(run["firstLoss"] for run in same)
    return sorted({run["name"] for run in same if abs(run["firstLoss"] - middle) > tolerance * abs(middle)})


def cell(spread, digits):
    """Median and range; a dash where there is nothing to divide by."""
    if spread is None:
        return "–"
    return f"{spread.median:.{digits}f} ({spread.low:.{digits}f}–{spread.high:.{digits}f})"


def table(results, memory="peak"):
    """Markdown: rows, the bound, what was skipped. `memory` is what the runs' peakBytes are called."""
    headings = ["method", "dropout", "form", "tokens/s", *BASES, "÷ GEMM bound", f"{memory} MiB", f"{memory} ÷ PEFT LoRA"]
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    for row in summarize(results):
        peak = Spread(*(value / MIB for value in row["peak"]))
        cells = [row["name"], f"{row['dropout']:g}", row["form"] or "–", cell(row["speed"], 1),
                 *(cell(ratio, 2) for ratio in row["ratios"]), cell(row["vs_bound"], 3), cell(peak, 0), cell(row["memory"], 2)]
        lines.append("| " + " | ".join(cells) + " |")
    if results["gemm"]:
        lines += ["", f"GEMM bound: {cell(Spread.of(run['tokensPerSecond'] for run in results['gemm']), 1)} tokens/s at "
                      f"{cell(Spread.of(run['gflops'] for run in results['gemm']), 1)} GFLOP/s."]
    lines += [f"Skipped: {skip['name']} at dropout {skip['dropout']:g}: {skip['reason']}" for skip in results["skipped"]]
    return "\n".join(lines)
