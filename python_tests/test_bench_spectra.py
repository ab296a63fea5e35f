"""A model's spectra: features of several families, the prediction, the command. No time is asserted."""

import json
import sys
from pathlib import Path

import pytest
import torch
import transformers
from tiny_configs import TEXT, TINY, TOWER

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import spectra, vision_features  # noqa: E402
from bench.prediction import Calibration, Curve, Prediction, predict  # noqa: E402
from bench.vision_features import VisionModel  # noqa: E402
from svdprune_ext.demo.photo import load_photo  # noqa: E402
from svdprune_ext.demo.random_llava import Shape, build_processor  # noqa: E402
from svdprune_ext.ops import Diagnosis, diagnose  # noqa: E402
from svdprune_ext.reference import oracle_leverage  # noqa: E402

PATCHES = "second-to-last layer, patches alone"
PROJECTED = "before the projector"


def image_processor():
    return build_processor(Shape(image=28, patch=7)).image_processor


def pair_of_towers(family):
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 128}
    config = getattr(transformers, f"{family}Config")(vision_config=TOWER, text_config=text)
    return getattr(transformers, f"{family}Model")(config)


def paligemma():
    return transformers.PaliGemmaForConditionalGeneration(
        transformers.PaliGemmaConfig(
            vision_config=transformers.SiglipVisionConfig(**TOWER),
            text_config=transformers.GemmaConfig(**TEXT, head_dim=12),
            projection_dim=48,
        )
    )


tiny_llava = TINY["LlavaForConditionalGeneration"].build

MODELS = {
    "LLaVA": (tiny_llava, PROJECTED),
    "PaliGemma": (paligemma, PROJECTED),
    "CLIP's tower": (
        lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**TOWER)),
        PATCHES,
    ),
    "SigLIP's tower": (
        lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**TOWER)),
        PATCHES,
    ),
    "CLIP": (lambda: pair_of_towers("CLIP"), PATCHES),
    "SigLIP": (lambda: pair_of_towers("Siglip"), PATCHES),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_llava().save_pretrained(folder)
    build_processor(Shape(image=28, patch=7)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    paths = []
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 255, (40, 50 + seed, 3), dtype=np.uint8)
        paths.append(folder / f"{seed}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


# Features.


def test_features_of_llava_are_what_the_projector_gets(checkpoint, photos):
    vision = vision_features.load(str(checkpoint))
    photo = load_photo(photos[0])[0]
    (x,) = vision.features(photo)
    assert x.shape == (16, 32)
    pixels = image_processor()(images=[photo], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        tower = vision.model.model.vision_tower
        states = tower(pixels, output_hidden_states=True).hidden_states
    torch.testing.assert_close(x, states[-2][0, 1:])


@pytest.mark.parametrize("family", MODELS)
def test_features_of_common_families(family, photos):
    make, source = MODELS[family]
    vision = VisionModel(family, make().eval(), image_processor())
    assert vision.source == source
    (x,) = vision.features(load_photo(photos[0])[0])
    assert x.shape == (16, 32)
    assert x.isfinite().all()
    (other,) = vision.features(load_photo(photos[1])[0])
    assert not torch.equal(x, other)


def test_a_model_without_a_known_projector_gives_what_it_returns():
    class Tiles(torch.nn.Module):
        device, dtype = torch.device("cpu"), torch.float32

        def get_image_features(self, pixel_values):
            return [pixel_values[0, :, :5], pixel_values.expand(2, -1, -1, -1)[:, 0, :7]]

    def process(images, return_tensors):
        return {"pixel_values": torch.ones(1, 3, 8, 8), "num_crops": torch.ones(1)}

    vision = VisionModel("tiles", Tiles(), process)
    assert vision.source == "as get_image_features returns them"
    assert [tuple(x.shape) for x in vision.features(None)] == [(5, 8)] * 3 + [(7, 8)] * 2


def test_a_model_without_tokens_is_refused():
    class Pooled(torch.nn.Module):
        device, dtype = torch.device("cpu"), torch.float32

        def get_image_features(self, pixel_values):
            return pixel_values.flatten()

    vision = VisionModel("pooled", Pooled(), lambda **_: {"pixel_values": torch.ones(1, 3, 8, 8)})
    with pytest.raises(vision_features.NoFeatures, match="Pooled gives no"):
        vision.features(None)


def test_a_bare_tower_loads_from_its_folder(tmp_path, photos):
    tower = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**TOWER)).to(torch.bfloat16)
    tower.save_pretrained(tmp_path)
    image_processor().save_pretrained(tmp_path)
    (x,) = vision_features.load(str(tmp_path)).features(load_photo(photos[0])[0])
    assert x.shape == (16, 32)
    assert x.dtype == torch.bfloat16


