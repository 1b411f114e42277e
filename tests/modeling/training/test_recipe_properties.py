"""Whatever a recipe holds: arguments, or one sentence."""

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from modeling.training.arguments import TRAINING_ARGUMENTS
from modeling.training.parser import parse_arguments
from processing.errors import UserError
from tests.support.strategies import anything, check_message, few

keys = sorted({name for cls in TRAINING_ARGUMENTS.values() for name in cls.__dataclass_fields__})


@few
@given(st.dictionaries(st.sampled_from(keys), anything, max_size=3) | anything)
@example({"model_type": ["vilt"]})
@example({"deepspeed": "nowhere.json"})
@example({"lr_scheduler_kwargs": "no"})
def test_any_recipe_is_taken_or_refused_in_a_sentence(tmp_path_factory, recipe):
    folder = tmp_path_factory.getbasetemp()
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    try:
        parse_arguments([str(file), "--output_dir", str(folder / "out")])
    except UserError as error:
        check_message(error)


@few
@given(st.binary() | st.text(alphabet="ab:[]{}&*!- \n\t'\"").map(str.encode))
def test_any_bytes_as_a_recipe_are_taken_or_refused_in_a_sentence(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    file = folder / "recipe.yaml"
    file.write_bytes(data)
    try:
        parse_arguments([str(file), "--output_dir", str(folder / "out")])
    except UserError as error:
        check_message(error)
