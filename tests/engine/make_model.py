"""Writes a small language model with random weights, for tests against a real engine.

    python tests/engine/make_model.py OUT.gguf [--layers 12] [--width 512] [--seed 7]

Nothing is downloaded: vocabulary and weights are made here, the same ones for the same seed.
The model speaks fluent nonsense and never ends by itself: the end-of-text token, the control
tokens and the raw bytes have all-zero output rows, so their score is 0 where the best of the
thousand words score 9 and more, and no sampler in use ever picks them. A request therefore
gets exactly as many tokens as it asked for, and every token is visible text: one token, one
chunk on the wire.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

SPACE = "\u2581"
CONTROL = ("<unk>", "<s>", "</s>")
UNKNOWN, BEGIN, END = range(3)
# Each message, then a space: no roles, no markers, so a prompt is as long as its words.
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The dimensions of the model; the defaults give about 40 MFLOP a token, 85 MB on disk."""

    layers: int = 12
    width: int = 512
    inner: int = 1536
    heads: int = 8
    kv_heads: int = 2
    context: int = 4096
    seed: int = 7

    def __post_init__(self) -> None:
        if min(self.layers, self.width, self.inner, self.heads, self.kv_heads, self.context) < 1:
            raise ValueError("making a model: every dimension must be at least 1")
        if self.width % self.heads or self.heads % self.kv_heads or self.width // self.heads % 2:
            raise ValueError(
                f"making a model of width {self.width} with {self.heads} heads and "
                f"{self.kv_heads} key/value heads: width must be an even multiple of heads, "
                "heads a multiple of kv_heads"
            )


def spoken_pieces() -> list[str]:
    """The pieces that the model may say: letters, syllables, and words of two syllables."""
    letters = [SPACE, *"abcdefghijklmnopqrstuvwxyz"]
    syllables = [c + v for c in "bcdfghjklmnprstvwz" for v in "aeiou"]
    openings = [SPACE + syllable for syllable in syllables]
    words = [opening + syllable for opening in openings[:40] for syllable in syllables[:25]]
    return [*letters, *syllables, *openings, *words]


def write_model(path: Path, shape: Shape | None = None) -> None:
    """Write the model to `path`.

    Args:
        path: The file to write; an existing one is replaced.
        shape: The dimensions; `Shape()` where absent.
    """
    shape = shape or Shape()
    writer = gguf.GGUFWriter(path, "llama")
    mute = _add_vocabulary(writer)
    _add_dimensions(writer, shape)
    _add_weights(writer, shape, mute)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter) -> int:
    """Add the tokenizer; returns how many tokens at the head of the vocabulary are never said."""
    kinds = gguf.TokenType
    raw = [f"<0x{byte:02X}>" for byte in range(256)]
    spoken = spoken_pieces()
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*CONTROL, *raw, *spoken])
    # A longer piece scores higher, so the tokenizer prefers whole words.
    writer.add_token_scores([0.0] * (len(CONTROL) + 256) + [float(len(piece)) for piece in spoken])
    writer.add_token_types(
        [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL]
        + [kinds.BYTE] * 256
        + [kinds.NORMAL] * len(spoken)
    )
    writer.add_vocab_size(len(CONTROL) + 256 + len(spoken))
    writer.add_unk_token_id(UNKNOWN)
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    return len(CONTROL) + 256


def _add_dimensions(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_name("random weights")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)


def _add_weights(writer: gguf.GGUFWriter, shape: Shape, mute: int) -> None:
    chance = np.random.default_rng(shape.seed)
    vocabulary = mute + len(spoken_pieces())

    def matrix(name: str, rows: int, columns: int, *, scale: float = 1.0, silent: int = 0) -> None:
        values = chance.standard_normal((rows, columns), dtype=np.float32)
        values *= scale * columns**-0.5
        values[:silent] = 0
        writer.add_tensor(f"{name}.weight", values.astype(np.float16))

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(shape.width, dtype=np.float32))

    kv_width = shape.width // shape.heads * shape.kv_heads
    matrix("token_embd", vocabulary, shape.width, scale=shape.width**0.5)
    # Three times the usual spread: the sampler then has clear favourites, as with real models.
    matrix("output", vocabulary, shape.width, scale=3.0, silent=mute)
    norm("output_norm")
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm")
        norm(f"{block}.ffn_norm")
        matrix(f"{block}.attn_q", shape.width, shape.width)
        matrix(f"{block}.attn_k", kv_width, shape.width)
        matrix(f"{block}.attn_v", kv_width, shape.width)
        matrix(f"{block}.attn_output", shape.width, shape.width)
        matrix(f"{block}.ffn_gate", shape.inner, shape.width)
        matrix(f"{block}.ffn_up", shape.inner, shape.width)
        matrix(f"{block}.ffn_down", shape.width, shape.inner)


def main() -> None:
    """Write the model that the command line describes."""
    default = Shape()
    parser = argparse.ArgumentParser(description="Write a small model with random weights.")
    parser.add_argument("out", type=Path, metavar="OUT.gguf")
    parser.add_argument("--layers", type=int, default=default.layers)
    parser.add_argument("--width", type=int, default=default.width)
    parser.add_argument("--seed", type=int, default=default.seed)
    asked = parser.parse_args()
    write_model(
        asked.out,
        Shape(layers=asked.layers, width=asked.width, inner=3 * asked.width, seed=asked.seed),
    )
    print(f"{asked.out}: {asked.out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
