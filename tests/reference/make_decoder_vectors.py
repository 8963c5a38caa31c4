#!/usr/bin/python3
"""Writes decoder_vectors.txt: what PyTorch computes, in double, for the tiny models of the compute tests.

Run with Debian's python3-torch: ./make_decoder_vectors.py > decoder_vectors.txt. With --check it compares its numbers
with those of the file instead, and exits 77 where there is no PyTorch.
The forward passes are written on torch.nn.functional, gradients come from autograd and updates from torch.optim.AdamW.
Values and tokens come from a small hash that decoder_vectors_test.cc computes too. Of each tensor the file has the
gradient's dot product with hashed weights and its norm, and the same dot product of the values after three updates.
"""
import contextlib
import io
import math
import pathlib
import sys

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    sys.exit(77)

torch.set_default_dtype(torch.float64)
B, T, STEPS = 2, 7, 3
LR, BETAS, EPS, DECAY = 0.01, (0.9, 0.95), 1e-3, 0.1


def hashed(name, i):
    """32 well mixed bits of element i of a stream."""
    h = 2166136261
    for byte in name.encode():
        h = ((h ^ byte) * 16777619) & 0xFFFFFFFF
    h = (h ^ (i * 2654435761)) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return h ^ (h >> 16)


def uniform(name, i):
    """In [-0.5, 0.5), exact in single precision."""
    return (hashed(name, i) >> 8) / 2.0**24 - 0.5


GPT2 = dict(vocabulary=11, padded=14, length=9, width=12, layers=2, heads=3, kv=3, dim=4, ffn=19, norm="layer",
            post=False, positions="learned", activation="gelu_tanh", biases=True, parallel=False, embedding_norm=False,
            tied=True, qk_norm=False, embedding_scale=1.0, logit_scale=1.0, z_loss=0.0)
LLAMA = GPT2 | dict(heads=4, kv=2, dim=6, norm="rms", positions="rope", activation="swiglu", biases=False, tied=False)
MODELS = {
    "Gpt2": GPT2,
    "Llama": LLAMA,
    "Bloom": GPT2 | dict(positions="alibi", embedding_norm=True),
    "Palm": LLAMA | dict(norm="layer", kv=1, parallel=True, tied=True, z_loss=0.01),
    "Opt": GPT2 | dict(activation="relu"),
    "GeluErf": GPT2 | dict(activation="gelu_erf"),
    "PostNorm": GPT2 | dict(post=True),
    "PostRmsNormGeglu": LLAMA | dict(post=True, activation="geglu", biases=True),
    "QkNormNoPositions": GPT2 | dict(qk_norm=True, positions="none"),
    "QkNormRope": LLAMA | dict(qk_norm=True),
    "Scales": GPT2 | dict(embedding_scale=1.7, logit_scale=0.6, z_loss=0.02),
    "ParallelWithBiases": GPT2 | dict(parallel=True),
}


# With dropout, under the masks that the engine exported (dropout_masks.txt).
DROPOUT_MODELS = {
    "Gpt2Dropout": GPT2,
    "LlamaDropout": LLAMA,
    "BloomDropout": MODELS["Bloom"],
    "PalmDropout": MODELS["Palm"],
    "PostNormDropout": MODELS["PostNorm"],
}
RATES = dict(embedding=0.2, attention=0.3, residual=0.25)


