#!/usr/bin/python3
"""Logits of a model that `tenax checkpoint export` wrote, computed as Hugging Face's transformers do.

Usage: exported_logits.py FOLDER TOKEN... prints the logits after the last token, one a line; exits 77 without numpy.
Reads safetensors files and config.json by their published descriptions and computes in double: GPT-2 with Conv1D layers,
LLaMA with rotated halves. It shares no code, names or conventions with Tenax's own engine.
"""
import json
import math
import pathlib
import struct
import sys

try:
    import numpy as np
except ImportError:
    sys.exit(77)


def read_file(path):
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    data = raw[8 + length:]
    tensors = {}
    for name, entry in json.loads(raw[8:8 + length]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        piece = data[begin:end]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(piece, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(piece, {"F32": "<f4", "F16": "<f2"}[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"]).astype(np.float64)
    return tensors


def read_model(folder):
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return read_file(folder / "model.safetensors")
    tensors = {}
    weight_map = json.loads(index.read_text())["weight_map"]
    for file in sorted(set(weight_map.values())):
        tensors |= read_file(folder / file)
    assert sorted(tensors) == sorted(weight_map), "the index names other tensors than the files hold"
    return tensors


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


erf = np.vectorize(math.erf)
ACTIVATIONS = {
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu": lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def attend(q, k, v):
    """(heads, T, D) each."""
    length = q.shape[1]
    scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[2])
    scores = np.where(np.tril(np.ones((length, length), bool)), scores, -np.inf)
    return (softmax(scores) @ v).transpose(1, 0, 2).reshape(length, -1)


def gpt2(config, w, tokens):
    def norm(name, x):
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + config["layer_norm_epsilon"])
        return centred / deviation * w[name + ".weight"] + w[name + ".bias"]

    def conv1d(name, x):
        return x @ w[name + ".weight"] + w[name + ".bias"]

    def heads(x):
        return x.reshape(len(x), config["n_head"], -1).transpose(1, 0, 2)

    x = w["transformer.wte.weight"][tokens] + w["transformer.wpe.weight"][: len(tokens)]
    for i in range(config["n_layer"]):
        p = f"transformer.h.{i}."
        q, k, v = np.split(conv1d(p + "attn.c_attn", norm(p + "ln_1", x)), 3, axis=-1)
        x = x + conv1d(p + "attn.c_proj", attend(heads(q), heads(k), heads(v)))
        hidden = ACTIVATIONS[config["activation_function"]](conv1d(p + "mlp.c_fc", norm(p + "ln_2", x)))
        x = x + conv1d(p + "mlp.c_proj", hidden)
    x = norm("transformer.ln_f", x)
    return x @ w["transformer.wte.weight" if config["tie_word_embeddings"] else "lm_head.weight"].T


def llama(config, w, tokens):
    dim = config["head_dim"]

    def norm(name, x):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config["rms_norm_eps"]) * w[name + ".weight"]

    def linear(name, x):
        bias = w.get(name + ".bias")
        return x @ w[name + ".weight"].T + (0 if bias is None else bias)

    def heads(x):
        return x.reshape(len(x), -1, dim).transpose(1, 0, 2)

    def rotate(x):
        frequencies = config["rope_theta"] ** (-np.arange(0, dim, 2) / dim)
        angles = np.outer(np.arange(x.shape[1]), frequencies)
        angles = np.concatenate([angles, angles], -1)
        rotated = np.concatenate([-x[..., dim // 2:], x[..., : dim // 2]], -1)
        return x * np.cos(angles) + rotated * np.sin(angles)

    x = w["model.embed_tokens.weight"][tokens]
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        y = norm(p + "input_layernorm", x)
        q, k = (rotate(heads(linear(p + f"self_attn.{n}_proj", y))) for n in "qk")
        v = heads(linear(p + "self_attn.v_proj", y))
        groups = config["num_attention_heads"] // config["num_key_value_heads"]
        x = x + linear(p + "self_attn.o_proj", attend(q, k.repeat(groups, 0), v.repeat(groups, 0)))
        y = norm(p + "post_attention_layernorm", x)
        gate = ACTIVATIONS[config["hidden_act"]](linear(p + "mlp.gate_proj", y))
        x = x + linear(p + "mlp.down_proj", gate * linear(p + "mlp.up_proj", y))
    x = norm("model.norm", x)
    return x @ w["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"].T


def main():
    folder = pathlib.Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_text())
    forward = {"gpt2": gpt2, "llama": llama}[config["model_type"]]
    for logit in forward(config, read_model(folder), [int(t) for t in sys.argv[2:]])[-1]:
        print(repr(float(logit)))


main()
