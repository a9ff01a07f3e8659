"""Laws of the suites: rows are honest counts, and every suite has its words, its table and its file."""

import importlib
import json
import pkgutil
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from oat_runtime import style
from oat_runtime.data import ImageSet
from oat_runtime.errors import ConfigError, DataError
from oat_runtime.files import parse_json
from oat_runtime.operating_point import OperatingPoint, Proportion
from training.config import TrainConfig
from training.evaluation import cache, suites
from training.evaluation.counting import ATTACKS
from training.evaluation.documents import Document, run_suite
from training.evaluation.judged import Judged, load_judged
from training.evaluation.suite import Job, Result, Suite
from training.evaluation.suites import SUITES, groups, sizes
from training.network import OATNet, folded
from training.recipes import RECIPES, dedicated
from training.settings import with_changes
from training.split import DataRecord, keep_division

Documents = dict[str, Document]


def test_every_count_is_whole_and_its_share_lies_in_its_interval(job: Job, documents: Documents) -> None:
    for name in ("attacks", "unseen", "transfer", "joint", "corruptions"):
        for row in documents[name].rows:
            assert row["num_total"] == len(job.data) and row["accuracy"] == row["num_correct"] / len(job.data)
            assert 0.0 <= row["low_95"] <= row["accuracy"] <= row["high_95"] <= 1.0


def test_clean_counts_are_those_of_the_network_itself(job: Job, documents: Documents) -> None:
    x_NCHW, y_N = next(job.batches())
    for suite in ("attacks", "unseen"):
        for row in documents[suite].rows:
            if row["condition"] == "clean":
                plain = folded(job.judged.model, lam=row["lambda"], width=row["width"])
                assert row["num_correct"] == int((plain(x_NCHW).argmax(dim=1) == y_N).sum())


def test_the_worst_case_is_no_better_than_any_attack(documents: Documents) -> None:
    by_point: dict[tuple[object, object], dict[str, int]] = {}
    for row in documents["attacks"].rows:
        by_point.setdefault((row["lambda"], row["width"]), {})[str(row["condition"])] = row["num_correct"]
    assert len(by_point) == 6
    for counts in by_point.values():
        assert set(counts) == {"clean", "fgsm", "mi-fgsm", "pgd-7", "pgd-20", "apgd-ce", "apgd-t", "worst-case"}
        assert counts["worst-case"] == min(counts.values())


def test_unseen_lambdas_are_networks_of_their_own(documents: Documents) -> None:
    lambdas = {row["lambda"] for row in documents["unseen"].rows if not row["trained"]}
    assert lambdas == {0.15, 0.25, 0.35, 0.5, 0.7, 0.9}
    checks = {check.name: check for check in documents["unseen"].checks}
    differs = checks["logits differ from both neighbours'"]
    assert differs.ok and differs.value is not None and differs.value > 1e-3
    assert checks["outside its neighbours' range"].unit == "share of images"


def test_the_transfer_matrix_is_complete(job: Job, documents: Documents) -> None:
    pairs = [(row["made_at"], row["lambda"]) for row in documents["transfer"].rows]
    assert sorted(pairs) == [(a, b) for a in job.lambdas for b in job.lambdas]
    assert {row["width"] for row in documents["transfer"].rows} == {1.0}


def test_a_joint_attack_reports_every_point_and_the_images_that_any_point_gets_right(
    documents: Documents,
) -> None:
    for name in ("joint", "expectation"):
        of_points = [row for row in documents["joint"].rows if row["condition"] == f"{name} pgd-7"]
        (any_right,) = (r for r in documents["joint"].rows if r["condition"] == f"{name} pgd-7, any point right")
        assert len(of_points) == 6
        assert any_right["num_correct"] >= max(row["num_correct"] for row in of_points)


def test_all_corruptions_are_there_for_every_lambda(documents: Documents) -> None:
    keys = {(row["kind"], row["severity"], row["lambda"]) for row in documents["corruptions"].rows}
    assert len(keys) == len(documents["corruptions"].rows) == 15 * 5 * 3


