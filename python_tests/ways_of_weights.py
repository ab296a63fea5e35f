"""More ways to run a pruned model: with weights that are quantised, or not all on one device."""

from __future__ import annotations

import copy
import tempfile

import torch
from by_hand import kept_positions, logits_by_hand
from tiny_vlms import IMAGE, batch, tiny_of
from ways import KEEP, ONE, TWO, generated, patched

from svdprune_ext.models.families import family_of


def run_quantised(model):
    int8 = torch.ao.quantization.quantize_dynamic(
        copy.deepcopy(model), {torch.nn.Linear}, dtype=torch.qint8
    )
    inputs = batch(model, *ONE)
    # Its activations are quantised by their range, so the projector has to see all tokens by hand, too.
    with patched(int8, features="projector") as handle, torch.no_grad():
        logits = int8(**inputs).logits
        places = (inputs["input_ids"][0] == IMAGE).nonzero().flatten()
        gone = set(places.tolist()) - set(places[handle.last.indices[0]].tolist())
    kept = torch.tensor([i for i in range(inputs["input_ids"].shape[1]) if i not in gone])
    expected = logits_by_hand(int8, inputs, KEEP, family_of(model).positions, [kept])[0]
    torch.testing.assert_close(logits[0, kept], expected, atol=2e-4, rtol=1e-4)


def equals_by_hand_with(quantised, model):
    """Where weights alone are quantised, each token is computed by itself, by hand as in the model."""
    inputs = batch(model, *ONE)
    weights = dict(quantised.named_parameters())
    with torch.no_grad():
        before = quantised(**inputs).logits
        assert not torch.equal(before, model(**inputs).logits)
        (kept,) = kept_positions(quantised, inputs, KEEP)
        (expected,) = logits_by_hand(quantised, inputs, KEEP, family_of(model).positions)
        with patched(quantised):
            logits = quantised(**inputs).logits
        torch.testing.assert_close(logits[0, kept], expected, atol=2e-4, rtol=1e-4)
        assert torch.equal(quantised(**inputs).logits, before)
    assert all(p is weights[name] for name, p in quantised.named_parameters())


def run_torchao(model):
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantised = copy.deepcopy(model)
    quantize_(quantised, Int8WeightOnlyConfig())
    equals_by_hand_with(quantised, model)


def run_bitsandbytes(model):
    from bitsandbytes.nn import Linear4bit, Params4bit

    quantised = copy.deepcopy(model)
    for layer in quantised.get_decoder().layers:
        for name, linear in [n for n in layer.named_modules() if type(n[1]) is torch.nn.Linear]:
            bias = linear.bias is not None
            four = Linear4bit(linear.in_features, linear.out_features, bias, torch.float32)
            four.weight = Params4bit(linear.weight.data.clone(), requires_grad=False)
            four.bias = linear.bias
            layer.set_submodule(name, four.to("cpu"))  # which quantises
        assert {p.dtype for p in layer.mlp.parameters()} == {torch.uint8}
    equals_by_hand_with(quantised, model)


def run_device_map(model):
    """Without a GPU, what the memory allowed does not hold goes to disk."""
    inputs = batch(model, *TWO)
    with patched(model), torch.no_grad():
        expected = model(**inputs).logits
        tokens = generated(model, inputs)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        there = type(model).from_pretrained(
            folder,
            device_map="auto",
            max_memory={"cpu": 2 * size // 3},
            offload_folder=f"{folder}/offloaded",
        )
        assert set(there.hf_device_map.values()) == {"cpu", "disk"}
        on_disk = {p.device.type for p in there.get_decoder().parameters()}
        assert on_disk == {"cpu", "meta"}, there.hf_device_map
        with patched(there), torch.no_grad():
            assert torch.equal(there(**inputs).logits, expected)
            assert torch.equal(generated(there, inputs), tokens)


def run_two_devices(model):
    """The decoder stands on the meta device, which computes shapes and refuses to mix devices."""
    model = tiny_of(model).build("eager")
    inputs = batch(model, *ONE)
    for part in model.get_decoder().children():
        if part is not model.get_input_embeddings():
            part.to("meta")
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().to("meta"))

    def moved(value):
        if isinstance(value, dict):
            return {key: moved(part) for key, part in value.items()}
        return value.to("meta") if isinstance(value, torch.Tensor) else value

    with patched(model) as handle, torch.no_grad():
        # As accelerate does between a module's hooks and its forward pass.
        model.get_decoder().register_forward_pre_hook(
            lambda _, args, kwargs: (moved(args), moved(kwargs)), with_kwargs=True
        )
        out = model(**inputs)
        assert out.logits.shape[1] == inputs["input_ids"].shape[1]
        assert handle.last.kept[0].device.type == "cpu"
        slots = inputs["input_ids"].shape[1] - handle.last.num_tokens[0] + KEEP
        assert out.past_key_values.get_seq_length() == slots
        model(input_ids=inputs["input_ids"][:, :1], past_key_values=out.past_key_values)
        assert out.past_key_values.get_seq_length() == slots + 1
