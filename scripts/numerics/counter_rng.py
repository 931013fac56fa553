"""The project's counter-based numbers written a second time (core/counter_rng.h, core/lora_init.h): what a reference
run needs to start from the same A and to see the same batches without asking the programs under test."""
import hashlib
import struct

import numpy as np

MASK = np.uint64(0xFFFFFFFF)
SHIFT = np.uint64(32)


def philox4x32(counters, key):
    """Ten rounds of Philox4x32 over [n, 4] counters; [n, 4] uint64 holding 32-bit words."""
    c0, c1, c2, c3 = (np.asarray(counters, np.uint64)[:, i] for i in range(4))
    k0, k1 = key
    for _ in range(10):
        product0, product1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = ((product1 >> SHIFT) ^ c1 ^ np.uint64(k0), product1 & MASK,
                          (product0 >> SHIFT) ^ c3 ^ np.uint64(k1), product0 & MASK)
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1)


def derive_key(domain, seed, name=""):
    digest = hashlib.sha256(domain.encode() + b"\0" + struct.pack("<Q", seed) + name.encode()).digest()
    return struct.unpack("<II", digest[:8])


def lora_a(seed, module, rank, in_features):
    """A [rank, in_features] at step 0: uniform in [-1/sqrt(k), 1/sqrt(k)), float32."""
    count = rank * in_features
    counters = np.zeros(((count + 3) // 4, 4), np.uint64)
    counters[:, 0] = np.arange(len(counters))
    words = philox4x32(counters, derive_key("sbora.lora_a.v1", seed, module)).reshape(-1)[:count]
    unit = (words >> np.uint64(8)).astype(np.float32) * np.float32(2.0 ** -24)
    bound = np.float32(1 / np.sqrt(np.float64(in_features)))
    return ((np.float32(2) * unit - np.float32(1)) * bound).reshape(rank, in_features)


def permutation(seed, epoch, count):
    """The order of an epoch: an eight-round Feistel network over Philox with cycle walking."""
    key = derive_key("sbora.permutation.v1", seed)
    bits = 1 if count <= 2 else (count - 1).bit_length()
    half = (bits + 1) // 2
    mask = (1 << half) - 1

    def encrypt(value):
        left, right = value >> half, value & mask
        for turn in range(8):
            counter = [[right, turn, epoch & 0xFFFFFFFF, epoch >> 32]]
            left, right = right, left ^ (int(philox4x32(counter, key)[0, 0]) & mask)
        return (left << half) | right

    order = []
    for position in range(count):
        value = encrypt(position)
        while value >= count:
            value = encrypt(value)
        order.append(value)
    return order


def mixture(sizes, counts, seed, epochs):
    """Samples, and how often each came before in its epoch: passes over each data set go on from epoch to epoch."""
    samples, repeats = [], []
    for epoch in range(epochs):
        for slot in permutation(seed, epoch, sum(counts)):
            part = next(i for i in range(len(counts)) if slot < sum(counts[:i + 1]))
            low, high = derive_key("sbora.mixture.v1", seed, str(part))
            first = epoch * counts[part]
            draw = first + slot - sum(counts[:part])
            order = permutation(high << 32 | low, draw // sizes[part], sizes[part])
            samples.append(sum(sizes[:part]) + order[draw % sizes[part]])
            repeats.append(draw // sizes[part] - first // sizes[part])
    return samples, repeats
