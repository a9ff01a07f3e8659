"""From names, YAML and `key=value` to a run: what is asked for is what is trained, and mistakes are named."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from oat_runtime.architecture import ModelConfig
from oat_runtime.errors import ConfigError
from oat_runtime.operating_point import AttackSpec
from training.config import TrainConfig
from training.recipes import RECIPES, dedicated, pgd, slimmable
from training.settings import read_recipe, with_changes

ROOT = Path(__file__).parents[2]


def test_the_page_of_settings_says_what_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location("page_of_settings", ROOT / "tools" / "write_training_settings.py")
    assert spec is not None and spec.loader is not None
    tool = sys.modules["page_of_settings"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.PAGE.read_text() == tool.page(), "run `make settings`"
    of_parts = [f"model.{name}" for name in ModelConfig.model_fields] + [f"attack.{n}" for n in AttackSpec.model_fields]
    named = {*TrainConfig.model_fields} - {"model", "attack"} | {*of_parts}
    assert {setting.name for setting in tool.settings()} == named


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_valid_documented_and_survives_json(name: str) -> None:
    config = read_recipe(name)
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
    assert (RECIPES[name].__doc__ or "").strip()
    wider = name.startswith("gtsrb") or name in (
        "robocup",
        "compare-fast",
        "compare-shared",
        "compare-one-bn",
    )
    ball = {"cifar10-cpu": 9.5, "cifar10-cpu-short": 8.5}.get(name, 9 if wider else 8)
    assert config.attack.epsilon == ball / 255
    assert config.model.lambdas[-1] == 1.0 or len(config.model.lambdas) == 1


def test_the_papers_recipe_is_the_papers() -> None:
    config = read_recipe("cifar10-paper")
    assert (config.model.name, config.epochs, config.lambda_sampling) == ("resnet-34", 200, "discrete")
    assert (config.attack.name, config.attack.step_size, config.num_random_widths) == ("pgd-7", 2 / 255, None)
    assert (config.terms, config.average_decay, config.label_smoothing, config.schedule) == ("both", 0, 0, "cosine")


def test_baselines_differ_in_their_lambdas_and_widths_alone() -> None:
    like = with_changes(
        read_recipe("cifar10-resnet18"), ["clean_share=0.3", "batch_size=511", "lambda_weights=[1, 1, 1, 1, 1, 2]"]
    )
    for config, lambdas, widths in (
        (dedicated(0.2, 0.5, like), (0.2,), (0.5,)),
        (slimmable(1.0, like), (1.0,), like.model.widths),
    ):
        assert (config.model.lambdas, config.model.widths) == (lambdas, widths)
        same = like.model.model_dump() | {"lambdas": lambdas, "widths": widths}
        assert config.model.model_dump() == same
        differing = {k for k, v in config.model_dump().items() if v != like.model_dump()[k]}
        assert differing <= {"model", "num_random_widths", "clean_share", "lambda_weights"}
        assert (config.clean_share, config.lambda_weights) == (0.0, None)


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_a_row_of_the_methods_sets_fits_every_recipe(recipe: str) -> None:
    """Regression: PGD-AT at one λ was refused by most recipes, and no λ=0 by those with fused norms."""
    page = (Path(__file__).parents[2] / "docs/training.md").read_text(encoding="utf-8")
    lines = page.split("\n## Methods\n")[1].split("\n## ")[0].splitlines()
    rows = {line.split("|")[1].strip(): re.findall(r"`([\w.]+=[^`]+)`", line) for line in lines if line.startswith("|")}
    like = RECIPES[recipe]()
    methods = {name: with_changes(like, changes) for name, changes in rows.items() if changes}
    assert methods.keys() == {"OATS", "OAT", "PGD-AT at one λ", "PGD-ATS", "ordinary batch norm", "no λ=0", "TRADES"}
    assert methods["OAT"].model.lambdas == like.model.lambdas
    assert methods["OAT"].model.widths == (1.0,)
    assert methods["PGD-AT at one λ"] == dedicated(0.2, 1.0, like)
    assert methods["PGD-ATS"] == slimmable(0.2, like)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 20])
def test_pgd_can_cross_its_ball(num_steps: int) -> None:
    for epsilon in (4 / 255, 10 / 255):
        attack = pgd(num_steps, epsilon=epsilon)
        assert attack.epsilon == epsilon
        assert attack.num_steps * attack.step_size >= epsilon
    attack = pgd(num_steps)
    assert (attack.step_size == 2 / 255) == (num_steps >= 5)


def test_changes_reach_nested_fields_and_keep_the_rest() -> None:
    before = read_recipe("smoke")
    after = with_changes(before, ["model.lambdas=[0, 0.5, 1]", "model.depth=16", "learning_rate=0.05", "epochs=3"])
    assert after.model.lambdas == (0.0, 0.5, 1.0)
    assert (after.model.depth, after.learning_rate, after.epochs) == (16, 0.05, 3)
    expected = before.model.model_dump() | {"lambdas": (0.0, 0.5, 1.0), "depth": 16}
    assert after.model.model_dump() == expected
    assert with_changes(after, ["num_random_widths=null"]).num_random_widths is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epochs", "expected KEY=VALUE, got 'epochs'"),
        ("epoch=3", "there is no setting 'epoch': did you mean epochs\\?"),
        ("batchsize=3", "there is no setting 'batchsize': did you mean batch_size\\?"),
        ("model.dpeth=3", "there is no setting 'model.dpeth': did you mean model.depth\\?"),
        ("xyz=3", "there is no setting 'xyz': docs/training-settings.md lists all settings"),
        ("model.lambdas=0.2", r"model\.lambdas: expected a list, as in \[0\.2\]$"),
        ("epochs=many", "epochs: Input should be a valid integer"),
        ("model.depth=11", "depth of a wide_resnet must be"),
        ("learning_rate=.nan", "learning_rate"),
        ("num_random_widths=9", "cannot be used: num_random_widths must be at most 2"),
        ("epochs=[[", "epochs: expected a value in YAML"),
        ("epochs=" + "9" * 5000, "epochs: expected a value in YAML"),
        ("dataset=" + "x" * 10**6, "at most 16384 are read"),
        ("epochs=" + "9:" * 250 + "9.0", "expected a value in YAML"),
    ],
)
def test_a_wrong_change_is_named(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_changes(read_recipe("smoke"), [change])


def test_a_yaml_file_changes_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: smoke\nepochs: 7\nmodel:\n  lambdas: [0.0, 0.6, 1.0]\n")
    config = read_recipe(str(path))
    assert (config.epochs, config.model.lambdas, config.model.depth) == (7, (0.0, 0.6, 1.0), 10)
    whole = path.with_name("config.json")
    whole.write_text(TrainConfig(epochs=7, steps=3).model_dump_json(indent=2))
    assert read_recipe(str(whole)) == TrainConfig(epochs=7, steps=3)  # a run's own file says everything


@pytest.mark.parametrize("changes", [["epochs=40", "steps=20"], ["steps=20", "epochs=40"]], ids=str)
def test_epochs_that_steps_would_overrule_are_refused(changes: list[str], tmp_path: Path) -> None:
    """Regression: `--epochs 40 --set steps=20` trained 20 steps without a word."""
    says = "got 40 and 20: give one of them"
    with pytest.raises(ConfigError, match=says):
        with_changes(read_recipe("smoke"), changes)
    with pytest.raises(ConfigError, match=says):
        with_changes(with_changes(read_recipe("smoke"), ["steps=20"]), ["epochs=40"])
    path = tmp_path / "mine.yaml"
    path.write_text("base: smoke\n" + "\n".join(changes).replace("=", ": "))
    with pytest.raises(ConfigError, match=says):
        read_recipe(str(path))
    assert with_changes(read_recipe("smoke"), [*changes, "steps=null"]).epochs == 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: nothing", "there is no recipe 'nothing' for its base: name one of .*, smoke,"),
        ("epochs: 2", "`base: NAME` is missing: name one of .*, smoke,"),
        ("- 1", "expected fields of a recipe, got list"),
        ("a: [", "is not YAML"),
        ("base: smoke\nepoch: 2", "no setting 'epoch': did you mean epochs"),
        ("!!python/object/apply:os.system [true]", "is not YAML"),
        ("a: &a [x]\nb: *a", "needs no references"),
        ("epochs: 1\nepochs: 2", "'epochs' occurs twice"),
        ("[" * 10_000, "more than 8 deep"),
        ("base: smoke\nepochs: " + "9" * 900, "epochs: Input should be less than or equal to 1000000"),
        ("epochs: " + "9" * 5000, "more than 1000 characters"),
        ("epochs: 2001-99-99", "is not YAML"),
        ("epochs: !!timestamp x", "a date or a number in it is none"),
        ("epochs: \udcff", "it is not UTF-8 text"),
        ("- x\n" * 20_000, "larger than 16384 bytes"),
        ("{[1]: 2}", "expected names with values"),
        ("base: [smoke]", r"there is no recipe \['smoke'\]"),
    ],
)
def test_a_wrong_yaml_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(ConfigError, match=message):
        read_recipe(str(path))


def test_no_such_recipe_says_so() -> None:
    with pytest.raises(ConfigError, match="no recipe 'nothing': see oat-train --list"):
        read_recipe("nothing")
    for path in ("mine.yaml", "recipes/mine"):
        with pytest.raises(ConfigError, match=f"no such file '{path}'"):
            read_recipe(path)
