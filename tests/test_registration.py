"""A method is registered by one line, and says what to cite."""

import pytest
from fresh_process import run_new_python
from places import CHECKOUT

import hf_refseg
from hf_refseg import LavtConfig, LavtForReferringSegmentation, register_method
from hf_refseg.auto import registered_methods


def test_every_method_in_the_folder_of_models_is_registered_and_public() -> None:
    files = {path.stem.removeprefix("modeling_") for path in (CHECKOUT / "modeling").glob("modeling_*.py")}
    assert set(registered_methods()) == {name for name in files if not name.endswith("refseg")}
    for model_class in registered_methods().values():
        for each in (model_class, model_class.config_class):
            assert getattr(hf_refseg, each.__name__) is each and each.__name__ in hf_refseg.__all__


def test_without_torch_the_library_imports_nothing_of_it(tmp_path) -> None:
    """Graphs that were exported run there."""
    code = """
    import sys
    sys.modules["torch"] = None
    import hf_refseg
    print("LavtConfig" in dir(hf_refseg), "load_refseg" in dir(hf_refseg), "transformers" in sys.modules)
    """
    assert run_new_python(code, tmp_path) == "False True False\n"


@pytest.mark.parametrize("model_class", registered_methods().values())
def test_every_method_says_what_to_cite(model_class: type) -> None:
    citation = model_class.config_class.citation
    assert citation.startswith("@") and citation.count("{") == citation.count("}") and "year=" in citation


def test_a_method_without_a_citation_is_not_registered() -> None:
    class OtherConfig(LavtConfig):
        model_type = "other"

    class OtherForReferringSegmentation(LavtForReferringSegmentation):
        config: OtherConfig

    with pytest.raises(ValueError, match="OtherConfig does not say what to cite: give it a `citation`"):
        register_method(OtherForReferringSegmentation)
    assert "other" not in registered_methods()
