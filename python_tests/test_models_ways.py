"""Every way to run a pruned model does what the README's table of them says."""

import importlib.util
from pathlib import Path

import pytest
import transformers
import ways
import ways_of_weights
from tiny_configs import TINY

from svdprune_ext.models.compatibility import KINDS, NOT_UNPATCHED, WAYS, WORKS, rewritten


def needs(package):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


CHUNKED = pytest.mark.skipif(
    transformers.__version__.startswith("5.17."),
    reason="transformers 5.17 loses the image of a prompt in chunks, unpatched too",
)
RUNS = {**vars(ways), **vars(ways_of_weights)}
MARKS = {
    "chunked_prefill": CHUNKED,
    "torchao": needs("torchao"),
    "bitsandbytes": needs("bitsandbytes"),
    "device_map": needs("accelerate"),
}
CASES = [
    pytest.param(*(way.name, kind), id=f"{way.name}-{kind}", marks=MARKS.get(way.name, ()))
    for kind in KINDS
    for way in WAYS
    if way.name != "aoti_package"  # test_models_export.py
]


@pytest.fixture(scope="module")
def models():
    return {kind: TINY[KINDS[kind].tested].build() for kind in KINDS}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_table_is_true(models, name, kind):
    run, model = RUNS[f"run_{name}"], models[kind]
    answer = next(getattr(way, kind) for way in WAYS if way.name == name)
    if answer == WORKS:
        run(model)
    elif answer == NOT_UNPATCHED:
        with pytest.raises(Exception):  # noqa: B017, PT011  (whatever transformers or torch raise)
            run(model, pruned=False)
    else:
        with pytest.raises(ValueError, match=answer):
            run(model)


def test_the_readme_shows_the_tables():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert rewritten(readme) == readme
