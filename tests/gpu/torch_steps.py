#!/usr/bin/env python3
"""Training steps of a GPT-2 or LLaMA in PyTorch, the peer of tools/gpu_check's training figures.

Usage: torch_steps.py gpt2|llama LAYERS WIDTH HEADS KV_HEADS FFN VOCABULARY LENGTH BATCH eager|compile cuda|cpu STEPS

Prints the median milliseconds of the last half of the steps: forward and backward under bf16 autocast, attention by
scaled_dot_product_attention where this version has it, clipping, fused AdamW on a GPU. Exits 77 without PyTorch or device.
"""

import math
import sys
import time

try:
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

LLAMA = sys.argv[1] == "llama"
LAYERS, WIDTH, HEADS, KV_HEADS, FFN, VOCABULARY, LENGTH, BATCH = map(int, sys.argv[2:10])
MODE, DEVICE, STEPS = sys.argv[10], sys.argv[11], int(sys.argv[12])
HEAD = WIDTH // HEADS


class RmsNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        return (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-5)).type_as(x) * self.weight


def rotated(x, cosine, sine):
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.stack((first * cosine - second * sine, second * cosine + first * sine), -1).flatten(-2)


def attend(q, k, v):
    if KV_HEADS < HEADS:
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, 1) for t in (k, v))
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    future = torch.ones(LENGTH, LENGTH, dtype=torch.bool, device=q.device).triu(1)
    return ((q @ k.transpose(-2, -1)) / math.sqrt(HEAD)).masked_fill(future, -math.inf).softmax(-1) @ v


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        bias = not LLAMA
        norm = RmsNorm if LLAMA else lambda: nn.LayerNorm(WIDTH)
        self.attention_norm, self.ffn_norm = norm(), norm()
        self.qkv = nn.Linear(WIDTH, (HEADS + 2 * KV_HEADS) * HEAD, bias=bias)
        self.output = nn.Linear(WIDTH, WIDTH, bias=bias)
        self.up = nn.Linear(WIDTH, FFN * (2 if LLAMA else 1), bias=bias)
        self.down = nn.Linear(FFN, WIDTH, bias=bias)

    def forward(self, x, cosine, sine):
        batch, length, _ = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, HEADS + 2 * KV_HEADS, HEAD).transpose(1, 2)
        q, k, v = qkv.split((HEADS, KV_HEADS, KV_HEADS), 1)
        if LLAMA:
            q, k = rotated(q, cosine, sine), rotated(k, cosine, sine)
        x = x + self.output(attend(q, k, v).transpose(1, 2).reshape(batch, length, WIDTH))
        hidden = self.up(self.ffn_norm(x))
        if LLAMA:
            gate, hidden = hidden.split(FFN, -1)
            hidden = F.silu(gate) * hidden
        else:
            hidden = F.gelu(hidden, approximate="tanh")
        return x + self.down(hidden)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = None if LLAMA else nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = RmsNorm() if LLAMA else nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        if not LLAMA:
            self.head.weight = self.tokens.weight
        angles = torch.arange(LENGTH)[:, None] * 10000.0 ** (-2.0 * torch.arange(HEAD // 2) / HEAD)
        self.register_buffer("cosine", angles.cos())
        self.register_buffer("sine", angles.sin())
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens, targets):
        x = self.tokens(tokens)
        if self.positions is not None:
            x = x + self.positions.weight
        for block in self.blocks:
            x = block(x, self.cosine, self.sine)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


def main():
    if DEVICE == "cuda" and not torch.cuda.is_available():
        print("skipped: PyTorch sees no GPU")
        return 77
    torch.manual_seed(1)
    model = Model().to(DEVICE)
    step_of = torch.compile(model) if MODE == "compile" else model
    fused = {"fused": True} if DEVICE == "cuda" else {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, **fused)
    times = []
    for _ in range(STEPS):
        window = torch.randint(VOCABULARY, (BATCH, LENGTH + 1), device=DEVICE)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            loss = step_of(window[:, :-1], window[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    late = sorted(times[STEPS // 2:])
    print(f"{late[len(late) // 2]:.3f}")
    return 0


sys.exit(main())
