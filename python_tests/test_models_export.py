"""A pruned LLaVA as a compiled and as a packaged program: what works, and what is refused."""

import pytest
import torch
from tiny_configs import TINY
from tiny_vlms import batch
from ways import TWO, exported, patched

import svdprune_ext

LLAVA = TINY["LlavaForConditionalGeneration"]


@pytest.fixture(autouse=True)
def _without_compiled_code():
    torch._dynamo.reset()


@torch.no_grad()
def test_an_aoti_package(tmp_path):
    model = LLAVA.build()
    inputs = batch(model, *TWO)
    with patched(model):
        expected = model(**inputs).logits
        program = exported(model, inputs)
        nodes = [str(node.target) for node in program.graph.nodes]
        assert any("svdprune.leverage_scores" in node for node in nodes)
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


@pytest.mark.parametrize("options", [{"coverage": 0.5}, {"per": "prompt"}])
@torch.no_grad()
def test_a_budget_that_only_the_device_knows_breaks_the_graph(options):
    model = LLAVA.build()
    inputs = batch(model, *TWO)
    with svdprune_ext.apply(model, keep=4, **options):
        expected = model(**inputs).logits
        with pytest.raises(torch._dynamo.exc.TorchDynamoException):
            torch.compile(model, fullgraph=True, backend="eager")(**inputs)
        torch._dynamo.reset()
        broken = torch.compile(model, backend="eager")
        torch.testing.assert_close(broken(**inputs).logits, expected)


@torch.no_grad()
def test_a_compiled_text_prompt_and_removal():
    model = LLAVA.build()
    inputs, text = batch(model, *TWO), batch(model, (9,), (4,))
    plain, plain_text = model(**inputs).logits, model(**text).logits
    with patched(model):
        pruned = model(**inputs).logits
        compiled = torch.compile(model, backend="eager")
        torch.testing.assert_close(compiled(**text).logits, plain_text)
        torch.testing.assert_close(compiled(**inputs).logits, pruned)
    torch._dynamo.reset()  # compiled code holds the hooks that it was compiled with
    torch.testing.assert_close(compiled(**inputs).logits, plain)