def test_classes_add_up_to_the_outcomes_of_the_whole_set(job: Job, documents: Documents) -> None:
    rows = documents["classes"].rows
    for lam in (job.lambdas[0], job.lambdas[-1]):
        for condition, attack in (("clean", None), (job.attack.name, job.attack)):
            mine = [row for row in rows if (row["lambda"], row["condition"]) == (lam, condition)]
            correct_N = job.outcomes(OperatingPoint(lam, 1.0), attack=attack)
            assert sum(row["num_correct"] for row in mine) == int(correct_N.sum())
            assert sum(row["num_total"] for row in mine) == len(job.data)
            assert all(sum(row["taken_for"].values()) == row["num_total"] for row in mine)
            for row in mine:
                label = job.data.class_names.index(row["class"])
                assert (
                    row["taken_for"].get(row["class"], 0)
                    == row["num_correct"]
                    == int(correct_N[job.data.labels_N == label].sum())
                )


def test_a_figure_shows_what_images_are_taken_for_also_where_no_image_is_of_that_class() -> None:
    pytest.importorskip("matplotlib")
    taken = {"ball": {"ball": 3, "background": 1}, "robot": {"background": 4}}
    rows = [
        {"lambda": 0.0, "width": 1.0, "condition": "clean", "class": name, "num_total": 4, "taken_for": taken_for}
        for name, taken_for in taken.items()
    ]
    axes, scale = SUITES["classes"].figures["confusion"](rows).axes
    assert axes.images[0].get_array().tolist() == [[75, 0, 25], [0, 0, 100], [None, None, None]]
    assert scale.get_ylabel() == "% of the row"
    shown = [[label.get_text() for label in labels] for labels in (axes.get_xticklabels(), axes.get_yticklabels())]
    assert shown == [["ball", "robot", "background"]] * 2


def test_every_file_of_a_suite_is_in_the_list() -> None:
    files = {module.name for module in pkgutil.iter_modules(suites.__path__)}
    assert files == set(SUITES)
    assert all(importlib.import_module(f"{suites.__name__}.{name}").SUITE is SUITES[name] for name in files)


def test_every_suite_has_a_text_and_a_table(documents: Documents) -> None:
    assert all(suite.title and suite.about and suite.tables for suite in SUITES.values())
    num_rows = {
        name: [table(found.rows).row_count for table in found.suite.tables] for name, found in documents.items()
    }
    by_class, _ = num_rows.pop("classes")
    assert by_class == len({row["class"] for row in documents["classes"].rows})
    assert num_rows == {
        "attacks": [6], "unseen": [18], "transfer": [3], "joint": [7], "corruptions": [16], "calibration": [6],
        "inside": [2, 3],
    }  # fmt: skip
    texts = {name: found.setting() for name, found in documents.items()}
    assert "6 validation images" in texts["calibration"] and "ε" not in texts["calibration"]
    assert "fgsm (ε = 8/255, 1 step of 8/255, seed 0); " in texts["attacks"]
    assert "apgd-ce (ε = 8/255, 2 steps it sizes itself, seed 0)" in texts["attacks"]


def test_a_document_says_how_many_images_its_suite_looked_at_and_how_long_all_of_it_takes(job: Job) -> None:
    """Regression: `rounding` looks at 500 images and said 1,000; what int8 is compared with took no time."""

    def run(job: Job) -> Result:
        job.cache.cached_s += 60.0
        job.float32.cached_s += 120.0
        return Result([{"num_total": len(job.data)}])

    job, suite = replace(job), Suite("rounding", "", run, (), most_images=4)  # with caches of its own
    found = run_suite(suite, replace(job, rounding=SimpleNamespace(digest=b"")), split="test", command="")
    assert found.num_images == found.rows[0]["num_total"] == 4
    assert found.minutes == pytest.approx(3.0, abs=0.5)
    assert run_suite(suite, job, split="test", command="").minutes == pytest.approx(3.0, abs=0.5)
    assert run_suite(replace(suite, most_images=None), job, split="test", command="").num_images == len(job.data)
    assert {name: suite.most_images for name, suite in SUITES.items() if suite.most_images} == {
        "inside": 200, "rounding": 500, "autoattack": 200,
    }  # fmt: skip


def test_gradients_are_spoken_of_only_where_something_was_attacked(documents: Documents) -> None:
    for name, is_attacked in (("attacks", True), ("transfer", True), ("calibration", False), ("corruptions", False)):
        said = documents[name].model_copy(update={"machine": {"arithmetic": "int8 on an engine"}}).setting()
        assert "int8 on an engine" in said and ("attacked with gradients of the float32" in said) == is_attacked


