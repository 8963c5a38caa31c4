#!/usr/bin/env python3
"""GPT-2's tokenizer, slowly and straight from its description: an independent reference for data/bpe_tokenizer.

usage: gpt2_reference.py FOLDER TEXT_FILE   prints the ids of the file's text, separated by blanks
Exits with 77 if the package `regex` is missing.
"""
import json
import sys

try:
    import regex
except ImportError:
    sys.exit(77)

PATTERN = regex.compile(r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""")


def visible_characters():
    shown = list(range(0x21, 0x7F)) + list(range(0xA1, 0xAD)) + list(range(0xAE, 0x100))
    hidden = [b for b in range(256) if b not in shown]
    table = {b: chr(b) for b in shown}
    table.update({b: chr(0x100 + i) for i, b in enumerate(hidden)})
    return table


def merged(word, rank):
    while len(word) > 1:
        best = min(zip(word, word[1:]), key=lambda p: rank.get(p, len(rank)))
        if best not in rank:
            break
        out, i = [], 0
        while i < len(word):
            if tuple(word[i : i + 2]) == best:
                out.append(word[i] + word[i + 1])
                i += 2
            else:
                out.append(word[i])
                i += 1
        word = out
    return word


def main(folder, text_file):
    encoder = json.load(open(folder + "/encoder.json", encoding="utf-8"))
    lines = open(folder + "/vocab.bpe", encoding="utf-8").read().split("\n")[1:]
    rank = {tuple(line.split()): i for i, line in enumerate(line for line in lines if line)}
    shown = visible_characters()
    text = open(text_file, encoding="utf-8", newline="").read()
    known = {}
    ids = []
    for piece in PATTERN.findall(text):
        if piece not in known:
            word = [shown[b] for b in piece.encode("utf-8")]
            known[piece] = [encoder[token] for token in merged(word, rank)]
        ids += known[piece]
    print(*ids)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
