"""The shapes of a VLM, read off its transformers configuration, for ``svdprune_ext.estimate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from svdprune_ext.estimate import Blocks, Shape, check

# Decoders of four attention projections and three MLP matrices a layer, without experts.
GATED_DECODERS = ("llama", "mistral", "qwen2", "qwen3", "qwen2_5_vl_text", "gemma3_text")


def read_config(model: str) -> Any:
    """The transformers configuration of a folder, a config.json or a hub id that is cached here.

    Raises:
        ValueError: There is none.
    """
    from transformers import AutoConfig

    path = Path(model).expanduser()
    place = str(path) if path.exists() else model
    try:
        return AutoConfig.from_pretrained(place, local_files_only=True)
    except Exception as error:  # of any type: what fails is up to the configuration's class
        reason = " ".join(str(error).split())[:200]
        if path.is_dir() and not (path / "config.json").is_file():
            reason = "the folder has no config.json"
        elif not path.exists() and isinstance(error, OSError):
            reason = "there is no such file, and no such id in the cache; nothing is downloaded"
        raise ValueError(
            f"--model: must be a folder, a config.json or a hub id that is cached here, got {model} "
            f"({reason})"
        ) from error


def shape_of(config: Any, image_size: tuple[int, int] | None = None) -> Shape:
    """Reads a transformers configuration.

    Args:
        config: Of a LLaVA, LLaVA-NeXT, Qwen2.5-VL or Gemma 3 model.
        image_size: Height and width of the image in pixels, for models whose number of tokens depends on
            it: LLaVA-NeXT, as the photograph is; Qwen2.5-VL, as its processor resizes it.

    Raises:
        ValueError: The model is another, or the configuration lacks what is needed.
    """
    kind = getattr(config, "model_type", type(config).__name__)
    if kind not in _READERS:
        raise ValueError(f"--model: must be of type {', '.join(_READERS)}, got {kind!r}")
    sized = kind in ("llava_next", "qwen2_5_vl")
    if sized and (image_size is None or min(image_size) < 1):
        raise ValueError(
            f"--image-size: must be HEIGHTxWIDTH in pixels for {kind}, got {image_size}"
        )
    if image_size is not None and not sized:
        raise ValueError(f"--image-size: {kind} resizes every image alike; leave it out")
    decoder = _value(config, "text_config.model_type")
    if decoder not in GATED_DECODERS:
        raise ValueError(
            f"--model: text_config.model_type must be one of {', '.join(GATED_DECODERS)}, got {decoder!r}"
        )
    return _READERS[kind](config, image_size)


def _llava(config: Any, image_size: tuple[int, int] | None) -> Shape:
    flops, tokens = _square_tower(config)
    tokens -= _value(config, "vision_feature_select_strategy") == "default"
    return _shape(config, flops, _mlp_projector(config), tokens, tokens)


def _llava_next(config: Any, image_size: tuple[int, int] | None) -> Shape:
    from transformers.image_processing_utils import select_best_resolution

    assert image_size is not None
    flops, tokens = _square_tower(config)
    tokens -= _value(config, "vision_feature_select_strategy") == "default"
    pixels, side = _int(config, "vision_config.image_size"), _patches(config)
    best = select_best_resolution(image_size, _resolutions(config))
    down, across = best[0] // pixels, best[1] // pixels
    rows, columns = _unpadded(down * side, across * side, *image_size)
    views = 1 + down * across
    return _shape(
        config,
        views * flops,
        _mlp_projector(config),
        tokens + rows * columns,
        views * tokens,
        separators=rows,
    )


def _gemma3(config: Any, image_size: tuple[int, int] | None) -> Shape:
    flops = _square_tower(config)[0]
    tokens = _int(config, "mm_tokens_per_image")
    width = _int(config, "vision_config.hidden_size")
    projector = 2 * width * _int(config, "text_config.hidden_size")
    return _shape(config, flops, projector, tokens, tokens, row_by_row=False)


def _qwen2_5_vl(config: Any, image_size: tuple[int, int] | None) -> Shape:
    assert image_size is not None
    vision = "vision_config"
    patch, merge = (
        _int(config, f"{vision}.patch_size"),
        _int(config, f"{vision}.spatial_merge_size"),
    )
    if image_size[0] % (patch * merge) or image_size[1] % (patch * merge):
        raise ValueError(
            f"--image-size: must be multiples of {patch * merge} pixels, as the processor resizes "
            f"images to, got {image_size[0]}x{image_size[1]}"
        )
    height, width = (pixels // (patch * merge) for pixels in image_size)
    side, least = _int(config, f"{vision}.window_size"), patch * merge
    check(f"--model: {vision}.window_size", side >= least, f"at least {least}", side)
    window = side // least
    in_windows = merge**4 * _sum_of_squares(height, window) * _sum_of_squares(width, window)
    patches = merge**2 * height * width
    layers = _int(config, f"{vision}.depth")
    full = len(set(_value(config, f"{vision}.fullatt_block_indexes")) & set(range(layers)))
    features, heads = _int(config, f"{vision}.hidden_size"), _int(config, f"{vision}.num_heads")
    mlp = _int(config, f"{vision}.intermediate_size")
    blocks = Blocks(layers, features, heads, heads, features // heads, mlp, mlp_matrices=3)
    values = _int(config, f"{vision}.in_channels") * _int(config, f"{vision}.temporal_patch_size")
    flops = 2 * patches * values * patch**2 * features
    flops += blocks.flops(patches, full * patches**2 + (layers - full) * in_windows)
    merged = merge**2 * features
    projector = 2 * merged * (merged + _int(config, f"{vision}.out_hidden_size"))
    return _shape(config, flops, projector, height * width, height * width, row_by_row=False)


_READERS = {
    "llava": _llava,
    "llava_next": _llava_next,
    "gemma3": _gemma3,
    "qwen2_5_vl": _qwen2_5_vl,
}


def _shape(
    config: Any,
    vision: int,
    projector: int,
    tokens: int,
    projected: int,
    separators: int = 0,
    row_by_row: bool = True,
) -> Shape:
    width, heads = (
        _int(config, "text_config.hidden_size"),
        _int(config, "text_config.num_attention_heads"),
    )
    text = config.text_config
    language = Blocks(
        layers=_int(config, "text_config.num_hidden_layers"),
        width=width,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_width=getattr(text, "head_dim", None) or width // heads,
        mlp_width=_int(config, "text_config.intermediate_size"),
        mlp_matrices=3,
    )
    vocabulary = _int(config, "text_config.vocab_size")
    window = getattr(text, "sliding_window", None)
    return Shape(
        vision, projector, projected, row_by_row, tokens, separators, language, vocabulary, window
    )


def _square_tower(config: Any) -> tuple[int, int]:
    """FLOPs of a CLIP or SigLIP tower on one view, and its tokens; all layers run, whichever is read."""
    kind = _value(config, "vision_config.model_type")
    if kind not in ("clip_vision_model", "siglip_vision_model"):
        raise ValueError(f"--model: vision_config must be of CLIP or SigLIP, got {kind!r}")
    head = getattr(config.vision_config, "vision_use_head", True)
    if kind == "siglip_vision_model" and head:
        raise ValueError("--model: vision_config.vision_use_head must be false, got true")
    heads, width = (
        _int(config, f"vision_config.{n}") for n in ("num_attention_heads", "hidden_size")
    )
    layers, mlp = (
        _int(config, f"vision_config.{n}") for n in ("num_hidden_layers", "intermediate_size")
    )
    patches = _patches(config) ** 2
    tokens = patches + (kind == "clip_vision_model")  # [CLS]
    blocks = Blocks(layers, width, heads, heads, width // heads, mlp, mlp_matrices=2)
    values = (
        _int(config, "vision_config.num_channels") * _int(config, "vision_config.patch_size") ** 2
    )
    return 2 * patches * values * width + blocks.flops(tokens), tokens


def _patches(config: Any) -> int:
    return _int(config, "vision_config.image_size") // _int(config, "vision_config.patch_size")


def _mlp_projector(config: Any) -> int:
    layers = _value(config, "vision_feature_layer")
    read = 1 if isinstance(layers, int) else len(layers)
    width = _int(config, "text_config.hidden_size")
    return 2 * width * (read * _int(config, "vision_config.hidden_size") + width)


def _unpadded(rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of a grid of patches that an image fitted into it covers, padding cut off."""
    if width * rows > height * columns:
        covered = int(round(height * columns / width, 7))
        return rows - (rows - covered) // 2 * 2, columns
    covered = int(round(width * rows / height, 7))
    return rows, columns - (columns - covered) // 2 * 2


def _resolutions(config: Any) -> list[Any]:
    found = _value(config, "image_grid_pinpoints")
    right = bool(found) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in found)
    check("--model: image_grid_pinpoints", right, "pairs of height and width", found)
    return list(found)


def _sum_of_squares(length: int, window: int) -> int:
    """Of the lengths of the windows that a length is cut into."""
    return length // window * window**2 + (length % window) ** 2


def _value(config: Any, path: str) -> Any:
    value = config
    for name in path.split("."):
        value = getattr(value, name, None)
        if value is None:
            raise ValueError(f"--model: the configuration must have {path}, and has no {name}")
    return value


def _int(config: Any, path: str) -> int:
    value = _value(config, path)
    check(f"--model: {path}", isinstance(value, int) and value > 0, "a positive int", value)
    return int(value)
