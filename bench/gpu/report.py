"""The check's results as Markdown, and what other programs print as figures. Standard library only; tests/unit/bench has its
tests."""
import csv
import io

import figures


def kernel_rows(benchmark):
    """[(name, GB/s, GB/s of the copy, error)] of Google Benchmark's JSON: each call beside the copy of as many bytes."""
    found = {run["name"].removesuffix("/manual_time"): run for run in benchmark["benchmarks"]}
    rows = []
    for name, run in found.items():
        if name.endswith("/copy"):
            continue
        rates = [one.get("bytes_per_second", 0) / 1e9 for one in (run, found.get(name + "/copy", {}))]
        rows.append((name, *rates, run.get("error_message", "")))
    return rows


def kernel_times(text, name_column, time_columns):
    """[(kernel, launches, milliseconds)] of a profiler's CSV, the longest first. `time_columns` maps the heading of a
    time to what makes milliseconds of it; lines before the heading and rows without a number (units) are passed over."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if name_column in line), None)
    if start is None:
        return []
    sums = {}
    for row in csv.DictReader(io.StringIO("\n".join(lines[start:]))):
        for heading, factor in time_columns.items():
            try:
                value = float((row.get(heading) or "").replace(",", ""))
            except ValueError:
                continue
            launches, total = sums.get(row[name_column], (0, 0.0))
            count = int(float(row.get("Instances") or 1))
            sums[row[name_column]] = (launches + count, total + value * factor)
    return sorted(((name, launches, total) for name, (launches, total) in sums.items()), key=lambda row: -row[2])


def share_of_peak(config, tokens, supervised, seconds, peak_tflops):
    """What part of `peak_tflops` a step of that many tokens makes, at 4 operations per linear parameter and token."""
    return figures.step_flops(config, tokens, supervised) / seconds / (peak_tflops * 1e12)


def step_table(load, document):
    """Whole steps of one load: speed, ratios, memory, share of the peak."""
    parts = [f"### {load['name']}: {load['tokens']} tokens a step, {load['supervised']} of them targets", "",
             figures.table(load, memory=document["memory"])]
    config, peak = document["modelConfig"], document["peakTflops"]
    if peak:
        shares = []
        for run in load["runs"]:
            share = share_of_peak(config, load["tokens"], load["supervised"], run["seconds"] / run["steps"], peak)
            shares.append(f"{run['name']} at dropout {run['dropout']:g}: {100 * share:.1f} %")
        parts += ["", f"Share of {peak:g} TFLOP/s: " + "; ".join(shares) + "."]
    return "\n".join(parts)


def markdown(document):
    cpu = document["machine"]["cpu"]
    parts = [f"# {document['title']} on {document['device']}, {document['month']}", "",
             f"Revision {document['revision']}; {cpu['model']}, {cpu['cores']} cores"
             f"{''.join('; ' + gpu for gpu in document['machine']['gpus'])}. Weights: {document['weights']}."]
    if document["tiny"]:
        parts += ["", "**Tiny shapes on a CPU: this shows that the steps run. Its figures mean nothing.**"]
    parts += ["", "| step | result | seconds |", "|---|---|---|"]
    for step in document["steps"]:
        reason = f": {step['reason']}" if step["reason"] else ""
        parts.append(f"| {step['name']} | {step['status']}{reason} | {step['seconds']} |")
    if document.get("kernels"):
        parts += ["", "## Kernels", "| call | GB/s | copy GB/s | ratio |", "|---|---|---|---|"]
        parts += [f"| {name} | {rate:.1f} | {copy:.1f} | {error or (f'{rate / copy:.2f}' if copy else '–')} |"
                  for name, rate, copy, error in document["kernels"]]
    if document.get("loads"):
        parts += ["", "## Whole steps"]
        for load in document["loads"]:
            if load["runs"] or load["skipped"]:
                parts += ["", step_table(load, document)]
    if document.get("profile"):
        parts += ["", f"## Profile ({document['profileBy']})", "| kernel | launches | ms |", "|---|---|---|"]
        parts += [f"| {name[:90].replace('|', ' ')} | {launches} | {total:.2f} |"
                  for name, launches, total in document["profile"][:25]]
    return "\n".join(parts) + "\n"
