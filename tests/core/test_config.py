import pytest
import yaml
from pydantic import ValidationError

from idc.core.config import dot_keys, flatten, load_params, required_sensitivity
from idc.core.errors import InputError


@pytest.fixture
def write_params(project_root, tmp_path):
    def write(section, key, value):
        content = yaml.safe_load((project_root / "params.yaml").read_text(encoding="utf-8"))
        content[section][key] = value
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


def test_load_params_when_given_the_projects_file_then_reads_its_values(project_root):
    params = load_params(project_root / "params.yaml")
    content = yaml.safe_load((project_root / "params.yaml").read_text(encoding="utf-8"))
    assert params.model_dump(mode="json") == content


def test_load_params_when_a_backbone_is_named_twice_then_states_the_rule(write_params):
    path = write_params("model", "backbones", ["resnet50", "resnet50"])
    with pytest.raises(InputError, match="backbones must differ"):
        load_params(path)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("sample", "num_patches", 3),
        ("sample", "num_patches", 0),
        ("sample", "exclude_flags", ["blurred"]),
        ("seeds", "data", -1),
        ("split", "mode", "random"),
        ("split", "fractions", {"val": 0.5, "gate": 0.0, "test": 0.5}),
        ("model", "backbones", []),
        ("model", "dropout", 1.0),
        ("train", "epochs", 0),
        ("train", "learning_rate", 0.0),
        ("augment", "hue", 0.6),
        ("publish", "model_name", "a/b"),
        ("runtime", "num_threads", 0),
    ],
)
def test_load_params_when_a_value_is_out_of_range_then_names_file_and_key(
    write_params, section, key, value
):
    path = write_params(section, key, value)
    with pytest.raises(InputError) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path}: {section}.{key}")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("youden", "youden"),
        (" f1 ", "f1"),
        ("sensitivity >= 0.9", "sensitivity >= 0.9"),
        ("  sensitivity>=.95 ", "sensitivity >= .95"),
        ("sensitivity  >=  1", "sensitivity >= 1"),
    ],
)
def test_load_params_when_a_threshold_rule_is_spelt_freely_then_reads_one_spelling(
    write_params, written, read
):
    params = load_params(write_params("evaluate", "threshold_rule", written))
    assert params.evaluate.threshold_rule == read


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("best", "a rule is youden, f1 or such as `sensitivity >= 0.9`"),
        ("sensitivity > 0.9", "a rule is youden, f1 or such as"),
        ("sensitivity >= 90 %", "a rule is youden, f1 or such as"),
        ("sensitivity >= 90", "must be above 0 and at most 1, not 90"),
        ("sensitivity >= 0.0", "must be above 0 and at most 1, not 0.0"),
        (0.9, "string"),
    ],
)
def test_load_params_when_the_threshold_rule_is_none_then_says_which_there_are(
    write_params, rule, message
):
    path = write_params("evaluate", "threshold_rule", rule)
    with pytest.raises(InputError) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path}: evaluate.threshold_rule = {rule!r}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "required"),
    [("youden", None), ("f1", None), ("sensitivity >= 0.9", 0.9), ("sensitivity>=1.", 1.0)],
)
def test_required_sensitivity_when_the_rule_is_known_then_returns_what_it_asks(rule, required):
    assert required_sensitivity(rule) == required


def test_load_params_when_a_key_is_unknown_then_asks_to_remove_it(write_params):
    path = write_params("train", "epochz", 3)
    with pytest.raises(InputError, match=r"train\.epochz is not a parameter"):
        load_params(path)


def test_load_params_when_a_section_is_missing_then_names_it(project_root, tmp_path):
    content = yaml.safe_load((project_root / "params.yaml").read_text(encoding="utf-8"))
    del content["explain"]
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(InputError, match="explain is missing"):
        load_params(path)


def test_load_params_when_two_values_are_wrong_then_gives_one_line_each(project_root, tmp_path):
    content = yaml.safe_load((project_root / "params.yaml").read_text(encoding="utf-8"))
    content["train"]["epochs"] = 0
    content["model"]["dropout"] = 2.0
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_params(path)
    assert len(str(caught.value).splitlines()) == 2


def test_load_params_when_the_file_is_missing_then_says_where_to_run(tmp_path):
    with pytest.raises(InputError, match="is missing"):
        load_params(tmp_path / "params.yaml")


def test_load_params_when_the_file_is_not_yaml_then_says_so_in_one_line(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("train: [1,\n", encoding="utf-8")
    with pytest.raises(InputError, match="is not YAML") as caught:
        load_params(path)
    assert len(str(caught.value).splitlines()) == 1


def test_load_params_when_the_file_is_empty_then_refuses_it(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="the whole file"):
        load_params(path)


def test_params_when_assigned_to_then_stay_frozen(change_params):
    with pytest.raises(ValidationError):
        change_params().train.epochs = 5


def test_flatten_when_values_are_nested_then_gives_dotted_keys(change_params):
    flat = flatten(change_params(split={"fractions": {"val": 0.25, "gate": 0.0, "test": 0.5}}))
    assert flat["split.fractions.val"] == "0.25"


def test_flatten_when_a_value_is_a_list_then_joins_it_by_commas(change_params):
    flat = flatten(change_params(model={"backbones": ["test_resnet", "test_efficientnet"]}))
    assert flat["model.backbones"] == "test_resnet,test_efficientnet"


def test_params_when_counted_then_are_seventy_at_most(project_root):
    content = yaml.safe_load((project_root / "params.yaml").read_text(encoding="utf-8"))
    assert len(dot_keys(content)) <= 70
