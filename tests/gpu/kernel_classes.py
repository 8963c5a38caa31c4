"""The kernels of one GPU's training step by class, on a model's shapes, each with the work that its floor is made of.

Calls and their numbers are the engine's (compute/cuda_block.cc, cuda_stage_ends.cc) for BF16, pre-norm, one microbatch.
Operations count flops (half of an attention is masked); what waits for memory counts the bytes that must move at least
once, so a kernel that reads its input twice is slower than its floor.
"""

import dataclasses
import time

import numpy
from plugin import BF16, CONSTANTS, F32, Array, to_bfloat16

LOGITS_BYTES = 512 << 20  # as compute/cuda_stage_memory.cc cuts the head
MOST_AT_ONCE = 1 << 27  # parameters in one call of AdamW; larger models take its time in proportion
BLOCK = 1 << 22  # random numbers made on the host; larger arrays repeat them

PRODUCTS, ATTENTION, NORMS, ACTIVATION = "products", "attention", "norms", "activation, RoPE"
CLASSIFIER, EMBEDDING, GRADIENTS, ADAMW = "classifier", "embedding", "gradients cleared, norm", "AdamW"
CLASSES = (PRODUCTS, ATTENTION, NORMS, ACTIVATION, CLASSIFIER, EMBEDDING, GRADIENTS, ADAMW)
BY_FLOPS = (PRODUCTS, ATTENTION)


