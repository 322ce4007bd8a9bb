"""Facts about the published Forget-MI checkpoints: every key with its shape, and the arithmetic by key.

Both are written out by hand here, apart from the package's modules, so that the tests pin those down.
"""

import math

import torch
from torch.nn import functional as F

WIDTHS = (8, 16, 32, 64, 128, 192, 192)
PUBLISHED = {
    "num_labels": 4,
    "vocab_size": 31090,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}
SMALL = {
    **PUBLISHED,
    "vocab_size": 60,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
}
# What a config.json of the authors holds beside the sizes.
CONFIG = {
    "attention_probs_dropout_prob": 0.1,
    "classifier_dropout": None,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "output_hidden_states": True,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "transformers_version": "4.45.2",
    "use_cache": True,
}


def config_json(sizes):
    labels = {str(i): f"LABEL_{i}" for i in range(sizes["num_labels"])}
    rest = {name: value for name, value in sizes.items() if name != "num_labels"}
    return {**CONFIG, **rest, "id2label": labels, "label2id": {name: int(i) for i, name in labels.items()}}


def _linear(name, out, into):
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _affine(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _batch_norm(name, width):
    return {
        **_affine(name, width),
        f"{name}.running_mean": (width,),
        f"{name}.running_var": (width,),
        f"{name}.num_batches_tracked": (),
    }


def shapes(sizes):
    """Key to shape, in the order of the file."""
    hidden, inner, classes = sizes["hidden_size"], sizes["intermediate_size"], sizes["num_labels"]
    bert = "text_model.bert"
    found = {
        f"{bert}.embeddings.word_embeddings.weight": (sizes["vocab_size"], hidden),
        f"{bert}.embeddings.position_embeddings.weight": (sizes["max_position_embeddings"], hidden),
        f"{bert}.embeddings.token_type_embeddings.weight": (sizes["type_vocab_size"], hidden),
        **_affine(f"{bert}.embeddings.LayerNorm", hidden),
    }
    for i in range(sizes["num_hidden_layers"]):
        layer = f"{bert}.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            found |= _linear(f"{layer}.attention.self.{part}", hidden, hidden)
        found |= _linear(f"{layer}.attention.output.dense", hidden, hidden)
        found |= _affine(f"{layer}.attention.output.LayerNorm", hidden)
        found |= _linear(f"{layer}.intermediate.dense", inner, hidden)
        found |= _linear(f"{layer}.output.dense", hidden, inner)
        found |= _affine(f"{layer}.output.LayerNorm", hidden)
    found |= _linear(f"{bert}.pooler.dense", hidden, hidden)
    found |= _linear("text_model.classifier", classes, hidden)
    found["img_model.conv1.weight"] = (8, 1, 7, 7)
    found |= _batch_norm("img_model.bn1", 8)
    width = 8
    for stage, wider in enumerate(WIDTHS, start=1):
        for block, into in ((0, width), (1, wider)):
            name = f"img_model.layer{stage}.{block}"
            found[f"{name}.conv1.weight"] = (wider, into, 3, 3)
            found |= _batch_norm(f"{name}.bn1", wider)
            found[f"{name}.conv2.weight"] = (wider, wider, 3, 3)
            found |= _batch_norm(f"{name}.bn2", wider)
            if block == 0:
                found[f"{name}.downsample.0.weight"] = (wider, into, 1, 1)
                found |= _batch_norm(f"{name}.downsample.1", wider)
        width = wider
    found |= _linear("img_model.fc1", classes, 768)
    found |= _linear("classifier", classes, hidden)
    return found


def random_state(sizes, seed=0):
    """Seeded values that leave no layer without effect: no zero bias, no unit scale, no standard batch statistics."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes(sizes).items():
        drawn = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            state[name] = 0.5 + drawn.abs()
        elif len(shape) > 1:
            state[name] = drawn * math.sqrt(2 / math.prod(shape[1:]))
        else:
            state[name] = (1.0 if name.endswith("weight") else 0.0) + 0.2 * drawn
    return state


def image_forward(state, image):
    """(embedding, logits) of the film's branch, in eval mode."""

    def norm(x, name):
        p = f"img_model.{name}"
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{p}.{key}"] for key in keys), training=False, eps=1e-5)

    def conv(x, name, stride, padding):
        return F.conv2d(x, state[f"img_model.{name}.weight"], stride=stride, padding=padding)

    x = F.relu(norm(conv(image, "conv1", 4, 3), "bn1"))
    for stage in range(1, 8):
        for block in (0, 1):
            name, stride = f"layer{stage}.{block}", 1 if block else 2
            y = F.relu(norm(conv(x, f"{name}.conv1", stride, 1), f"{name}.bn1"))
            y = norm(conv(y, f"{name}.conv2", 1, 1), f"{name}.bn2")
            x = F.relu(y + (x if block else norm(conv(x, f"{name}.downsample.0", 2, 0), f"{name}.downsample.1")))
    z = F.avg_pool2d(x, 2, 2).flatten(1)
    return z, F.linear(z, state["img_model.fc1.weight"], state["img_model.fc1.bias"])


def text_forward(state, sizes, ids, mask=None, types=None):
    """(embedding, logits) of the report's branch, in eval mode."""
    mask = torch.ones_like(ids) if mask is None else mask
    types = torch.zeros_like(ids) if types is None else types
    hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]

    def linear(x, name):
        return F.linear(x, state[f"text_model.{name}.weight"], state[f"text_model.{name}.bias"])

    def norm(x, name):
        scale, shift = (state[f"text_model.{name}.LayerNorm.{key}"] for key in ("weight", "bias"))
        return F.layer_norm(x, (hidden,), scale, shift, eps=1e-12)

    def split(x):
        return x.view(*x.shape[:2], heads, hidden // heads).transpose(1, 2)

    table = {
        part: state[f"text_model.bert.embeddings.{part}_embeddings.weight"]
        for part in ("word", "position", "token_type")
    }
    x = table["word"][ids] + table["position"][: ids.shape[1]] + table["token_type"][types]
    x = norm(x, "bert.embeddings")
    for i in range(sizes["num_hidden_layers"]):
        name = f"bert.encoder.layer.{i}"
        q, k, v = (split(linear(x, f"{name}.attention.self.{part}")) for part in ("query", "key", "value"))
        scores = q @ k.transpose(2, 3) / math.sqrt(hidden // heads)
        scores = scores.masked_fill(mask[:, None, None, :] == 0, -math.inf)
        seen = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = norm(x + linear(seen, f"{name}.attention.output.dense"), f"{name}.attention.output")
        inner = F.gelu(linear(x, f"{name}.intermediate.dense"))
        x = norm(x + linear(inner, f"{name}.output.dense"), f"{name}.output")
    z = torch.tanh(linear(x[:, 0], "bert.pooler.dense"))
    return z, linear(z, "classifier")
