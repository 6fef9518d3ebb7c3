"""A CLIP-format byte-pair tokenizer of the words that captions of emoji-64 use: target/train/tokenizer.

    python tools/train/build_tokenizer.py

Words are split as CLIP splits them (lower case, letters / single digits / runs of signs) and merged by plain byte-pair
encoding until each word that occurs in the name of any emoji, or in any caption, is one token.  The text encoder is
trained with one particular vocabulary: to train the shipped weights further, use theirs (`--tokenizer
weights/emoji-64/tokenizer`).
"""

import argparse
import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from emoji_data import COLOURS, load_sprites
from trainer import BUILD

MAX_TOKENS = 32  # per caption, with the start and end tokens
START, END = "<|startoftext|>", "<|endoftext|>"
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def corpus(entries):
    """The names of all emoji, and the synonyms and other words that captions use."""
    for entry in entries:
        yield " ".join([entry["name"], *entry["synonyms"]])
    yield from (f"a an 3d flat cartoon on {colour} background," for colour in COLOURS)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=BUILD, help="folder of sprites.npz and sprites.json")
    parser.add_argument("--output", type=Path, default=BUILD / "tokenizer")
    options = parser.parse_args(arguments)

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,  # more than there is to merge: merging stops when every word is one token
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(load_sprites(options.data)[1]), trainer)
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]

    # CLIP's order of ids: 256 bytes, the same bytes as ends of words, one id for each merge, the two special tokens.
    letters = bytes_in_clip_order()
    vocabulary = letters + [letter + "</w>" for letter in letters] + ["".join(merge) for merge in merges] + [START, END]
    ids = {token: i for i, token in enumerate(dict.fromkeys(vocabulary))}
    save_tokenizer(CLIPTokenizer(vocab=ids, merges=merges, model_max_length=MAX_TOKENS), ids, merges, options.output)
    print(f"{options.output}: {len(ids)} tokens")


def save_tokenizer(tokenizer, ids, merges, folder):
    """Saves transformers' own files, and the two that every reader of CLIP tokenizers knows."""
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def bytes_in_clip_order():
    """The printable stand-ins of the 256 bytes: first the bytes that are printable, as GPT-2 and CLIP have them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


if __name__ == "__main__":
    main()
