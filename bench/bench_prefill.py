"""What does pruning save of a LLaVA's prefill?

On a GPU the model has LLaVA-1.5-7B's shape (CLIP ViT-L/14 at 336 pixels, projector, Llama with 32 layers of
4096) in bfloat16, on a CPU a smaller one in float32 (4 vision layers, Llama with 8 layers of 1024); both with
random weights: times and memory are what a trained checkpoint's would be, text means nothing. A prompt
holds 64 text tokens and one image of 576 vision tokens.

``python -m bench.bench_prefill --json FILE [--device cpu] [--budget SECONDS]``. Rounds alternate between the
budgets K of SVD-Prune and the methods within the decoder; parts are timed in hooks, on a GPU by CUDA events.
Beside each K stands the prefill of as many tokens that the model, unpatched, is handed as embeddings: what it
takes is the shape's, and the rest the patch's.
On a GPU the whole prefill of each K is captured as a CUDA graph, too (``bench.prefill_graph``), last of all.
On a CPU the patch itself is timed, too (``bench.patch_overhead``), for as long again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

import svdprune_ext
from bench import patch_overhead, prefill_graph
from bench.document import write
from bench.prefill_marks import PARTS, Marks, by_hand, marking
from bench.prefill_rows import KEEPS, WITHIN_DECODER, Candidate, arguments_for, of_svd_prune
from bench.timing import describe_machine, median
from svdprune_ext.estimate import estimate
from svdprune_ext.vlm_shapes import shape_of

BATCHES = (1, 8)
TEXT_TOKENS = 64
_IMAGE_TOKEN = 3
_BEFORE_IMAGE = 5  # text tokens in front of the image


@dataclass(frozen=True)
class Sizes:
    """Sizes of the model; the defaults are LLaVA-1.5-7B's."""

    image: int = 336
    patch: int = 14
    vision_width: int = 1024
    vision_inner: int = 4096
    vision_layers: int = 24
    vision_heads: int = 16
    text_width: int = 4096
    text_inner: int = 11008
    text_layers: int = 32
    text_heads: int = 32
    vocabulary: int = 32064

    @classmethod
    def for_cpu(cls) -> Sizes:
        """Small enough for a CPU, and large enough for the time to be in matrix products."""
        return cls(vision_layers=4, text_width=1024, text_inner=2816, text_layers=8, text_heads=8)

    @property
    def vision_tokens(self) -> int:
        """Vision tokens of an image."""
        return (self.image // self.patch) ** 2

    def config(self) -> Any:
        """The model's configuration."""
        from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

        vision = CLIPVisionConfig(
            hidden_size=self.vision_width,
            intermediate_size=self.vision_inner,
            num_hidden_layers=self.vision_layers,
            num_attention_heads=self.vision_heads,
            image_size=self.image,
            patch_size=self.patch,
        )
        text = LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.text_width,
            intermediate_size=self.text_inner,
            num_hidden_layers=self.text_layers,
            num_attention_heads=self.text_heads,
            max_position_embeddings=4096,
        )
        return LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=_IMAGE_TOKEN,
            image_seq_length=self.vision_tokens,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
            tie_word_embeddings=False,
        )

    def flops_row(self, keep: int | Sequence[int]) -> dict[str, float]:
        """FLOPs of one prompt at K kept vision tokens, and what is saved of all of them.

        The projector counts in full throughout, as in SVD-Prune's own account. What a method within the
        decoder adds, a few rows of attention in a few layers, is not counted.

        Args:
            keep: K, or the number of vision tokens of each decoder layer.
        """
        shape = shape_of(self.config())
        full = estimate(shape, text_tokens=TEXT_TOKENS)
        vision = full.vision + full.projector
        of_layers = [keep] * self.text_layers if isinstance(keep, int) else keep
        layer = replace(shape.language, layers=1)
        head = 2 * self.text_width * self.vocabulary
        ours = sum(layer.flops(TEXT_TOKENS + tokens) for tokens in of_layers) + head
        return {
            "language_model": ours,
            "vision": vision,
            "saved_language_model": 1 - ours / full.prefill,
            "saved_with_vision": 1 - (ours + vision) / full.total,
        }


def build_model(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Any:
    """A model with random weights, made on the device."""
    from transformers import LlavaForConditionalGeneration as Llava
    from transformers.initialization import no_init_weights

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        # Parameters come uninitialised and on the device; buffers get their values.
        with device, no_init_weights():
            model = Llava(sizes.config())
    finally:
        torch.set_default_dtype(before)
    _fill(model)
    return model.eval()


@torch.no_grad()
def _fill(model: nn.Module) -> None:
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 or name.endswith("class_embedding"):
            parameter.normal_(std=0.02)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)


