"""Their side: SmolLM2 in transformers, float32 on the CPU, and samples as transformers' tokenizer sees them."""
import harness
import torch
import transformers

TARGETS = [f"{module}_proj" for module in harness.MODULES]


def load(folder, **options):
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", **options).eval()


@torch.no_grad()
def logits_of(model, samples):
    """[tokens, vocab] for each list of ids, one at a time: no padding."""
    return [model(input_ids=torch.tensor([ids])).logits[0] for ids in samples]


@torch.no_grad()
def loss_of(model, masked_samples):
    """The mean over all supervised tokens, and their number."""
    total, count = 0.0, 0
    for ids, mask in masked_samples:
        labels = torch.tensor([[token if keep else -100 for token, keep in zip(ids, mask)]])
        tokens = sum(mask[1:])
        total += model(input_ids=torch.tensor([ids]), labels=labels).loss.double().item() * tokens
        count += tokens
    return total / count, count


def largest_difference(ours, theirs):
    """Over two lists of tensors of equal shapes."""
    return max((one - other).abs().max().item() for one, other in zip(ours, theirs, strict=True))


def tokenize_record(tokenizer, record):
    """Ids and targets' mask by the rules of data/prompt_template.h, from transformers' offsets alone."""
    if "messages" in record:
        prompt = tokenizer.apply_chat_template(record["messages"][:-1], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(record["messages"], tokenize=False)
        end = whole.rindex(tokenizer.eos_token) + len(tokenizer.eos_token)
    else:
        prompt, end = record["prompt"], None
        whole = prompt + record["completion"] + tokenizer.eos_token
    assert whole.startswith(prompt)
    encoded = tokenizer(whole, return_offsets_mapping=True, add_special_tokens=False)
    end = len(whole) if end is None else end
    return encoded["input_ids"], [len(prompt) < stop <= end for _, stop in encoded["offset_mapping"]]
