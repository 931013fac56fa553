#!/usr/bin/env python3
"""Writes the example data set: support messages and the JSON tickets they should become.

    generate.py --out DIR [--seed 7] [--train 768] [--heldout 60]

DIR/train.jsonl and DIR/heldout.jsonl hold {"prompt", "completion"} records. Both sets draw products, problems, urgency
and order numbers from the same lists; the sentences around them are disjoint: no pattern of the held-out messages
occurs in training, and no order number does. The same seed gives the same bytes. Standard library only.
"""
import argparse
import json
import pathlib
import random

PRODUCTS = ["router", "kettle", "headset", "printer", "monitor", "keyboard", "lamp", "blender", "speaker", "camera",
            "tablet", "charger", "heater", "scanner", "mixer"]

# Each reads well after "my kettle".
PROBLEMS = {
    "defect": ["does not turn on", "keeps switching itself off", "makes a loud noise", "gets far too hot"],
    "delivery": ["never arrived", "is five days late", "was left at the wrong address", "is stuck in customs"],
    "billing": ["was charged twice", "cost more than advertised", "was billed to my old card", "came without an invoice"],
    "return": ["is the wrong size", "is not what I ordered", "came in the wrong colour", "was bought by mistake"],
    "setup": ["will not pair with my phone", "wants a password I never set", "refuses the latest update",
              "shows no network"],
}

# A message without such a sentence is of normal priority.
URGENCY = {
    "high": ["Please hurry.", "This is urgent.", "I need it by tomorrow."],
    "normal": [""],
    "low": ["No rush.", "Whenever you have time.", "It can wait."],
}

TRAINING_PATTERNS = [
    "My {product} {problem}. Order {order}. {urgency}",
    "Hi, my {product} {problem}. {urgency} Order {order}.",
    "Hello, the {product} from order {order} {problem}. {urgency}",
    "{urgency} My {product} {problem}, order number {order}.",
    "Order {order}: my {product} {problem}. {urgency}",
    "I have a problem: my {product} {problem}. {urgency} My order is {order}.",
    "The {product} {problem}. {urgency} Order no. {order}, thanks.",
    "Dear team, my new {product} {problem}. Order {order}. {urgency}",
    "Can you help? The {product} {problem}. Order {order}. {urgency}",
    "{urgency} Order {order} again: the {product} {problem}.",
    "Good morning. In order {order} the {product} {problem}. {urgency}",
    "My order {order} is a {product} and it {problem}. {urgency}",
    "I bought a {product} and it {problem}. {urgency} The order is {order}.",
    "Sorry to bother you, but the {product} {problem}. Order: {order}. {urgency}",
    "Support? My {product} {problem}. {urgency} See order {order}.",
    "{urgency} I am writing about order {order}. The {product} {problem}.",
    "What now? My {product} {problem}. Number {order}. {urgency}",
    "Hey, order {order} here. {urgency} The {product} {problem}.",
    "It is about my {product}: it {problem}. Order {order}. {urgency}",
    "This {product} {problem}! Order {order}. {urgency}",
]

HELDOUT_PATTERNS = [
    "Good evening, the {product} I got from you {problem}. {urgency} It was order {order}.",
    "{urgency} Regarding {order}: our {product} {problem}.",
    "We ordered a {product} ({order}) and sadly it {problem}. {urgency}",
    "Not happy at all. The {product} {problem}. {urgency} Purchase {order}.",
    "Hello again! {urgency} Under {order} I have a {product} that {problem}.",
    "Could somebody look at order {order}? That {product} {problem}. {urgency}",
    "Just so you know, my {product} {problem}. You will find it as {order}. {urgency}",
    "{urgency} A question on purchase {order}, since my {product} {problem}.",
    "The {product} in my parcel {order} {problem}, as I found today. {urgency}",
    "To whom it may concern: one {product}, order {order}, {problem}. {urgency}",
]


def make_record(rng, pattern, order):
    category = rng.choice(sorted(PROBLEMS))
    priority = rng.choice(sorted(URGENCY))
    product = rng.choice(PRODUCTS)
    message = pattern.format(product=product, problem=rng.choice(PROBLEMS[category]), order=order,
                             urgency=rng.choice(URGENCY[priority]))
    ticket = {"product": product, "category": category, "priority": priority, "order": order}
    # The line feed keeps prompt and completion apart for every tokenizer.
    return {"prompt": " ".join(message.split()) + "\nTicket:\n",
            "completion": json.dumps(ticket, separators=(",", ":"))}


def make_set(rng, patterns, orders):
    """Every pattern equally often, in random order."""
    chosen = [patterns[i % len(patterns)] for i in range(len(orders))]
    rng.shuffle(chosen)
    return [make_record(rng, pattern, order) for pattern, order in zip(chosen, orders)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder for the two files")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--train", type=int, default=768, help="training records")
    parser.add_argument("--heldout", type=int, default=60, help="held-out records")
    arguments = parser.parse_args()
    if set(TRAINING_PATTERNS) & set(HELDOUT_PATTERNS):
        parser.error("a pattern is in both sets")
    if not (arguments.train > 0 and arguments.heldout > 0 and arguments.train + arguments.heldout <= 90000):
        parser.error("--train and --heldout must be above 0 and together at most 90000, the number of order numbers")

    rng = random.Random(arguments.seed)
    orders = [str(number) for number in rng.sample(range(10000, 100000), arguments.train + arguments.heldout)]
    sets = {"train.jsonl": make_set(rng, TRAINING_PATTERNS, orders[:arguments.train]),
            "heldout.jsonl": make_set(rng, HELDOUT_PATTERNS, orders[arguments.train:])}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, records in sets.items():
        text = "".join(json.dumps(record) + "\n" for record in records)
        (arguments.out / name).write_text(text, encoding="utf-8")
        print(f"{arguments.out / name}: {len(records)} records")


if __name__ == "__main__":
    main()