def test_what_a_suite_attacks_with_is_what_it_says_it_does(job: Job, documents: Documents) -> None:
    for name, found in documents.items():
        says = SUITES[name].attacks
        named = {"one": (job.attack.name,), "several": tuple(spec.name for spec in job.several_attacks())}
        assert tuple(spec.name for spec in found.attacks) == (named[says] if isinstance(says, str) else says)


def test_an_attack_that_wants_more_classes_is_refused_if_it_was_named_and_else_said_to_be_left_out(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: a worst case without the strongest attack looked like one with it."""
    model = OATNet(job.judged.model.config.model_copy(update={"num_classes": 3})).eval()
    few = replace(job, judged=replace(job.judged, model=model))
    assert [spec.name for spec in few.several_attacks()] == ["fgsm", "mi-fgsm", "pgd-7", "pgd-20", "apgd-ce"]
    assert capsys.readouterr().err == "left out: apgd-t, which needs 4 classes or more: tiny has 3\n"
    named: tuple[dict[str, Any], ...] = ({"attacks": ("fgsm", "apgd-t")}, {"attack": ATTACKS["apgd-t"]})
    for choice in named:
        with pytest.raises(ConfigError, match="apgd-t needs 4 classes or more, and tiny has 3: leave it out"):
            replace(few, **choice)
        assert replace(job, **choice)


def on_the_page(pattern: str) -> set[str]:
    """The names that docs/evaluation.md lists where its text fits the pattern."""
    text = (Path(__file__).parents[3] / "docs/evaluation.md").read_text(encoding="utf-8")
    (listed,) = re.findall(pattern, " ".join(text.split()))
    return set(re.findall(r"`(\w+)`", listed))


def test_the_page_lists_the_suites_of_int8_and_of_each_option() -> None:
    assert on_the_page("one condition, or the suites (.*?) The others count float32 only") == {
        name for name, suite in SUITES.items() if "int8" in suite.precisions
    }
    for pattern, attacks in (
        (r"`--attacks` \(of (.*?)\)", "several"),
        ("`--attack` names the one attack of (.*?);", "one"),
    ):
        assert on_the_page(pattern) == {name for name, suite in SUITES.items() if suite.attacks == attacks}


def test_the_page_lists_the_suites_that_start_again_after_a_stop(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "commit_of_code", lambda: 40 * "a")
    data = replace(job.data, groups_N=np.arange(6) % 2, sides_N=np.full(6, 20))
    small = replace(job, data=data, lambdas=(0.3,), widths=(1.0,), attack=ATTACKS["fgsm"], attacks=("fgsm",))
    wants_more = ("paired", "rounding", "crosscheck", "autoattack", "dedicated")  # than this network
    again = set()
    for name, suite in SUITES.items():
        if name not in wants_more:
            suite.run(replace(small, cache_folder=tmp_path / name))
            again |= set() if any(tmp_path.glob(f"{name}/*/*.npz")) else {name}
    assert again == on_the_page("store nothing and start again: (.*?) So do")


@pytest.mark.parametrize("name", ["crosscheck", "autoattack"])
@pytest.mark.parametrize("missing", ["art", "multiprocess"])
def test_a_suite_that_wants_the_toolbox_says_so_before_it_counts(
    name: str, missing: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it counted our own attacks first, for minutes or an hour."""
    monkeypatch.setattr("oat_runtime.extras.find_spec", lambda package: None if package == missing else True)
    monkeypatch.setattr(Job, "outcomes", lambda *_, **__: pytest.fail("counted"))
    with pytest.raises(ConfigError, match=rf"the suite {name} needs {missing}: pip install 'oat-robot\[crosscheck\]'"):
        SUITES[name].run(job)


@pytest.mark.parametrize("level", [None, 128])
def test_a_document_of_a_single_image_can_be_read_again(
    level: int | None, job: Job, patches: Callable[..., ImageSet]
) -> None:
    """Regression: `inside` wrote NaN, and every later page and publication refused its file."""
    one = patches(1)
    if level is not None:  # of one colour: it has no direction that a gradient could be aligned with
        one = replace(one, images_NHWC=np.full_like(one.images_NHWC, level))
    for name, suite in SUITES.items():
        if not suite.needs_more:
            document = run_suite(suite, replace(job, data=one), split="validation", command="")
            assert Document.model_validate(parse_json(json.dumps(document.model_dump()))).rows, name


def in_sessions(job: Job, patches: Callable[..., ImageSet]) -> Job:
    """A job on crops of three sessions: of 25 images, of 30, and of 5."""
    groups_N = np.repeat([7, 0, 3], (25, 30, 5))
    folders = {7: "friday", 0: "monday", 3: "sunday"}
    names = tuple(f"{folders[group]}/{at}.png#1" for at, group in enumerate(groups_N.tolist()))
    sides_N = np.random.default_rng(0).integers(16, 300, 60)
    return replace(job, data=replace(patches(60), groups_N=groups_N, names=names, sides_N=sides_N))


@pytest.mark.parametrize("name", ["groups", "sizes"])
def test_parts_add_up_to_the_outcomes_of_the_whole_set_at_every_point(
    name: str, job: Job, patches: Callable[..., ImageSet]
) -> None:
    job = in_sessions(job, patches)
    found = SUITES[name].run(job)
    points = {(row["lambda"], row["width"]) for row in found.rows}
    assert len(points) == 6
    for lam, width in points:
        mine = [row for row in found.rows if (row["lambda"], row["width"]) == (lam, width)]
        correct_N = job.outcomes(OperatingPoint(lam, width))
        assert sum(row["num_total"] for row in mine) == 60
        assert sum(row["num_correct"] for row in mine) == int(correct_N.sum())
        assert len({row[name[:-1]] for row in mine}) == len(mine)


def test_a_group_is_called_by_its_folder_and_small_groups_share_a_line(
    job: Job, patches: Callable[..., ImageSet]
) -> None:
    job = in_sessions(job, patches)
    rows = SUITES["groups"].run(job).rows
    assert {row["group"]: row["num_total"] for row in rows} == {"friday": 25, "monday": 30, "sunday": 5}
    by_group, all_groups = (table(rows) for table in SUITES["groups"].tables)
    assert list(by_group.columns[0].cells) == ["friday", "monday", "1 of fewer than 20"]
    assert list(by_group.columns[1].cells) == ["25", "30", "5"]
    assert all_groups.row_count == 6 and "sunday" not in all_groups.columns[4].cells
    mixed_up = replace(job.data, names=tuple(f"one/{at}.png#1" for at in range(60)))
    assert list(groups.groups_of(mixed_up)) == ["one/0.png", "one/25.png", "one/55.png"]
    assert list(groups.groups_of(replace(job.data, names=None))) == ["group 0", "group 3", "group 7"]


def over_groups(correct_G: Sequence[float], total_G: Sequence[float]) -> tuple[float, float]:
    pairs = zip(correct_G, total_G, strict=True)
    return groups.over_groups([{"num_correct": int(correct), "num_total": int(total)} for correct, total in pairs])


@pytest.mark.parametrize("num_groups", [2, 3, 5, 20])
def test_the_interval_over_groups_covers_the_truth_as_often_as_it_says(num_groups: int) -> None:
    """Regression: of two groups, 95 % intervals covered the truth in 46 % of cases, of five in 78 %."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        total_G = rng.integers(50, 400, num_groups)
        low, high = over_groups(rng.binomial(total_G, rng.beta(18, 2, num_groups)), total_G)
        covered += low <= 0.9 <= high
    assert covered >= 0.91 * 400


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("num_groups", [2, 8, 500])
def test_the_interval_over_groups_is_never_narrower_than_that_of_single_images(rate: float, num_groups: int) -> None:
    """Regression: of groups that are all alike, it had no width at all."""
    low, high = over_groups([50 * rate] * num_groups, [50] * num_groups)
    least = Proportion(int(50 * rate) * num_groups, 50 * num_groups).interval()
    assert low <= least[0] + 1e-3 and least[1] - 1e-3 <= high
    assert num_groups < 500 or (low, high) == pytest.approx(least, abs=1e-3)
    apart = over_groups([50] * (num_groups // 2) + [0] * (num_groups // 2), [50] * num_groups)
    in_one = Proportion(num_groups // 2, num_groups).interval()  # each group is one image, fifty times
    assert apart[1] - apart[0] >= in_one[1] - in_one[0] - 1e-3


def test_students_t_is_that_of_tables() -> None:
    for freedom, table in ((1, 12.706), (9, 2.262), (10, 2.228), (19, 2.093), (60, 2.000), (1000, 1.962)):
        assert groups.students_t(freedom) == pytest.approx(table, rel=2e-3)


def test_a_range_of_sizes_holds_exactly_the_boxes_of_its_name() -> None:
    sides_N = np.arange(1, 700)
    found = sizes.sizes_of(sides_N)
    assert "16 to 23 px" in found and "24 to 31 px" in found and "32 to 47 px" in found
    assert np.array_equal(sum(is_of_N.astype(int) for is_of_N in found.values()), np.ones(699))
    for name, is_of_N in found.items():
        low, high = map(int, re.findall(r"\d+", name))
        assert np.array_equal(is_of_N, (sides_N >= low) & (sides_N <= high))
    assert list(sizes.sizes_of(np.array([100, 20]))) == ["16 to 23 px", "96 to 127 px"]


def test_images_without_groups_or_boxes_are_refused_by_name(job: Job) -> None:
    for name, reason in (("groups", "expected images in groups"), ("sizes", "expected crops of boxes")):
        with pytest.raises(DataError, match=f"patches 6: {reason}.*: leave out {name}"):
            SUITES[name].run(job)
    with pytest.raises(
        DataError, match=r"at least 2 groups.* all 6 that are counted .*: count more of them \(--count\)"
    ):
        SUITES["groups"].run(replace(job, data=replace(job.data, groups_N=np.zeros(6, np.int64))))


def single(lam: float, width: float, job: Job, **recipe: Any) -> Judged:
    """A network trained for one point."""
    torch.manual_seed(1)
    net = OATNet(job.judged.model.config.model_copy(update={"lambdas": (lam,), "widths": (width,)}))
    return Judged(f"at-{lam:g}-{width:g}", net.eval().requires_grad_(False), job.judged.dataset, recipe, None)


def test_dedicated_networks_are_counted_on_the_same_images_at_their_own_point(job: Job) -> None:
    other = single(1.0, 0.5, job)
    x_NCHW, _ = next(job.batches())
    theirs_N = folded(other.model, lam=1.0, width=0.5)(x_NCHW).argmax(dim=1).numpy()
    ours_N = job.plain(OperatingPoint(1.0, 0.5))(x_NCHW).argmax(dim=1).numpy()
    data = replace(job.data, labels_N=theirs_N)  # they are always right
    found = SUITES["dedicated"].run(replace(job, data=data, beside=(other,)))
    counts = {row["condition"]: row["num_correct"] for row in found.rows}
    assert (counts["clean"], counts["clean, dedicated"]) == (int((ours_N == theirs_N).sum()), len(job.data))
    assert {(row["lambda"], row["width"]) for row in found.rows} == {(1.0, 0.5)}
    checks = {check.name: check for check in found.checks}
    mean, worst = (checks[f"clean: below the dedicated networks, {of}"] for of in ("mean over points", "worst point"))
    assert counts["clean"] < len(job.data)  # else nothing is lost here
    assert mean.value == worst.value == pytest.approx(1 - counts["clean"] / len(job.data))
    assert (mean.ok, mean.limit, worst.limit) == (False, 0.005, 0.015)


def test_a_network_that_does_not_compare_is_refused(job: Job) -> None:
    compare = SUITES["dedicated"].run
    with pytest.raises(ConfigError, match="name them with --beside"):
        compare(job)
    for other, reason in (
        (job.judged, "expected one of each"),
        (single(0.9, 1.0, job), "λ=0.9 and width 1, which tiny was not trained for"),
        (single(1.0, 1.0, job, seed=1, num_validation=6), "trained on other images than tiny"),
    ):
        with pytest.raises(ConfigError, match=reason):
            compare(replace(job, beside=(other,)))


@pytest.mark.parametrize(
    ("setting", "before", "other"),
    [
        ("num_validation", None, 6),
        ("seed", None, 1),
        ("split", "random", "stratified"),
        ("resize", "center_crop", "stretch"),
    ],
)
def test_networks_are_compared_only_where_the_same_images_were_held_out(
    setting: str, before: str | None, other: object, job: Job
) -> None:
    """Regression: a network of another division was counted on images that it was trained on."""
    compare = SUITES["dedicated"].check
    theirs = single(1.0, 1.0, job, **{setting: other})
    with pytest.raises(ConfigError, match=f"other images than tiny: {setting} is {other!r}, not {before!r}; give both"):
        compare(replace(job, beside=(theirs,)))
    if before is not None:  # what a run from before there was a choice does not say
        compare(replace(job, beside=(single(1.0, 1.0, job, **{setting: before}),)))
    compare(replace(job, judged=replace(job.judged, recipe={setting: other}), beside=(theirs,)))


@pytest.mark.parametrize("num_classes", [7, 12])
def test_a_network_of_another_number_of_classes_is_not_looked_into_beside(num_classes: int, job: Job) -> None:
    """Regression: fewer classes ended in an IndexError, after minutes, and of more classes a figure was shown."""
    model = OATNet(job.judged.model.config.model_copy(update={"num_classes": num_classes})).eval()
    other = Judged("other", model, "patches", {}, None)
    for refuse in (SUITES["inside"].check, SUITES["inside"].run):
        with pytest.raises(
            ConfigError, match=f"other: expected the classes of tiny.*it has {num_classes} classes, not"
        ):
            refuse(replace(job, beside=(other,)))


def test_a_network_of_other_classes_is_not_looked_into_beside(
    job: Job, tiny_bundle: Path, patches: Callable[..., ImageSet], tmp_path: Path
) -> None:
    check, bundle = SUITES["inside"].check, load_judged(tiny_bundle)
    reordered = replace(job, data=replace(job.data, class_names=job.data.class_names[::-1]))
    check(replace(job, beside=(bundle,)))
    with pytest.raises(ConfigError, match="tiny: expected the classes of tiny, in their order; another order: leave"):
        check(replace(reordered, beside=(bundle,)))
    config = TrainConfig(model=job.judged.model.config)
    run = Judged("run", job.judged.model, config.dataset, config.model_dump(mode="json"), None, tmp_path)
    check(replace(reordered, beside=(run,)))  # nobody kept its classes
    keep_division(tmp_path, DataRecord.of(config, patches(4), patches(2)), patches(2))
    check(replace(job, beside=(run,)))
    with pytest.raises(ConfigError, match="run: expected the classes of tiny, in their order; another order: leave"):
        check(replace(reordered, beside=(run,)))


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_way_to_a_dedicated_network_fits_every_recipe(recipe: str, job: Job) -> None:
    """Regression: half of the recipes refused the settings that the error named."""
    with pytest.raises(ConfigError) as refused:
        SUITES["dedicated"].run(replace(job, beside=(job.judged,)))
    like = RECIPES[recipe]()
    assert with_changes(like, re.findall(r"--set ([^\s`]+)", str(refused.value))) == dedicated(1.0, 1.0, like)


@pytest.mark.parametrize("same", [True, False])
def test_the_frontier_shows_each_width_also_where_the_points_of_all_are_equal(same: bool) -> None:
    """Regression: the narrowest width hid the others."""
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    widths = (1.0, 0.75, 0.5)
    rows = [
        {"condition": name, "width": width, "lambda": lam, "accuracy": accuracy - (0 if same else 0.2 * place)}
        for place, width in enumerate(widths)
        for lam, clean, attacked in ((0.0, 0.9, 0.5), (0.5, 0.8, 0.6), (1.0, 0.8, 0.6))
        for name, accuracy in (("clean", clean), ("pgd-20", attacked))
    ]
    figure = SUITES["attacks"].figures["attack-frontier"](rows)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels_HW3 = np.asarray(canvas.buffer_rgba())[..., :3]
    (axes,) = (axes for axes in figure.axes if axes.axison)
    for look in style.width_looks(widths).values():
        colour = [int(look["color"][at : at + 2], 16) for at in (1, 3, 5)]
        for x, y in ((90.0, 50.0), (80.0, 60.0)) if same else ():
            right, up = (round(value) for value in axes.transData.transform((x, y)))
            row = pixels_HW3.shape[0] - up
            near_HW3 = pixels_HW3[row - 20 : row + 20, right - 20 : right + 20]
            assert (near_HW3 == colour).all(axis=-1).sum() >= 20, (look, x, y)
    open_markers = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
    assert bool(open_markers) == same
