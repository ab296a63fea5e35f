"""A pruned LLaVA as a compiled and as a packaged program: what works, and what is refused."""

import pytest
import torch
from tiny_configs import TINY
from tiny_vlms import batch
from ways import TWO, exported, patched

import svdprune_ext
from svdprune_ext.models.compatibility import KINDS

LLAVA = TINY["LlavaForConditionalGeneration"]


@pytest.fixture(autouse=True)
def _without_compiled_code():
    torch._dynamo.reset()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["causal", "ahead"])
def test_an_aoti_package(tmp_path, kind):
    model = TINY[KINDS[kind].tested].build()
    inputs = batch(model, *TWO)
    with patched(model):
        expected = model(**inputs).logits
        program = exported(model, inputs)
        nodes = [str(node.target) for node in program.graph.nodes]
        assert any("svdprune.prune" in node for node in nodes)
    package = torch._inductor.aoti_compile_and_package(
        program, package_path=str(tmp_path / "vlm.pt2")
    )
    loaded = torch._inductor.aoti_load_package(package)
    torch.testing.assert_close(loaded(inputs), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_compiled_batch_that_drops_unequally_is_stopped():
    model = LLAVA.build()
    # Two images in two rows, but both in one of them.
    inputs = batch(model, (1, "image", 2, "image", 4), (6,))
    with patched(model):
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        with pytest.raises(RuntimeError, match="must drop as many tokens of each prompt"):
            compiled(**inputs)


@torch.no_grad()
@pytest.mark.parametrize("budget", [{"coverage": 0.5}, {"per": "prompt"}], ids=str)
def test_a_budget_that_depends_on_the_scores_is_refused_in_a_full_graph_alone(budget):
    model = LLAVA.build()
    inputs = batch(model, *TWO)
    towers = []
    model.model.vision_tower.register_forward_pre_hook(lambda *_: towers.append(True))
    with svdprune_ext.apply(model, keep=4, **budget):
        expected = model(**inputs).logits
        towers.clear()
        with pytest.raises(torch._dynamo.exc.TorchDynamoException, match="coverage must be None"):
            torch.compile(model, fullgraph=True, backend="eager")(**inputs)
        with pytest.raises(ValueError, match="coverage must be None and per no larger than scope"):
            exported(model, inputs)
        assert not towers
        torch._dynamo.reset()
        in_parts = torch.compile(model, backend="eager")(**inputs).logits
        torch.testing.assert_close(in_parts, expected)


@torch.no_grad()
def test_generate_on_a_compiled_forward_encodes_images_ahead_of_the_graph():
    model = LLAVA.build()
    if not hasattr(model, "_expand_multimodal_outputs"):
        pytest.skip("this transformers encodes images within the step")
    inputs = batch(model, *TWO)
    options = {"max_new_tokens": 3, "do_sample": False}
    forward = model.forward
    with patched(model):
        expected = model.generate(**inputs, **options)
        model.forward = torch.compile(forward, backend="eager")
        assert torch.equal(model.generate(**inputs, **options), expected)
        torch._dynamo.reset()
        model.forward = torch.compile(forward, fullgraph=True, backend="eager")
        with pytest.raises(
            torch._dynamo.exc.TorchDynamoException, match="must be encoded within it"
        ):
            model.generate(**inputs, **options)


@torch.no_grad()
def test_a_compiled_model_is_itself_again_after_removal_and_reset():
    model = LLAVA.build()
    inputs = batch(model, *TWO)
    plain = model(**inputs).logits
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with patched(model):
        torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits)
    torch._dynamo.reset()  # compiled code holds the hooks that it was compiled with
    torch.testing.assert_close(compiled(**inputs).logits, plain)
