#!/usr/bin/env python3
"""Every operation of the CUDA plugin against PyTorch in float64, on fresh random inputs, outputs poisoned with NaN first.

Usage: operations.py PLUGIN [--seed N] [--budget SECONDS] [--json FILE] [--large]

A line an operation and type: the largest relative error |out - ref| / |ref| of its outputs and the bound. Exit status 0
all within bounds, 1 some not, 77 skipped (the reason is printed).
"""

import argparse
import json
import math
import os
import sys
import time

try:
    import numpy
    import torch
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

from plugin import BF16, CONSTANTS, F32, Plugin, PluginError, from_bfloat16, to_bfloat16

# float32: roundings of 6e-8 in sums of some thousand terms. BF16: inputs are rounded before the reference sees them, so
# only the outputs' rounding (4e-3 each, less over a norm) and that of intermediate probabilities count.
BOUNDS = {F32: 2e-5, BF16: 1e-2}


class Case:
    """What one operation's check needs: inputs as the device has them, outputs, errors."""

    def __init__(self, plugin, dtype, rng):
        self.plugin, self.dtype, self.rng = plugin, dtype, rng
        self.errors = {}

    def random(self, *shape, dtype=None, scale=1.0):
        """(on the device, the same values in float64)."""
        dtype = self.dtype if dtype is None else dtype
        x = (self.rng.standard_normal(shape) * scale).astype(numpy.float32)
        if dtype == BF16:
            x = from_bfloat16(to_bfloat16(x))
        return self.plugin.array(x, dtype), torch.tensor(x, dtype=torch.float64, requires_grad=True)

    def out(self, *shape, dtype=None):
        return self.plugin.poisoned(shape, self.dtype if dtype is None else dtype)

    def zeros(self, *shape):
        return self.plugin.array(numpy.zeros(shape, numpy.float32), F32)

    def check(self, name, array, reference):
        actual = array.detach() if torch.is_tensor(array) else torch.tensor(array.numpy().astype(numpy.float64))
        actual = actual.reshape(reference.shape)
        reference = reference.detach()
        error = ((actual - reference).norm() / (reference.norm() + 1e-30)).item()
        self.errors[name] = error if math.isfinite(error) else math.inf


def places_of(lengths):
    """Of every token in its document."""
    return numpy.concatenate([numpy.arange(n) for n in lengths]).astype(numpy.int32)


def dropout_factors(key, rate, samples, rows, columns):
    """(samples, rows, columns) of 0 or 1 / (1 - rate): Philox4x32-10 names each row, a finaliser each column."""
    low, high = numpy.uint64(0xFFFFFFFF), numpy.uint64(32)
    sample, row = numpy.broadcast_arrays(numpy.array(samples, numpy.uint64)[:, None], numpy.array(rows, numpy.uint64)[None, :])
    c = [row & low, row >> high, sample & low, sample >> high]
    k = [numpy.uint64(key & 0xFFFFFFFF), numpy.uint64(key >> 32)]
    for _ in range(10):
        p0, p1 = numpy.uint64(0xD2511F53) * c[0], numpy.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> high) ^ c[1] ^ k[0], p1 & low, (p0 >> high) ^ c[3] ^ k[1], p0 & low]
        k = [(k[0] + numpy.uint64(0x9E3779B9)) & low, (k[1] + numpy.uint64(0xBB67AE85)) & low]
    x = (c[0][..., None] + numpy.arange(columns, dtype=numpy.uint64)) & low
    x ^= x >> numpy.uint64(16)
    x = (x * numpy.uint64(0x7FEB352D) + c[1][..., None]) & low
    x ^= x >> numpy.uint64(15)
    x = (x * numpy.uint64(0x846CA68B)) & low
    x ^= x >> numpy.uint64(16)
    return torch.tensor(((x >> numpy.uint64(8)) >= round(rate * 2**24)) / (1 - rate))


def dropout_fields(case, rate, samples, key=0x0123456789ABCDEF):
    return dict(dropout_key=key, dropout_threshold=round(rate * 2**24), dropout_scale=1 / (1 - rate),
                samples=case.plugin.array(numpy.array(samples, numpy.int64)))


SAMPLES = (7, 2**35 + 1)


