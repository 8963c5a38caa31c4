#!/usr/bin/python3
"""The peer of train_bench: the same GPT-2-shaped model in Debian's PyTorch, one training step for each line on stdin.

Usage: torch_train.py LAYERS WIDTH HEADS VOCABULARY LENGTH BATCH THREADS fp32|bf16
Prints "ready VERSION", then for each line read the milliseconds of a step and its loss; "memory KIB" (VmHWM) at the
end of input. The settings are the fastest of those that were tried on two cores: attention with a mask made once,
AdamW with foreach, bfloat16 by autocast. Exits 77 where there is no PyTorch.
"""
import math
import sys
import time

try:
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
except ImportError:
    sys.exit(77)

LAYERS, WIDTH, HEADS, VOCABULARY, LENGTH, BATCH, THREADS = map(int, sys.argv[1:8])
BF16 = sys.argv[8] == "bf16"


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention_norm, self.ffn_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.output = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x, mask):
        batch, length, _ = x.shape
        heads = [t.view(batch, length, HEADS, WIDTH // HEADS).transpose(1, 2)
                 for t in self.qkv(self.attention_norm(x)).split(WIDTH, dim=2)]
        scores = heads[0] @ heads[1].transpose(-2, -1) / math.sqrt(WIDTH // HEADS)
        mixed = F.softmax(scores.masked_fill(mask, float("-inf")), dim=-1) @ heads[2]
        x = x + self.output(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.down(F.gelu(self.up(self.ffn_norm(x)), approximate="tanh"))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens, targets):
        x = self.tokens(tokens) + self.positions(torch.arange(LENGTH))
        for block in self.blocks:
            x = block(x, self.mask)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.float().view(-1, VOCABULARY), targets.reshape(-1))


def peak_kib():
    with open("/proc/self/status") as status:
        return next(line.split()[1] for line in status if line.startswith("VmHWM"))


def main():
    torch.set_num_threads(THREADS)
    torch.manual_seed(1)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1,
                                  foreach=True)
    print("ready", torch.__version__, flush=True)
    for _ in sys.stdin:
        window = torch.randint(VOCABULARY, (BATCH, LENGTH + 1))
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=BF16):
            loss = model(window[:, :-1], window[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        print(f"{1e3 * (time.perf_counter() - start):.3f} {loss.item():.5f}", flush=True)
    print("memory", peak_kib(), flush=True)


main()