# The prediction.


def found(rank, steps, size=100, refined=False, solver="tridiag"):
    counts = (torch.tensor(n, dtype=torch.int32) for n in (rank, steps, size))
    return Diagnosis(*counts, [solver], torch.tensor(refined))


def test_a_curve_is_linear_between_its_points():
    curve = Curve.through([(20, 4.0), (10, 1.0), (20, 2.0), (20, 3.0), (40, 5.0)])
    assert curve.points == [(10, 1.0), (20, 3.0), (40, 5.0)]
    assert [curve.at(x) for x in (0, 10, 15, 20, 30, 40, 50)] == [1, 1, 2, 3, 4, 5, 6]
    assert Curve([(5, 2.0)]).at(9) == 2


def test_the_time_goes_by_the_outcome():
    single = Calibration(Curve([(16, 1.0), (50, 2.0)]), Curve([(60, 8.0), (80, 9.0)]))
    double = Calibration(Curve([(16, 100.0)]), Curve([(60, 200.0)]))
    prediction = Prediction(single, double)
    assert prediction.seconds(found(3, 33)) == 1.5
    assert prediction.seconds(found(70, 100)) == 8.5
    assert prediction.seconds(found(3, 33, refined=True)) == 101.5
    assert prediction.seconds(found(70, 100, refined=True)) == 208.5
    assert prediction.seconds(found(3, 100, solver="eigh")) is None


def test_the_calibration_measures_both_outcomes():
    prediction = predict((48, 64), torch.bfloat16, budget=0.0)
    for calibration in (prediction.single, prediction.double):
        assert calibration.full.points
        assert min(seconds for _, seconds in calibration.full.points) > 0
    assert min(steps for steps, _ in prediction.single.early.points) <= 48 // 2
    x = torch.randn(48, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert prediction.seconds(diagnose(x)) > 0


# The study and its command.


def test_spectra_of_images():
    images = [torch.randn(12, 20, generator=torch.Generator().manual_seed(s)) for s in range(2)]
    images.append(images[0][:9])
    rows = spectra.study(images, (0.5, 0.9), timed=0.9, budget=0.0)
    assert [r["variance"] for r in rows] == [0.5, 0.9]
    for r in rows:
        assert r["ranks"] == [oracle_leverage(x, r["variance"]).rank for x in images]
        assert r["sizes"] == [12, 12, 9]
        assert r["refined"] == [False] * 3
        assert all(rank <= s <= 12 for rank, s in zip(r["ranks"], r["steps"], strict=True))
        assert min(r["predicted"]) > 0
    assert rows[0]["seconds"] is None
    assert min(rows[1]["seconds"]) > 0


def test_the_spread_over_the_images():
    row = {"variance": 0.9, "ranks": [1, 2, 3, 4, 5], "steps": [7] * 5, "sizes": [7, 7, 9, 9, 9]}
    row |= {"refined": [True] + [False] * 4, "seconds": None}
    cells = spectra.cells({**row, "predicted": [1e-3, 2e-3, None, 4e-3, 5e-3]})
    assert cells[:4] == ["0.9", "1 / 2 / 3 / 4 / 5", "7", "7 / 7 / 9 / 9 / 9"]
    assert cells[4:] == ["2 of 5", "1 of 5", "-", "3 ms"]


def test_the_command_prints_and_writes_the_spectra(checkpoint, photos, tmp_path, capsys):
    out = tmp_path / "new" / "spectra.json"
    assert spectra.main([str(checkpoint), *map(str, photos), "--json", str(out)]) == 0
    output = capsys.readouterr().out
    shares = [f"{v:g}" for v in spectra.VARIANCES]
    for text in ("16 x 32, float32, before the projector", "3 images, 3 feature matrices", *shares):
        assert text in output
    result = json.loads(out.read_text())
    assert result["files"] == [path.name for path in photos]
    assert result["shapes"] == [[16, 32]] * 3
    assert [r["seconds"] is not None for r in result["spectra"]] == [
        v == 0.9 for v in spectra.VARIANCES
    ]


def test_the_command_says_what_it_cannot_load(checkpoint, tmp_path, capsys):
    assert spectra.main([str(checkpoint), str(tmp_path / "none.png")]) == 2
    assert "IMAGE: not a readable image" in capsys.readouterr().err


def test_a_folder_that_is_not_there(photos, tmp_path, capsys):
    assert spectra.main([str(tmp_path / "none"), str(photos[0])]) == 2
    assert "bench.spectra: MODEL: no such folder" in capsys.readouterr().err


def test_a_folder_without_a_model(photos, tmp_path, capsys):
    assert spectra.main([str(tmp_path), str(photos[0])]) == 2
    assert "cannot be loaded as a folder or hub id" in capsys.readouterr().err
