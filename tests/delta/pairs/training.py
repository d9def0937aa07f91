"""A small language model in NumPy, really trained: tokens are embedded, mixed by residual layers and classified.

Its updates have what updates of real networks have: dense ones of the layers, sparse ones of the embedding, rows that
only weight decay touches. Deterministic: everything is drawn from one generator.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class Size:
    """Tokens, width of a layer, layers."""

    tokens: int
    width: int
    layers: int
    classes: int = 32
    words: int = 12
    batch: int = 16


SMALL = Size(tokens=1_500, width=64, layers=2)
FULL = Size(tokens=10_000, width=192, layers=6)
# Where a general byte-wise codec takes minutes: 83 MB of float32.
LARGE = Size(tokens=40_000, width=256, layers=20)


def init(size: Size, dice: np.random.Generator) -> Weights:
    """Random weights, in the order in which a file has them."""

    def normal(*shape: int) -> np.ndarray:
        return (dice.standard_normal(shape, dtype=np.float32) * np.float32(shape[-1] ** -0.5)).astype(np.float32)

    weights: Weights = {"embed.weight": normal(size.tokens, size.width)}
    for layer in range(size.layers):
        weights[f"layers.{layer}.norm.weight"] = np.ones(size.width, np.float32)
        weights[f"layers.{layer}.up.weight"] = normal(4 * size.width, size.width)
        weights[f"layers.{layer}.up.bias"] = np.zeros(4 * size.width, np.float32)
        weights[f"layers.{layer}.down.weight"] = normal(size.width, 4 * size.width) * np.float32(0.5)
        weights[f"layers.{layer}.down.bias"] = np.zeros(size.width, np.float32)
    weights["head.weight"] = normal(size.classes, size.width)
    weights["head.bias"] = np.zeros(size.classes, np.float32)
    return weights


def batches(size: Size, dice: np.random.Generator, steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sentences whose words follow Zipf's law, and the classes that a fixed rule gives them."""
    rule = np.random.default_rng(99).integers(0, size.classes, size.tokens)
    for _ in range(steps):
        words = np.minimum(dice.zipf(1.3, (size.batch, size.words)), size.tokens) - 1
        yield words, rule[words[:, 0]]


def gradients(size: Size, weights: Weights, words: np.ndarray, classes: np.ndarray) -> Weights:
    """Of the mean cross-entropy, by hand: mean of embeddings, pre-norm residual layers with ReLU, a linear head."""
    x = weights["embed.weight"][words].mean(axis=1)
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    for layer in range(size.layers):
        root = np.sqrt((x * x).mean(axis=1, keepdims=True) + np.float32(1e-5))
        normed = x / root
        scaled = normed * weights[f"layers.{layer}.norm.weight"]
        hidden = np.maximum(scaled @ weights[f"layers.{layer}.up.weight"].T + weights[f"layers.{layer}.up.bias"], 0)
        kept.append((root, normed, scaled, hidden))
        x = x + hidden @ weights[f"layers.{layer}.down.weight"].T + weights[f"layers.{layer}.down.bias"]
    logits = x @ weights["head.weight"].T + weights["head.bias"]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    wrong = odds / odds.sum(axis=1, keepdims=True)
    wrong[np.arange(len(classes)), classes] -= 1
    wrong /= np.float32(len(classes))
    found: Weights = {"head.weight": wrong.T @ x, "head.bias": wrong.sum(axis=0)}
    back = wrong @ weights["head.weight"]
    for layer in reversed(range(size.layers)):
        root, normed, scaled, hidden = kept[layer]
        found[f"layers.{layer}.down.weight"] = back.T @ hidden
        found[f"layers.{layer}.down.bias"] = back.sum(axis=0)
        inner = (back @ weights[f"layers.{layer}.down.weight"]) * (hidden > 0)
        found[f"layers.{layer}.up.weight"] = inner.T @ scaled
        found[f"layers.{layer}.up.bias"] = inner.sum(axis=0)
        outer = inner @ weights[f"layers.{layer}.up.weight"]
        found[f"layers.{layer}.norm.weight"] = (outer * normed).sum(axis=0)
        outer = outer * weights[f"layers.{layer}.norm.weight"]
        back = back + (outer - normed * (outer * normed).mean(axis=1, keepdims=True)) / root
    embedding = np.zeros_like(weights["embed.weight"])
    np.add.at(embedding, words.reshape(-1), np.repeat(back / np.float32(words.shape[1]), words.shape[1], axis=0))
    found["embed.weight"] = embedding
    return {name: found[name].astype(np.float32) for name in weights}


def sgd(size: Size, weights: Weights, dice: np.random.Generator, steps: int, rate: float) -> Weights:
    """Weights after some steps of stochastic gradient descent with momentum 0.9."""
    weights = {name: array.copy() for name, array in weights.items()}
    speed = {name: np.zeros_like(array) for name, array in weights.items()}
    for words, classes in batches(size, dice, steps):
        for name, gradient in gradients(size, weights, words, classes).items():
            speed[name] *= np.float32(0.9)
            speed[name] += gradient
            weights[name] -= np.float32(rate) * speed[name]
    return weights


def adamw(
    size: Size,
    weights: Weights,
    dice: np.random.Generator,
    steps: int,
    rate: float,
    *,
    decay: float = 0.01,
    only: str = "",
) -> Weights:
    """Weights after some steps of AdamW, in the order of operations that the common frameworks have."""
    weights = {name: array.copy() for name, array in weights.items()}
    trained = [name for name in weights if name.startswith(only)]
    first = {name: np.zeros_like(weights[name]) for name in trained}
    second = {name: np.zeros_like(weights[name]) for name in trained}
    for step, (words, classes) in enumerate(batches(size, dice, steps), start=1):
        found = gradients(size, weights, words, classes)
        shrink, root = np.float32(1 - rate * decay), np.float32((1 - 0.999**step) ** 0.5)
        for name in trained:
            weights[name] *= shrink
            first[name] += np.float32(0.1) * (found[name] - first[name])
            second[name] *= np.float32(0.999)
            second[name] += np.float32(0.001) * found[name] * found[name]
            stretched = np.sqrt(second[name]) / root + np.float32(1e-8)
            weights[name] -= np.float32(rate / (1 - 0.9**step)) * (first[name] / stretched)
    return weights


def lora(size: Size, weights: Weights, dice: np.random.Generator, steps: int, rate: float, *, rank: int = 8) -> Weights:
    """Weights with low-rank adapters of all layers' matrices trained by plain descent, then merged."""
    names = [name for name in weights if name.startswith("layers.") and name.endswith((".up.weight", ".down.weight"))]
    right = {n: dice.standard_normal((rank, weights[n].shape[1]), dtype=np.float32) / np.float32(8) for n in names}
    left = {n: np.zeros((weights[n].shape[0], rank), np.float32) for n in names}
    merged = dict(weights)
    for words, classes in batches(size, dice, steps):
        for name in names:
            merged[name] = weights[name] + (left[name] @ right[name]) * np.float32(2)
        found = gradients(size, merged, words, classes)
        for name in names:
            step_left, step_right = found[name] @ right[name].T, left[name].T @ found[name]
            left[name] -= np.float32(rate) * step_left
            right[name] -= np.float32(rate) * step_right
    for name in names:
        merged[name] = weights[name] + (left[name] @ right[name]) * np.float32(2)
    return merged