def read_masks():
    """What the engine keeps, by place: for each of the two samples rows of 0 and 1."""
    masks = {}
    for line in pathlib.Path(__file__).with_name("dropout_masks.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            site, *rows = line.split()
            masks[site] = torch.tensor([[float(c) for c in row] for row in rows]).view(B, -1, len(rows[0]))
    return masks


class Decoder:
    def __init__(self, options, masks=None):
        self.o = options
        self.masks = masks
        self.tensors = {}

    def drop(self, site, rate, x):
        if self.masks is None:
            return x
        mask = self.masks[site][:, : x[0].numel() // x.shape[-1]].view_as(x)
        return x * mask / (1 - rate)

    def tensor(self, name, *shape):
        """The tensor of that name, made on first use, so that the forward pass alone decides which there are."""
        if name not in self.tensors:
            values = [uniform(name, i) for i in range(math.prod(shape))]
            one_dim_weight = len(shape) == 1 and name.endswith("weight")
            self.tensors[name] = (torch.tensor(values).view(shape) + (1.0 if one_dim_weight else 0.0)).requires_grad_()
        return self.tensors[name]

    def norm(self, name, x):
        n = x.shape[-1]
        weight = self.tensor(name + ".weight", n)
        if self.o["norm"] == "layer":
            bias = None
            if self.o["biases"] and not name.endswith(("query_norm", "key_norm")):
                bias = self.tensor(name + ".bias", n)
            return F.layer_norm(x, (n,), weight, bias, 1e-5)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight

    def linear(self, name, x, out):
        bias = self.tensor(name + ".bias", out) if self.o["biases"] else None
        return F.linear(x, self.tensor(name + ".weight", out, x.shape[-1]), bias)

    def heads(self, x, count):
        return x.view(x.shape[0], x.shape[1], count, self.o["dim"]).transpose(1, 2)

    def rope(self, x):
        half = self.o["dim"] // 2
        angles = torch.outer(torch.arange(x.shape[2]), 10000.0 ** (-torch.arange(half) / half))
        turned = torch.view_as_complex(x.reshape(*x.shape[:-1], half, 2)) * torch.polar(torch.ones_like(angles), angles)
        return torch.view_as_real(turned).flatten(-2)

    def alibi_slopes(self):
        n = self.o["heads"]
        power = 2 ** math.floor(math.log2(n))
        slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
        return torch.tensor(slopes + [2 ** (-4 * (2 * i + 1) / power) for i in range(n - power)])

    def attention(self, prefix, x):
        o = self.o
        q = self.heads(self.linear(prefix + "query", x, o["heads"] * o["dim"]), o["heads"])
        k = self.heads(self.linear(prefix + "key", x, o["kv"] * o["dim"]), o["kv"])
        v = self.heads(self.linear(prefix + "value", x, o["kv"] * o["dim"]), o["kv"])
        if o["qk_norm"]:
            q, k = self.norm(prefix + "query_norm", q), self.norm(prefix + "key_norm", k)
        if o["positions"] == "rope":
            q, k = self.rope(q), self.rope(k)
        k, v = (t.repeat_interleave(o["heads"] // o["kv"], dim=1) for t in (k, v))
        scores = q @ k.transpose(-2, -1) / math.sqrt(o["dim"])
        length = x.shape[1]
        distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
        if o["positions"] == "alibi":
            scores = scores - self.alibi_slopes()[:, None, None] * distance
        scores = scores.masked_fill(distance < 0, float("-inf"))
        probabilities = self.drop(prefix + "probabilities", RATES["attention"], scores.softmax(-1))
        mixed = (probabilities @ v).transpose(1, 2).flatten(-2)
        return self.drop(prefix + "output", RATES["residual"], self.linear(prefix + "output", mixed, o["width"]))

    def feed_forward(self, prefix, x):
        o = self.o
        up = self.linear(prefix + "up", x, o["ffn"])
        kind = o["activation"]
        if kind == "swiglu":
            hidden = F.silu(self.linear(prefix + "gate", x, o["ffn"])) * up
        elif kind == "geglu":
            hidden = F.gelu(self.linear(prefix + "gate", x, o["ffn"])) * up
        elif kind == "relu":
            hidden = F.relu(up)
        else:
            hidden = F.gelu(up, approximate="tanh" if kind == "gelu_tanh" else "none")
        return self.drop(prefix + "output", RATES["residual"], self.linear(prefix + "down", hidden, o["width"]))

    def logits(self, tokens):
        o = self.o
        table = self.tensor("embedding.token.weight", o["padded"], o["width"])
        x = o["embedding_scale"] * F.embedding(tokens, table)
        if o["positions"] == "learned":
            x = x + self.tensor("embedding.position.weight", o["length"], o["width"])[: tokens.shape[1]]
        if o["embedding_norm"]:
            x = self.norm("embedding.norm", x)
        x = self.drop("embedding", RATES["embedding"], x)
        for layer in range(o["layers"]):
            p = f"layers.{layer}."
            if o["post"]:
                x = self.norm(p + "attention_norm", x + self.attention(p + "attention.", x))
                x = self.norm(p + "ffn_norm", x + self.feed_forward(p + "ffn.", x))
            elif o["parallel"]:
                y = self.norm(p + "attention_norm", x)
                x = x + self.attention(p + "attention.", y) + self.feed_forward(p + "ffn.", y)
            else:
                x = x + self.attention(p + "attention.", self.norm(p + "attention_norm", x))
                x = x + self.feed_forward(p + "ffn.", self.norm(p + "ffn_norm", x))
        if not o["post"]:
            x = self.norm("final_norm", x)
        output = table if o["tied"] else self.tensor("output.weight", o["padded"], o["width"])
        return o["logit_scale"] * F.linear(x, output[: o["vocabulary"]])


def losses(model, tokens, targets):
    rows = model.logits(tokens)
    cross_entropy = F.cross_entropy(rows.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum")
    z = model.o["z_loss"] * rows.logsumexp(-1)[targets >= 0].pow(2).sum()
    return cross_entropy, z, rows


def dot(name, values):
    flat = values.detach().flatten()
    return float(flat @ torch.tensor([uniform(name + " weight", i) for i in range(flat.numel())]))


def text(values):
    """Nine digits; what is zero but for rounding is written as zero."""
    return " ".join("0" if abs(v) < 1e-12 else f"{v:.9g}" for v in values)


def main():
    print("# written by make_decoder_vectors.py; see there")
    for name, options in (MODELS | DROPOUT_MODELS).items():
        vocabulary = options["vocabulary"]
        tokens = torch.tensor([hashed("tokens", i) % vocabulary for i in range(B * T)]).view(B, T)
        targets = torch.tensor([hashed("targets", i) % vocabulary for i in range(B * T)]).view(B, T)
        targets[0, 2] = targets[1, 6] = -1
        model = Decoder(options, read_masks() if name in DROPOUT_MODELS else None)
        cross_entropy, z, rows = losses(model, tokens, targets)
        (cross_entropy + z).backward()
        print("model", name)
        print("loss", text((float(cross_entropy), float(z))))
        print("logits", text(rows[0, -1].tolist()))
        gradients = {n: (dot(n, t.grad), float(t.grad.norm())) for n, t in model.tensors.items()}
        decayed = [t for t in model.tensors.values() if t.dim() > 1]
        others = [t for t in model.tensors.values() if t.dim() == 1]
        adamw = torch.optim.AdamW([{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}],
                                  lr=LR, betas=BETAS, eps=EPS)
        for _ in range(STEPS):
            adamw.zero_grad()
            cross_entropy, z, _ = losses(model, tokens, targets)
            ((cross_entropy + z) / (targets >= 0).sum()).backward()
            adamw.step()
        for n, t in model.tensors.items():
            print("tensor", n, text((*gradients[n], dot(n, t))))


def check():
    """Exits with a message unless the file beside this script holds these numbers, to 1e-7 of their size."""
    fresh = io.StringIO()
    with contextlib.redirect_stdout(fresh):
        main()
    stored = pathlib.Path(__file__).with_name("decoder_vectors.txt").read_text().split()
    computed = fresh.getvalue().split()
    if len(stored) != len(computed):
        sys.exit(f"{len(computed)} words computed, {len(stored)} in the file")
    for a, b in zip(computed, stored):
        with contextlib.suppress(ValueError):
            if abs(float(a) - float(b)) <= 1e-7 * (1 + abs(float(b))):
                continue
        if a != b:
            sys.exit(f"computed {a}, the file has {b}")


check() if "--check" in sys.argv else main()
