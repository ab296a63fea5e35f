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


@torch.no_grad()
def test_a_budget_that_only_the_device_knows_breaks_the_graph():
    model = LLAVA.build()
    inputs = batch(model, *TWO)
    with (
        svdprune_ext.apply(model, keep=4, coverage=0.5),
        pytest.raises(torch._dynamo.exc.TorchDynamoException),
    ):
        torch.compile(model, fullgraph=True, backend="eager")(**inputs)


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