def norm(case, rows=70, n=96, rms=False, group=1):
    x, x64 = case.random(rows, group * n)
    residual, residual64 = case.random(rows, group * n)
    weight, weight64 = case.random(n, dtype=F32)
    bias, bias64 = case.random(n, dtype=F32)
    dy, dy64 = case.random(rows, group * n)
    total, y = case.out(rows, group * n), case.out(rows, group * n)
    mean, rstd = case.out(rows * group, dtype=F32), case.out(rows * group, dtype=F32)
    shared = dict(type=case.dtype, rows=rows * group, n=n, group=group, x_outer=group * n)
    case.plugin.run("run_norm", "norm", **shared, y_outer=group * n, epsilon=1e-5, x=x, residual=residual, sum=total, weight=weight,
                    bias=bias, mean=0 if rms else mean, rstd=rstd, y=y)
    case.check("sum", total, x64 + residual64)
    # What backward reads is the sum as stored.
    s = torch.tensor(total.numpy().astype(numpy.float64), requires_grad=True)
    rows64 = s.reshape(rows * group, n)
    centred = rows64 if rms else rows64 - rows64.mean(1, keepdim=True)
    y64 = (centred / (centred.pow(2).mean(1, keepdim=True) + 1e-5).sqrt() * weight64 + bias64).reshape(rows, group * n)
    case.check("y", y, y64)
    y64.backward(dy64.detach())
    dx, dweight, dbias = case.out(rows, group * n), case.zeros(n), case.zeros(n)
    case.plugin.run("run_norm_backward", "norm_backward", **shared, dy_outer=group * n, dx_outer=group * n, x=total, dy=dy,
                    weight=weight, mean=0 if rms else mean, rstd=rstd, dx=dx, dweight=dweight, dbias=dbias)
    case.check("dx", dx, s.grad)
    case.check("dweight", dweight, weight64.grad)
    case.check("dbias", dbias, bias64.grad)


def matmul(case, m=96, n=64, k=160):
    for transpose_a in (0, 1):
        for transpose_b in (0, 1):
            a, a64 = case.random(*((k, m) if transpose_a else (m, k)))
            b, b64 = case.random(*((n, k) if transpose_b else (k, n)))
            c, c64 = case.random(m, n)
            bias, bias64 = case.random(n)
            d = case.out(m, n)
            case.plugin.run("run_matmul", "matmul", type=case.dtype, out_type=case.dtype, transpose_a=transpose_a,
                            transpose_b=transpose_b, m=m, n=n, k=k, lda=a.shape[1], ldb=b.shape[1], ldc=n, ldd=n, a=a, b=b, c=c,
                            bias=bias, d=d)
            product = (a64.T if transpose_a else a64) @ (b64.T if transpose_b else b64)
            case.check(f"d{transpose_a}{transpose_b}", d, product + c64 + bias64)


def weight_gradient(case, tokens=200, out=48, n=64):
    dy, dy64 = case.random(tokens, out)
    x, x64 = case.random(tokens, n)
    dw, dw64 = case.random(out, n, dtype=F32)
    db, db64 = case.random(out, dtype=F32)
    case.plugin.run("run_matmul", "matmul", type=case.dtype, out_type=F32, transpose_a=1, m=out, n=n, k=tokens, lda=out, ldb=n, ldc=n,
                    ldd=n, a=dy, b=x, c=dw, d=dw, bias_gradient=db)
    case.check("dw", dw, dw64 + dy64.T @ x64)
    case.check("db", db, db64 + dy64.sum(0))


def activations(case, rows=50, n=72):
    functions = {
        "GELU_ERF": lambda x: torch.nn.functional.gelu(x),
        "GELU_TANH": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "RELU": torch.relu,
        "SILU": torch.nn.functional.silu,
    }
    for name, function in functions.items():
        for gated in (False, True):
            hidden, hidden64 = case.random(rows, 2 * n if gated else n, scale=2)
            dout, dout64 = case.random(rows, n)
            out, dhidden = case.out(rows, n), case.out(*hidden.shape)
            fields = dict(type=case.dtype, function=CONSTANTS["TENAX_CUDA_" + name], rows=rows, n=n, ld=hidden.shape[1], ld_out=n,
                          ld_grad=hidden.shape[1], up=hidden.at(n) if gated else hidden, out=out, dout=dout,
                          dup=dhidden.at(n) if gated else dhidden)
            if gated:
                fields.update(gate=hidden, dgate=dhidden)
                out64 = function(hidden64[:, :n]) * hidden64[:, n:]
            else:
                out64 = function(hidden64)
            case.plugin.run("run_activation", "activation", **fields)
            case.plugin.run("run_activation_backward", "activation", **fields)
            out64.backward(dout64.detach())
            case.check(f"{name}{' gated' if gated else ''}", out, out64)
            case.check(f"d{name}{' gated' if gated else ''}", dhidden, hidden64.grad)


