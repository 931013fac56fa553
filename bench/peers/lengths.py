"""Seeded text of the lengths that arithmetic word problems with worked answers have, so that the benchmarks need no data
set: quantiles of characters and the correlation of question and answer were read off the math set of LLM-Adapters (3,260
records). What the text says means nothing, its shape does: sentences, names, and digits as often as there."""
import bisect
import json
import random

SHARES = (0, .1, .2, .3, .4, .5, .6, .7, .8, .9, .95, .99, 1)
# Characters at these shares of the records; the shortest answers (two are empty) are left out.
QUESTION = (62, 113, 129, 142, 155, 169, 186, 208, 237, 291, 342, 470, 848)
ANSWER = (100, 126, 149, 166, 182, 198, 219, 243, 273, 323, 370, 477, 736)
TOGETHER = 0.6  # share of records whose question and answer lie at the same quantile

NAMES = "Anna Ben Carla David Emma Felix Grace Henry Ida Jonas Karen Leo Maria Noah Olga Peter".split()
THINGS = "apples books cards chairs coins eggs flowers marbles pencils plates stamps tickets toys trees".split()
ASKED = ("{a} has {m} {t} and buys {n} more at the shop. ", "There are {m} {t} in the box, and {a} takes {n} of them. ",
         "{a} sold {m} {t} on Monday and twice as many on the next day. ", "Each bag of {t} holds the same number of them. ",
         "How many {t} does {a} have in the end? ")
ANSWERED = ("{a} has {m} + {n} = {s} {t} now. ",
            "That means after the sale there are {s} - {n} = {m} {t} left. ",
            "All of the {t} together are worth as much as the bags in which {a} found them. ", "The answer is {s}. ")


def quantile(values, share):
    """Linear between the listed quantiles."""
    i = min(bisect.bisect_right(SHARES, share), len(SHARES) - 1)
    return values[i - 1] + (values[i] - values[i - 1]) * (share - SHARES[i - 1]) / (SHARES[i] - SHARES[i - 1])


def text(draw, sentences, characters):
    words = ""
    while len(words) < characters:
        m, n = draw.randint(2, 99), draw.randint(2, 99)
        words += draw.choice(sentences).format(a=draw.choice(NAMES), t=draw.choice(THINGS), m=m, n=n, s=m + n, p=m * n)
    return words[:characters]


def records(count, seed):
    draw = random.Random(seed)
    for _ in range(count):
        question = draw.random()
        answer = question if draw.random() < TOGETHER else draw.random()
        yield {"instruction": text(draw, ASKED, round(quantile(QUESTION, question))), "input": "",
               "output": text(draw, ANSWERED, round(quantile(ANSWER, answer)))}


def write_records(path, count, seed):
    with open(path, "w", encoding="utf-8") as file:
        for record in records(count, seed):
            file.write(json.dumps(record) + "\n")


# The same in tokens, for models without a tokenizer: prompt (with the alpaca template) and response.
PROMPT_TOKENS = (47, 61, 65, 68, 71, 74, 79, 85, 95, 111, 126, 152, 218)
RESPONSE_TOKENS = (36, 47, 54, 61, 67, 72, 77, 87, 100, 120, 141, 186, 280)


def token_samples(count, vocabulary, cutoff, seed):
    """Random ids of the same lengths, response supervised."""
    draw = random.Random(seed)
    for _ in range(count):
        share = draw.random()
        prompt = round(quantile(PROMPT_TOKENS, share))
        response = round(quantile(RESPONSE_TOKENS, share if draw.random() < TOGETHER else draw.random()))
        masks = ([0] * prompt + [1] * response)[:cutoff]
        yield [draw.randrange(vocabulary) for _ in masks], masks


def full_samples(count, tokens, vocabulary, seed):
    """Random ids, all samples of one length, all supervised."""
    draw = random.Random(seed)
    for _ in range(count):
        yield [draw.randrange(vocabulary) for _ in range(tokens)], [1] * tokens
