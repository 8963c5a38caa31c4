#!/usr/bin/env python3
"""Prints data/unicode_classes.cc's tables: the ranges of code points that are letters (general category L) and numbers (N).

Needs the PyPI package `regex`, whose classes GPT-2's pre-tokenisation is defined by. Run after a new Unicode version:
    python3 data/make_unicode_classes.py
"""
import regex


def ranges(pattern):
    found = []
    for c in range(0x110000):
        if 0xD800 <= c < 0xE000 or not regex.match(pattern, chr(c)):
            continue
        if found and found[-1][1] == c - 1:
            found[-1][1] = c
        else:
            found.append([c, c])
    return found


for name, pattern in (("kLetters", r"\p{L}"), ("kNumbers", r"\p{N}")):
    table = ranges(pattern)
    print(f"constexpr CodePointRange {name}[] = {{")
    line = "   "
    for low, high in table:
        item = f" {{0x{low:x}, 0x{high:x}}},"
        if len(line) + len(item) > 98:
            print(line)
            line = "   "
        line += item
    print(line)
    print("};\n")
