"""How the tiny VLM is trained: each part by itself, and the script from end to end in a few steps."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from bench.tiny_vlm import build, labels, language, muon, packing, pages, start, train
from bench.tiny_vlm.samples import pixel_values
from bench.tiny_vlm.tower import features_of, pooled_of
from svdprune_ext import tiny_vlm
from svdprune_ext.tiny_vlm import glyphs
from svdprune_ext.tiny_vlm.scenes import Scene, Sign, Thing

LENGTH = 200


@pytest.fixture(scope="module")
def processor():
    return build.build_processor()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build.build_model().eval()


@pytest.fixture(scope="module")
def samples():
    return [tiny_vlm.sample(tiny_vlm.TRAIN, index) for index in range(3)]


def test_every_question_and_answer_is_in_the_vocabulary(processor):
    tokenizer = processor.tokenizer
    for split in tiny_vlm.SPLITS.values():
        for index in range(40):
            for question in tiny_vlm.sample(split, index).questions:
                asked = tokenizer.encode(question.text, add_special_tokens=False)
                # One token a word: mentions count words.
                assert len(asked) == len(question.text.split())
                answer = tokenizer.encode(question.answer, add_special_tokens=False)
                assert tokenizer.unk_token_id not in asked + answer
                assert tokenizer.decode(answer) == question.answer


def test_pixels_are_the_processors(processor, samples):
    expected = processor.image_processor([s.image for s in samples], return_tensors="pt")
    torch.testing.assert_close(pixel_values(samples), expected["pixel_values"], atol=1e-6, rtol=0)


def test_packed_questions_are_answered_as_if_asked_alone(model, processor, samples):
    packed = packing.Packer(processor.tokenizer, LENGTH).pack(samples, np.random.default_rng(0))
    with torch.no_grad():
        features = features_of(model.model.vision_tower, pixel_values(samples))[:, 1:]
        _, last = language.run(model, packed, features)
        logits = model.lm_head(last)
        for row, number in ((0, 1), (1, 5), (2, int(packed.owner[2].max()))):
            own = packed.owner[row] == number
            ids = [processor.tokenizer.bos_token_id] + [model.config.image_token_id] * build.TOKENS
            alone = model(
                input_ids=torch.tensor([[*ids, *packed.ids[row][own].tolist()]]),
                pixel_values=pixel_values(samples[row : row + 1]),
            )
            expected = alone.logits[0, packing.PREFIX :]
            torch.testing.assert_close(logits[row][own], expected, atol=1e-4, rtol=1e-4)


def test_packing_asks_whole_questions_and_labels_their_answers(processor, samples):
    packed = packing.Packer(processor.tokenizer, LENGTH).pack(samples, np.random.default_rng(1))
    known = {f"{q.text} {q.answer}" for s in samples for q in s.questions}
    for row in range(len(samples)):
        for number in range(1, int(packed.owner[row].max()) + 1):
            own = packed.owner[row] == number
            text = processor.tokenizer.decode(packed.ids[row][own], skip_special_tokens=True)
            assert text.replace(" ?", "?") in {k.replace(" ?", "?") for k in known}
            answer = packed.labels[row][own]
            answer = answer[answer != packing.IGNORED]
            assert answer[-1] == processor.tokenizer.eos_token_id
            assert torch.equal(answer, packed.ids[row][own][-len(answer) :])


def test_patches_are_labelled_by_what_lies_on_them():
    sign = Sign("7K", "Sans", 2, 3, 50, 70)
    scene = Scene((Thing(2, 4, 20, 36, 10),), sign)
    table = labels.dense_labels(scene).reshape(build.GRID, build.GRID, -1)
    at = dict(zip(labels.DENSE, table[36 // 8, 20 // 8], strict=True))
    assert at == {
        "colour": 3,
        "shape": 5,
        "centre": 1,
        "glyph": 0,
        "slot": 0,
        "column": 2,
        "row": 4,
    }
    assert table[..., list(labels.DENSE).index("centre")].sum() == 1
    seen = {(glyph, slot) for glyph, slot in table[..., 3:5].reshape(-1, 2).tolist() if glyph}
    assert seen == {(glyphs.CHARACTERS.index("7") + 1, 1), (glyphs.CHARACTERS.index("K") + 1, 2)}
    assert labels.tags(scene).nonzero()[0].tolist() == [2, 6 + 4, 12]


def test_the_trained_features_are_those_that_llava_takes(model, samples):
    tower = model.model.vision_tower
    with torch.no_grad():
        whole = tower(pixel_values(samples), output_hidden_states=True)
        hidden = features_of(tower, pixel_values(samples))
        torch.testing.assert_close(hidden, whole.hidden_states[model.config.vision_feature_layer])
        torch.testing.assert_close(pooled_of(tower, hidden), whole.pooler_output)


def test_a_page_shows_four_signs_where_its_labels_say():
    image, table = pages.page(tiny_vlm.TRAIN, 7)
    again, _ = pages.page(tiny_vlm.TRAIN, 7)
    assert np.array_equal(image, again)
    slots = table[:, list(labels.DENSE).index("slot")].reshape(build.GRID, build.GRID)
    for row in range(4):
        assert {1, 2} <= set(slots[3 * row : 3 * row + 3].flatten().tolist())
    assert table[:, list(labels.DENSE).index("colour")].max() == 0
    inked = image.reshape(build.GRID, build.PATCH, build.GRID, build.PATCH, 3).std(axis=(1, 3, 4))
    assert inked[slots > 0].mean() > 2 * inked[slots == 0].mean()


def test_the_first_heads_start_by_looking_at_one_neighbour(model, samples):
    tower = build.build_model().model.vision_tower
    start.start_tower(tower, pixel_values(samples))
    with torch.no_grad():
        hidden = tower.pre_layrnorm(tower.embeddings(pixel_values(samples)))
        layer = tower.encoder.layers[0]
        hidden = layer.layer_norm1(hidden)
        heads = (3, build.TOKENS + 1, 4, build.WIDTH // 4)
        query = layer.self_attn.q_proj(hidden).view(heads)
        key = layer.self_attn.k_proj(hidden).view(heads)
    scores = torch.einsum("nqhd,nkhd->nhqk", query, key)[:, :, 1:, 1:]
    inner = torch.arange(build.TOKENS).view(build.GRID, build.GRID)[1:-1, 1:-1].flatten()
    for head, step in enumerate((1, -1, build.GRID, -build.GRID)):
        looked_at = scores[:, head, inner].argmax(dim=-1)
        assert (looked_at == inner + step).float().mean() > 0.8


@pytest.mark.parametrize("shape", [(24, 24), (64, 16), (16, 48)])
def test_orthogonalising_brings_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(muon.orthogonalise(torch.randn(shape)))
    assert values.max() < 1.3
    assert values.median() > 0.6


def test_the_script_trains_saves_and_evaluates(tmp_path, capsys):
    train.main(["--smoke", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "tower done" in printed
    assert "| read the sign |" in printed
    facts = json.loads((tmp_path / "training.json").read_text())
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    written = " ".join((tmp_path / "README.md").read_text().split())
    assert f"{facts['cpu_minutes']:g} minutes" in written
    assert f"({facts['machine']}), with torch {facts['torch']}" in written
    assert f"| **reading** | {figures['reading']['share']:.3f} |" in written
    assert figures["accuracy"]["count"]["questions"] == figures["images"] == 2
    assert (tmp_path / "model.safetensors").stat().st_size < 8e6
    model, processor = tiny_vlm.load(tmp_path)
    result = tiny_vlm.evaluate(model, processor, tiny_vlm.TRAIN, images=1)
    assert {answer.question.kind for answer in result.answers} <= set(tiny_vlm.KINDS)


def test_the_script_refuses_a_time_that_is_none(tmp_path, capsys):
    with pytest.raises(SystemExit):
        train.main(["--minutes", "0", "--out", str(tmp_path)])
    assert "--minutes" in capsys.readouterr().err
