"""Token caches (data/token_cache.h) read and written without the programs under test: what makes a comparison train on
the same samples in the same micro-batches. Standard library only."""
import array
import hashlib
import pathlib
import struct
import sys

MAGIC, VERSION, HEADER_BYTES = b"SBORATOK", 3, 256
HEADER = struct.Struct("<8sII5q64s64sq")  # all but the last 64 bytes, which are the hash of these

assert sys.byteorder == "little", "the file is little-endian and read as it is"


class TokenCache:
    """Samples of ids and masks. A token whose mask is 1 is a target, but for a sample's first, which nothing precedes."""

    def __init__(self, path):
        content = pathlib.Path(path).read_bytes()
        magic, version, header_bytes, samples, tokens, *_ = HEADER.unpack_from(content)
        if (magic, version, header_bytes) != (MAGIC, VERSION, HEADER_BYTES):
            raise ValueError(f"{path} is no token cache of version {VERSION}")
        ids_end = HEADER_BYTES + (tokens + 1) // 2 * 8
        masks_end = ids_end + (tokens + 7) // 8 * 8
        self._ids = array.array("i", content[HEADER_BYTES:HEADER_BYTES + 4 * tokens])
        self._masks = content[ids_end:ids_end + tokens]
        self._offsets = array.array("q", content[masks_end:masks_end + 8 * (samples + 1)])

    def __len__(self):
        return len(self._offsets) - 1

    def sample(self, i):
        """(ids, masks) of sample i."""
        begin, end = self._offsets[i], self._offsets[i + 1]
        return list(self._ids[begin:end]), list(self._masks[begin:end])


def targets(samples):
    """Positions that a loss is taken over."""
    return sum(sum(masks[1:]) for _, masks in samples)


def write(path, samples, key=""):
    """A cache of one part. `key` names the content; without it, the content's own hash."""
    ids, masks, offsets = array.array("i"), bytearray(), array.array("q", [0])
    for sample_ids, sample_masks in samples:
        ids.extend(sample_ids)
        masks.extend(sample_masks)
        offsets.append(len(ids))
    tokens, count = len(ids), len(offsets) - 1
    body = ids.tobytes() + bytes(-len(ids) % 2 * 4) + bytes(masks) + bytes(-tokens % 8)
    body += offsets.tobytes() + struct.pack("<q", count)
    digest = hashlib.sha256(body).hexdigest()
    longest = max((end - begin for begin, end in zip(offsets, offsets[1:])), default=0)
    header = HEADER.pack(MAGIC, VERSION, HEADER_BYTES, count, tokens, sum(masks), max(ids, default=-1) + 1, longest,
                         (key or digest).encode(), digest.encode(), 1)
    pathlib.Path(path).write_bytes(header + hashlib.sha256(header).hexdigest().encode() + body)