def make_inputs(model: Any, sizes: Sizes, images: int) -> dict[str, Tensor]:
    """A batch of prompts, each with one smooth random picture."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(images, 3, 12, 12, generator=generator)
    pixels = interpolate(coarse, size=(sizes.image, sizes.image), mode="bicubic")
    pixels += 0.05 * torch.randn(pixels.shape, generator=generator)
    text = torch.randint(10, sizes.vocabulary, (images, TEXT_TOKENS), generator=generator)
    image = torch.full((images, sizes.vision_tokens), _IMAGE_TOKEN)
    ids = torch.cat([text[:, :_BEFORE_IMAGE], image, text[:, _BEFORE_IMAGE:]], dim=1)
    return {
        "input_ids": ids.to(model.device),
        "attention_mask": torch.ones_like(ids).to(model.device),
        "pixel_values": pixels.to(model.device, model.dtype),
    }


@torch.inference_mode()
def prefill(
    model: Any, inputs: dict[str, Tensor], arguments: dict[str, Any] | None
) -> dict[str, Any]:
    """One prefill with these arguments of ``apply``; None is the model as it is.

    Returns:
        Seconds by part, peak memory in bytes (None without a GPU), mean rank (None without SVD-Prune), the
        number of vision tokens of each layer (None but for methods within the decoder).
    """
    device = model.device
    mark = Marks(device)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    handle = None
    with marking(model, mark) as hook_pruned:
        try:
            if arguments is not None:
                handle = svdprune_ext.apply(model, **arguments)
            hook_pruned()
            model(**inputs, logits_to_keep=1, use_cache=True)
            selection = handle.last if handle is not None else None
        finally:
            if handle is not None:
                handle.remove()
    seconds = mark.seconds()
    has_rank = selection is not None and len(selection.ranks) > 0
    within = None if selection is None else selection.decoder
    return {
        "seconds": seconds,
        "memory": torch.cuda.max_memory_allocated(device) if on_gpu else None,
        "rank": selection.rank.float().mean().item() if has_rank else None,
        "layers": None if within is None else [layer[0] for layer in within.num_tokens],
    }


def measure(
    model: Any,
    sizes: Sizes,
    images: int,
    keeps: tuple[int, ...],
    budget: float,
    within: tuple[Candidate, ...] = (),
) -> list[dict[str, Any]]:
    """Rows of one batch size: at least two alternating rounds after a warm-up, then to the budget."""
    inputs = make_inputs(model, sizes, images)
    candidates = (*of_svd_prune(keeps, sizes.vision_tokens), *within)
    for candidate in candidates:
        prefill(model, inputs, candidate.arguments)
    prompt = model.get_input_embeddings()(inputs["input_ids"]).detach()
    passes: list[list[dict[str, Any]]] = [[] for _ in candidates]
    end = time.monotonic() + budget
    while len(passes[-1]) < 2 or (time.monotonic() < end and len(passes[-1]) < 30):
        for own, candidate in zip(passes, candidates, strict=True):
            own.append(prefill(model, inputs, candidate.arguments))
            if not candidate.is_within:
                own[-1]["by_hand"] = by_hand(model, prompt[:, : TEXT_TOKENS + candidate.keep])
    return [row(sizes, images, c, own) for c, own in zip(candidates, passes, strict=True)]


def row(
    sizes: Sizes, images: int, candidate: Candidate, passes: list[dict[str, Any]]
) -> dict[str, Any]:
    """One row of the result: medians over the passes, and what the formula says."""
    seconds = {part: median([p["seconds"][part] for p in passes]) for part in PARTS}
    if passes[0]["rank"] is None:
        seconds["pruning"] = 0.0  # before the decoder
    layers = passes[0]["layers"]
    return {
        "method": candidate.name,
        "layers": layers,
        "images": images,
        "text_tokens": TEXT_TOKENS,
        "vision_tokens": sizes.vision_tokens,
        "keep": candidate.keep,
        "rank": passes[0]["rank"],
        "seconds": seconds,
        "by_hand": None if candidate.is_within else median([p["by_hand"] for p in passes]),
        "rounds": len(passes),
        "memory": passes[-1]["memory"],
        "flops": sizes.flops_row(candidate.keep if layers is None else layers),
    }


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; exit status 0, or 2 without the GPU asked for."""
    parser = argparse.ArgumentParser(prog="bench.bench_prefill", description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="write the result there")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--budget", type=float, default=30.0, help="seconds of timed rounds")
    options = parser.parse_args(arguments)
    on_cpu = options.device == "cpu"
    if not on_cpu and not torch.cuda.is_available():
        print("bench.bench_prefill: there is no GPU that torch can use", file=sys.stderr)
        return 2
    sizes, batches = (Sizes.for_cpu(), (1,)) if on_cpu else (Sizes(), BATCHES)
    dtype = torch.float32 if on_cpu else torch.bfloat16
    model = build_model(sizes, torch.device(options.device, None if on_cpu else 0), dtype)
    result: dict[str, Any] = {"machine": describe_machine(), "model": asdict(sizes), "rows": []}
    for images in batches:
        share = options.budget / len(batches)
        result["rows"] += measure(model, sizes, images, KEEPS, share, WITHIN_DECODER)
        write(result, options.json)
    if not on_cpu:  # after all else: a capture that fails may leave the device unusable
        for found in result["rows"]:
            if found["method"] == "SVD-Prune":
                found |= prefill_graph.graphed(
                    model,
                    make_inputs(model, sizes, found["images"]),
                    arguments_for(found["keep"], sizes.vision_tokens),
                )
                write(result, options.json)
    if on_cpu:
        result["patch"] = patch_overhead.measure(
            model, make_inputs(model, sizes, 1), options.budget
        )
        write(result, options.json)
    print(json.dumps(result["rows"], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