def rope(case, batch=2, length=20, heads=5, head_dim=16, documents=None):
    ld = (heads + 2) * head_dim
    x, x64 = case.random(batch * length, ld)
    angles = numpy.arange(length)[:, None] * 10000.0 ** (-2.0 * numpy.arange(head_dim // 2) / head_dim)
    cosine, sine = (case.plugin.array(f(angles).astype(numpy.float32)) for f in (numpy.cos, numpy.sin))
    pairs = x64[:, : heads * head_dim].reshape(batch, length, heads, head_dim // 2, 2)
    places = numpy.tile(numpy.arange(length), batch) if documents is None else places_of(documents)
    c, s = (torch.tensor(f(angles)[places].reshape(batch, length, 1, head_dim // 2)) for f in (numpy.cos, numpy.sin))
    turned = torch.stack((pairs[..., 0] * c - pairs[..., 1] * s, pairs[..., 1] * c + pairs[..., 0] * s), -1)
    expected = torch.cat((turned.reshape(batch * length, -1), x64[:, heads * head_dim :]), 1)
    fields = dict(type=case.dtype, rows=batch * length, length=length, heads=heads, head_dim=head_dim, ld=ld, x=x, cosine=cosine, sine=sine,
                  places=0 if documents is None else case.plugin.array(places))
    case.plugin.run("run_rope", "rope", **fields)
    case.check("x", x, expected)
    case.plugin.run("run_rope", "rope", **fields, inverse=1)
    case.check("back", x, x64)


def attention(case, batch=2, length=70, heads=4, kv_heads=2, head_dim=16, alibi=False, kernels="AUTO", documents=None, rate=0.0):
    ld, ld_out = (heads + 2 * kv_heads) * head_dim, heads * head_dim
    qkv, qkv64 = case.random(batch * length, ld)
    dout, dout64 = case.random(batch * length, ld_out)
    out, dqkv = case.out(batch * length, ld_out), case.out(batch * length, ld)
    log_sum = case.out(batch, heads, length, dtype=F32)
    slopes64 = torch.tensor([2.0 ** (-8.0 * (h + 1) / heads) for h in range(heads)])
    q, k, v = qkv64.reshape(batch, length, -1, head_dim).permute(0, 2, 1, 3).split((heads, kv_heads, kv_heads), 1)
    k, v = (t.repeat_interleave(heads // kv_heads, 1) for t in (k, v))
    scores = q @ k.transpose(2, 3) / math.sqrt(head_dim)
    position = torch.arange(length)
    if alibi:
        scores = scores + slopes64[:, None, None] * (position[None, :] - position[:, None])
    unseen = (position[None, :] > position[:, None])[None, None]
    if documents is not None:
        begins = position - torch.tensor(places_of(documents)).reshape(batch, 1, length)
        unseen = unseen | (position[None, None, None, :] < begins[..., None])
    scores = scores.masked_fill(unseen, -math.inf)
    first_head = 3 if rate > 0 else 0
    kept = 1.0
    if rate > 0:
        rows = range(first_head * length, (first_head + heads) * length)
        kept = dropout_factors(0x0123456789ABCDEF, rate, SAMPLES, rows, length).reshape(batch, heads, length, length)
    out64 = ((scores.softmax(-1) * kept) @ v).permute(0, 2, 1, 3).reshape(batch * length, ld_out)
    at = heads * head_dim
    fields = dict(type=case.dtype, kernels=CONSTANTS["TENAX_CUDA_ATTENTION_" + kernels], batch=batch, length=length, heads=heads,
                  kv_heads=kv_heads, head_dim=head_dim, ld=ld, ld_out=ld_out, scale=1 / math.sqrt(head_dim),
                  slopes=case.plugin.array(slopes64.numpy().astype(numpy.float32)) if alibi else 0, q=qkv, k=qkv.at(at),
                  v=qkv.at(at + kv_heads * head_dim), out=out, log_sum=log_sum, dout=dout, dq=dqkv, dk=dqkv.at(at),
                  dv=dqkv.at(at + kv_heads * head_dim), first_head=first_head,
                  places=0 if documents is None else case.plugin.array(places_of(documents)))
    if rate > 0:
        fields.update(dropout_fields(case, rate, SAMPLES))
    case.plugin.run("run_attention", "attention", **fields)
    case.check("out", out, out64)
    case.check("log_sum", log_sum, scores.logsumexp(-1))
    case.plugin.run("run_attention_backward", "attention", **fields)
    out64.backward(dout64.detach())
    case.check("dqkv", dqkv, qkv64.grad)


def dropout(case, length=9, n=40, rate=0.3, first_row=0, rows=18):
    kept = dropout_factors(0x0123456789ABCDEF, rate, SAMPLES, range(length), n).reshape(-1, n)[first_row : first_row + rows]
    x, x64 = case.random(rows, n)
    shared = dict(type=case.dtype, rows=rows, n=n, length=length, first_row=first_row, **dropout_fields(case, rate, SAMPLES))
    out = case.out(rows, n)
    case.plugin.run("run_dropout", "dropout", **shared, x=x, out=out)
    case.check("out", out, x64 * kept)
    total, total64 = case.random(rows, n, dtype=F32)
    bias, bias64 = case.random(n, dtype=F32)
    out = case.out(rows, n)
    case.plugin.run("run_residual", "residual", **shared, sum=total, bias=bias, added=x, out=out)
    case.check("residual", out, x64 + kept * (total64 + bias64))
    case.plugin.run("run_residual", "residual", type=case.dtype, rows=rows, n=n, length=length, sum=total, added=out, out=out)
    case.check("residual twice", out, x64 + kept * (total64 + bias64) + total64)


def shared_cross_entropy(case, rows=30, parts=((0, 40), (40, 50), (90, 7), (97, 0)), ld=56):
    """Columns on several ranks: what each knows is put together on the host."""
    n = parts[-1][0]
    logits = [case.random(rows, ld, scale=3) for _ in parts]
    targets = case.rng.integers(-1, n, rows).astype(numpy.int32)
    whole = torch.cat([x64[:, :count] for (_, x64), (_, count) in zip(logits, parts)], 1) * 0.7
    log_sum = whole.logsumexp(1)
    seen = torch.tensor(targets >= 0)
    picked = whole[torch.arange(rows), torch.tensor(numpy.maximum(targets, 0)).long()]
    sums, at_target, on_device = [], 0, case.plugin.array(targets)
    for (x, _), (first, count) in zip(logits, parts):
        found = case.plugin.array(numpy.full((rows, 2), numpy.nan))
        case.plugin.run("run_cross_entropy", "cross_entropy", type=case.dtype, rows=rows, n=count, ld=ld, first_token=first,
                        logit_scale=0.7, logits=x, targets=on_device, parts=found)
        sums.append(torch.tensor(found.numpy()[:, 0]))
        at_target = at_target + torch.tensor(found.numpy()[:, 1])
    found = torch.stack(sums).logsumexp(0)
    case.check("log_sum", found, log_sum * seen + math.log(len(parts)) * ~seen)
    case.check("target", at_target, picked * seen)
    ((log_sum - picked) * seen + 0.01 * log_sum**2 * seen).sum().backward()
    for i, ((x, x64), (first, count)) in enumerate(zip(logits, parts)):
        case.plugin.run("run_cross_entropy", "cross_entropy", type=case.dtype, with_gradient=1, rows=rows, n=count, ld=ld, z_loss=0.01,
                        first_token=first, logit_scale=0.7, logits=x, targets=on_device, log_sums=case.plugin.array(found.numpy()))
        case.check(f"dlogits{i}", x, x64.grad)


def cross_entropy(case, rows=30, n=97, ld=104):
    logits, logits64 = case.random(rows, ld, scale=3)
    targets = case.rng.integers(-1, n, rows).astype(numpy.int32)
    loss, z_term = (case.plugin.array(numpy.full(rows, numpy.nan)) for _ in range(2))
    log_sum = (logits64[:, :n] * 0.7).logsumexp(1)
    seen = torch.tensor(targets >= 0)
    picked = logits64[torch.arange(rows), torch.tensor(numpy.maximum(targets, 0)).long()] * 0.7
    loss64 = torch.where(seen, log_sum - picked, torch.zeros(rows, dtype=torch.float64))
    z64 = torch.where(seen, 0.01 * log_sum**2, torch.zeros(rows, dtype=torch.float64))
    case.plugin.run("run_cross_entropy", "cross_entropy", type=case.dtype, with_gradient=1, rows=rows, n=n, ld=ld, z_loss=0.01,
                    logit_scale=0.7, logits=logits, targets=case.plugin.array(targets), loss=loss, z_term=z_term)
    (loss64.sum() + z64.sum()).backward()
    case.check("loss", loss, loss64)
    case.check("z", z_term, z64)
    case.check("dlogits", logits, logits64.grad)


def part_of_embedding(case, documents=(5, 9, 14), length=14, width=40, first=3, held=4, vocabulary=11):
    """A rank's rows of the table, and documents that begin in the middle of a sample."""
    rows = sum(documents)
    tokens = case.rng.integers(0, vocabulary, rows).astype(numpy.int32)
    table, table64 = case.random(held, width)
    position, position64 = case.random(length, width)
    out = case.out(rows, width)
    places = places_of(documents)
    case.plugin.run("run_embed", "embed", type=case.dtype, scale=1.5, rows=rows, length=length, width=width, first_token=first,
                    num_tokens=held, tokens=case.plugin.array(tokens), places=case.plugin.array(places), table=table, position=position,
                    out=out)
    mine = torch.tensor((tokens >= first) & (tokens < first + held))[:, None]
    row = torch.tensor(numpy.clip(tokens - first, 0, held - 1)).long()
    case.check("out", out, 1.5 * table64[row] * mine + position64[torch.tensor(places).long()])


def embedding(case, batch=3, length=14, width=40, vocabulary=11):
    rows = batch * length
    tokens = case.rng.integers(0, vocabulary, rows).astype(numpy.int32)
    table, table64 = case.random(vocabulary, width)
    position, position64 = case.random(length, width)
    out = case.out(rows, width)
    case.plugin.run("run_embed", "embed", type=case.dtype, scale=1.5, rows=rows, length=length, width=width,
                    num_tokens=vocabulary, tokens=case.plugin.array(tokens), table=table, position=position, out=out)
    out64 = 1.5 * table64[torch.tensor(tokens).long()] + position64[torch.arange(rows) % length]
    case.check("out", out, out64)
    order = numpy.argsort(tokens, kind="stable").astype(numpy.int32)
    distinct, begins = numpy.unique(tokens[order], return_index=True)
    dout, dout64 = case.random(rows, width)
    dtable, dposition = case.zeros(vocabulary, width), case.zeros(length, width)
    case.plugin.run("run_embed_backward", "embed_backward", type=case.dtype, scale=1.5, rows=rows, length=length, width=width,
                    num_buckets=len(distinct), tokens=case.plugin.array(distinct.astype(numpy.int32)),
                    begins=case.plugin.array(numpy.append(begins, rows).astype(numpy.int32)), order=case.plugin.array(order),
                    dout=dout, dtable=dtable, dposition=dposition)
    out64.backward(dout64.detach())
    case.check("dtable", dtable, table64.grad)
    case.check("dposition", dposition, position64.grad)


def adamw(case, count=1000):
    w, w64 = case.random(count, dtype=F32)
    g, g64 = case.random(count, dtype=F32)
    m, m64 = case.random(count, dtype=F32, scale=0.1)
    v_host = numpy.abs(case.rng.standard_normal(count)).astype(numpy.float32) * 0.01
    v, copy = case.plugin.array(v_host), case.out(count, dtype=BF16)
    step, rate, decay, scale = 3, 1e-2, 0.1, 0.5
    row = {"count": count, "values": w, "gradient": g, "m": m, "v": v, "copy": copy, "decays": 1}
    case.plugin.adamw([row], gradient_scale=scale, beta1=0.9, beta2=0.95, epsilon=1e-8, step_size=rate / (1 - 0.9**step),
                      inverse_sqrt_bias2=1 / math.sqrt(1 - 0.95**step), decay=rate * decay)
    with torch.no_grad():
        g64 = g64 * scale
        m64 = 0.9 * m64 + 0.1 * g64
        v64 = 0.95 * torch.tensor(v_host, dtype=torch.float64) + 0.05 * g64**2
        w64 = w64 - rate * decay * w64 - rate * (m64 / (1 - 0.9**step)) / ((v64 / (1 - 0.95**step)).sqrt() + 1e-8)
    case.check("w", w, w64)
    case.check("m", m, m64)
    case.check("v", v, v64)
    case.check("copy", copy, torch.tensor(from_bfloat16(to_bfloat16(w.numpy())).astype(numpy.float64)))


def cases(large):
    """(name, types, function): the most telling first."""
    both, half = (F32, BF16), (BF16,)
    yield "matmul", both, matmul
    yield "weight gradient", both, weight_gradient
    yield "attention grouped", both, attention
    yield "attention alibi", both, lambda c: attention(c, alibi=True)
    yield "attention odd head", both, lambda c: attention(c, head_dim=10, length=33, kv_heads=1)
    yield "attention documents", both, lambda c: attention(c, documents=(40, 2, 28, 64, 6))
    yield "attention dropout", both, lambda c: attention(c, documents=(33, 37, 70), rate=0.2)
    yield "attention plain", half, lambda c: attention(c, kernels="PLAIN", head_dim=64)
    yield "layer norm", both, norm
    yield "rms norm of heads", both, lambda c: norm(c, rms=True, group=3, n=32)
    yield "norm odd rows", both, lambda c: norm(c, n=13)
    yield "activations", both, activations
    yield "rope", both, rope
    yield "rope of documents", both, lambda c: rope(c, documents=(3, 17, 20))
    yield "dropout", both, dropout
    yield "dropout of some rows", both, lambda c: dropout(c, first_row=5, rows=9)
    yield "cross entropy", both, cross_entropy
    yield "shared cross entropy", both, shared_cross_entropy
    yield "embedding", both, embedding
    yield "part of embedding", both, part_of_embedding
    yield "adamw", (F32,), adamw
    if large:
        yield "attention 124M", half, lambda c: attention(c, batch=2, length=1024, heads=12, kv_heads=12, head_dim=64)
        yield "attention llama", half, lambda c: attention(c, batch=1, length=1024, heads=8, kv_heads=2, head_dim=128)
        yield "matmul large", both, lambda c: matmul(c, 1024, 768, 3072)
        yield "norm large", both, lambda c: norm(c, rows=4096, n=1600)
        yield "cross entropy gpt2", both, lambda c: cross_entropy(c, rows=64, n=50257, ld=50304)


def run_all(plugin, seed, budget, large, write=lambda results: None):
    """Results as dictionaries; those that did not fit into the budget have no error. `write` is given those so far, often."""
    results, start = [], time.monotonic()
    for name, types, function in cases(large):
        for dtype in types:
            result = {"operation": name, "type": "f32" if dtype == F32 else "bf16", "bound": BOUNDS[dtype]}
            write(results)
            results.append(result)
            if time.monotonic() - start > budget:
                result["skipped"] = "no time left"
                continue
            case = Case(plugin, dtype, numpy.random.default_rng(seed))
            try:
                function(case)
                result["errors"] = case.errors
                result["worst"] = max(case.errors.values())
                result["ok"] = result["worst"] <= BOUNDS[dtype]
            except PluginError as failure:
                result.update(ok=False, failure=str(failure))
            plugin.release()
    write(results)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plugin")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    parser.add_argument("--budget", type=float, default=240)
    parser.add_argument("--json")
    parser.add_argument("--large", action="store_true")
    arguments = parser.parse_args()
    try:
        plugin = Plugin(arguments.plugin)
    except (OSError, PluginError) as failure:
        print(f"skipped: {failure}")
        return 77

    def write(results):
        if arguments.json:
            with open(arguments.json + ".new", "w", encoding="utf-8") as file:
                json.dump({"seed": arguments.seed, "results": results}, file, indent=1)
            os.replace(arguments.json + ".new", arguments.json)

    results = run_all(plugin, arguments.seed, arguments.budget, arguments.large, write)
    for r in results:
        state = "skipped: " + r["skipped"] if "skipped" in r else ("ok" if r["ok"] else "WRONG")
        print(f"{r['operation']:20} {r['type']:5} {r.get('worst', math.nan):9.2e} of {r['bound']:.0e}  {state} {r.get('failure', '')}")
        if not r.get("ok", True):
            print("   ", {k: f"{v:.2e}" for k, v in r.get("errors", {}).items()})
    wrong = sum(1 for r in results if not r.get("ok", True))
    print(f"seed {arguments.seed}: {len(results) - wrong} of {len(results)} within bounds or skipped")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