@dataclasses.dataclass
class Model:
    """GPT-2 (biases, learned positions, GELU, tied output) or LLaMA (none, RoPE, SwiGLU, untied)."""

    llama: bool
    layers: int
    width: int
    heads: int
    kv_heads: int
    ffn: int
    vocabulary: int
    length: int
    batch: int

    @property
    def rows(self):
        return self.batch * self.length

    @property
    def head_dim(self):
        return self.width // self.heads

    @property
    def qkv(self):
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def hidden(self):
        return self.ffn * (2 if self.llama else 1)

    @property
    def head_rows(self):
        """Rows whose logits exist at once."""
        return min(self.rows, max(128, LOGITS_BYTES // (2 * self.vocabulary) // 128 * 128))

    def maps(self):
        """(in, out, whether the residual stream is added) of a layer's matrices."""
        return ((self.width, self.qkv, False), (self.width, self.width, True), (self.width, self.hidden, False),
                (self.ffn, self.width, True))

    def num_parameters(self):
        matrices = self.layers * sum(n * out for n, out, _ in self.maps()) + self.vocabulary * self.width
        return matrices + (self.vocabulary if self.llama else self.length) * self.width


@dataclasses.dataclass
class Kernel:
    times: float  # of it in a step
    work: float  # flops or bytes of a call
    call: object


def timed(plugin, call, rounds=5, calls=4):
    """Median seconds of a call, `calls` of them queued at once, the queue drained before and after."""
    call()
    plugin.call("synchronize")
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        plugin.call("synchronize")
        times.append((time.perf_counter() - start) / calls)
    return sorted(times)[len(times) // 2]


class StepKernels:
    """of(class): its kernels one after the other, each with its arrays on the device until release()."""

    def __init__(self, plugin, model):
        self.plugin, self.model, self.rng = plugin, model, numpy.random.default_rng()

    def of(self, name):
        return {PRODUCTS: self.products, ATTENTION: self.attention, NORMS: self.norms, ACTIVATION: self.activation,
                CLASSIFIER: self.classifier, EMBEDDING: self.embedding, GRADIENTS: self.gradients, ADAMW: self.adamw}[name]()

    def random(self, *shape, dtype=BF16):
        """Normal numbers, as they decide what a product draws and so its clock."""
        count = int(numpy.prod(shape))
        block = self.rng.standard_normal(min(count, BLOCK), dtype=numpy.float32)
        block = to_bfloat16(block) if dtype == BF16 else block
        array = Array(self.plugin, count * block.itemsize, shape, block.dtype)
        self.plugin.call("to_device", array.address, block.ctypes.data, block.nbytes)
        done = block.size
        while done < count:
            more = min(done, count - done)
            self.plugin.call("copy", array.at(done), array.address, more * block.itemsize)
            done += more
        return array

    def integers(self, values):
        return self.plugin.array(numpy.asarray(values, numpy.int32))

    def product(self, m, n, k, times, **fields):
        """d (m, n) = op(a) op(b): BF16 factors."""
        transpose_a, transpose_b = fields.get("transpose_a", 0), fields.get("transpose_b", 0)
        out_type = fields.setdefault("out_type", BF16)
        d = self.random(m, n, dtype=out_type)
        if fields.pop("added", False):
            fields["c"] = d if out_type == F32 else self.random(m, n)
        fields.update(a=self.random(m, k), b=self.random(n, k), d=d, lda=m if transpose_a else k, ldb=k if transpose_b else n, ldc=n, ldd=n)
        return Kernel(times, 2.0 * m * n * k, lambda: self.plugin.run("run_matmul", "matmul", type=BF16, m=m, n=n, k=k, **fields))

    def linear(self, rows, n, out, times, added=False, biases=False):
        """A map's three products: forward, the input's gradient, the weight's."""
        bias = {"bias": self.random(out)} if biases else {}
        yield self.product(rows, out, n, times, transpose_b=1, added=added, **bias)
        yield self.product(rows, n, out, times)
        gradient = {"bias_gradient": self.random(out, dtype=F32)} if biases else {}
        yield self.product(out, n, rows, times, transpose_a=1, out_type=F32, added=True, **gradient)

    def products(self):
        m = self.model
        for n, out, added in m.maps():
            yield from self.linear(m.rows, n, out, m.layers, added, not m.llama)
        yield from self.linear(m.head_rows, m.width, m.vocabulary, m.rows / m.head_rows)

    def attention(self):
        m, d = self.model, self.model.head_dim
        qkv, dqkv = self.random(m.rows, m.qkv), self.random(m.rows, m.qkv)
        key, value = m.heads * d, (m.heads + m.kv_heads) * d
        fields = dict(type=BF16, batch=m.batch, length=m.length, heads=m.heads, kv_heads=m.kv_heads, head_dim=d, ld=m.qkv, ld_out=m.width,
                      scale=d**-0.5, q=qkv, k=qkv.at(key), v=qkv.at(value), out=self.random(m.rows, m.width),
                      log_sum=self.random(m.batch, m.heads, m.length, dtype=F32), dout=self.random(m.rows, m.width), dq=dqkv,
                      dk=dqkv.at(key), dv=dqkv.at(value))
        for name, products in (("run_attention", 2), ("run_attention_backward", 5)):
            flops = 2.0 * m.batch * m.heads * m.length**2 * d * products / 2
            yield Kernel(m.layers, flops, lambda name=name: self.plugin.run(name, "attention", **fields))

    def norms(self):
        m, times = self.model, 2 * self.model.layers + 1
        x, y, dx = (self.random(m.rows, m.width) for _ in range(3))
        weight, bias, dweight, dbias = (self.random(m.width, dtype=F32) for _ in range(4))
        fields = dict(type=BF16, rows=m.rows, n=m.width, group=1, x_outer=m.width, x=x, weight=weight,
                      mean=0 if m.llama else self.random(m.rows, dtype=F32), rstd=self.random(m.rows, dtype=F32))
        yield Kernel(times, 4.0 * m.rows * m.width, lambda: self.plugin.run(
            "run_norm", "norm", **fields, epsilon=1e-5, y_outer=m.width, bias=0 if m.llama else bias, y=y))
        yield Kernel(times, 8.0 * m.rows * m.width, lambda: self.plugin.run(
            "run_norm_backward", "norm_backward", **fields, add_dx=1, dy_outer=m.width, dx_outer=m.width, dy=y, dx=dx, dweight=dweight,
            dbias=0 if m.llama else dbias))

    def activation(self):
        m = self.model
        up, dup = self.random(m.rows, m.hidden), self.random(m.rows, m.hidden)
        fields = dict(type=BF16, function=CONSTANTS["TENAX_CUDA_SILU" if m.llama else "TENAX_CUDA_GELU_TANH"], rows=m.rows, n=m.ffn,
                      ld=m.hidden, ld_out=m.ffn, ld_grad=m.hidden, up=up, out=self.random(m.rows, m.ffn), dout=self.random(m.rows, m.ffn),
                      dup=dup)
        if m.llama:
            fields.update(gate=up, up=up.at(m.ffn), dgate=dup, dup=dup.at(m.ffn))
        for name, passed in (("run_activation", m.hidden + m.ffn), ("run_activation_backward", 2 * m.hidden + m.ffn)):
            yield Kernel(m.layers, 2.0 * m.rows * passed, lambda name=name: self.plugin.run(name, "activation", **fields))
        if m.llama:
            heads = m.heads + m.kv_heads
            qkv = self.random(m.rows, m.qkv)
            cosine, sine = (self.random(m.length, m.head_dim // 2, dtype=F32) for _ in range(2))
            yield Kernel(2 * m.layers, 4.0 * m.rows * heads * m.head_dim, lambda: self.plugin.run(
                "run_rope", "rope", type=BF16, rows=m.rows, length=m.length, heads=heads, head_dim=m.head_dim, ld=m.qkv, x=qkv,
                cosine=cosine, sine=sine))

    def classifier(self):
        m, rows = self.model, self.model.head_rows
        logits, targets = self.random(rows, m.vocabulary), self.integers(self.rng.integers(0, m.vocabulary, rows))
        loss, z_term = (self.plugin.array(numpy.zeros(rows)) for _ in range(2))
        yield Kernel(m.rows / rows, 4.0 * rows * m.vocabulary, lambda: self.plugin.run(
            "run_cross_entropy", "cross_entropy", type=BF16, with_gradient=1, rows=rows, n=m.vocabulary, ld=m.vocabulary, logit_scale=1,
            logits=logits, targets=targets, loss=loss, z_term=z_term))

    def embedding(self):
        m = self.model
        tokens = self.rng.integers(0, m.vocabulary, m.rows)
        order = numpy.argsort(tokens, kind="stable")
        distinct, begins = numpy.unique(tokens[order], return_index=True)
        table, out = self.random(m.vocabulary, m.width), self.random(m.rows, m.width)
        position = 0 if m.llama else self.random(m.length, m.width)
        on_device = self.integers(tokens)
        positions = 0 if m.llama else m.length
        yield Kernel(1, 2.0 * m.width * (2 * m.rows + positions), lambda: self.plugin.run(
            "run_embed", "embed", type=BF16, scale=1, rows=m.rows, length=m.length, width=m.width, num_tokens=m.vocabulary,
            tokens=on_device, table=table, position=position, out=out))
        fields = dict(num_buckets=len(distinct), tokens=self.integers(distinct), begins=self.integers(numpy.append(begins, m.rows)),
                      order=self.integers(order), dout=out, dtable=self.random(m.vocabulary, m.width, dtype=F32),
                      dposition=0 if m.llama else self.random(m.length, m.width, dtype=F32))
        yield Kernel(1, m.width * (2.0 * m.rows + 8.0 * (len(distinct) + positions)), lambda: self.plugin.run(
            "run_embed_backward", "embed_backward", type=BF16, scale=1, rows=m.rows, length=m.length, width=m.width, **fields))

    def gradients(self):
        parameters = self.model.num_parameters()
        count = min(parameters, MOST_AT_ONCE)
        x, sums = self.random(count, dtype=F32), self.plugin.array(numpy.zeros(-(-count // 4096)))
        yield Kernel(parameters / count, 4.0 * count, lambda: self.plugin.call("run_chunk_squares", x.address, count, sums.address))
        yield Kernel(parameters / count, 4.0 * count, lambda: self.plugin.call("fill_zero", x.address, 4 * count))

    def adamw(self):
        parameters = self.model.num_parameters()
        count = min(parameters, MOST_AT_ONCE)
        w, g, m, v = (self.random(count, dtype=F32) for _ in range(4))
        copy = self.random(count)
        row = {"count": count, "values": w, "gradient": g, "m": m, "v": v, "copy": copy, "decays": 1}
        yield Kernel(parameters / count, 30.0 * count, lambda: self.plugin.adamw(
            [row], gradient_scale=1, beta1=0.9, beta2=0.95, epsilon=1e-8, step_size=1e-4, inverse_sqrt_bias2=1, decay=1e-5))


def time_class(plugin, model, name, rounds=5):
    """(seconds, work) of a class in a step."""
    seconds = work = 0.0
    try:
        for kernel in StepKernels(plugin, model).of(name):
            seconds += kernel.times * timed(plugin, kernel.call, rounds)
            work += kernel.times * kernel.work
    finally:
        plugin.release()
    return seconds, work
