"""Laws of `oat-evaluate`: documents are written, read again, drawn and published, and a stop costs nothing."""

import io
import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from oat_runtime.architecture import ModelConfig
from oat_runtime.bundle import Bundle
from oat_runtime.bundle.shipped import find_bundle, shipped_bundles
from oat_runtime.bundle.writer import attach_file, attach_quantization
from oat_runtime.data import ImageSet
from oat_runtime.errors import ConfigError, DataError
from oat_runtime.files import write_whole
from oat_runtime.quantization import Quantization
from oat_runtime.report import Check
from training import evaluate as evaluate_module
from training.evaluate import main
from training.evaluation import cache
from training.evaluation import judged as judged_module
from training.evaluation.counting import Bools
from training.evaluation.documents import Document, check_documents, check_text, read_documents, run_suite
from training.evaluation.judged import Judged, load_judged
from training.evaluation.page import write_page
from training.evaluation.results_page import _head, _published, check_publishable, write_results
from training.evaluation.suite import Job, Result
from training.evaluation.suites import SUITES
from training.network import OATNet

Documents = dict[str, Document]


def test_a_checkpoint_is_never_judged_on_the_test_set(job: Job) -> None:
    with pytest.raises(ConfigError, match="judged on validation images"):
        job.judged.images("test")
    with pytest.raises(ConfigError, match="does not say which images were held out"):
        Judged("x", job.judged.model, "cifar10", {}, None).images("validation")


def test_the_keys_of_a_document_and_their_order_stay(documents: Documents) -> None:
    document = documents["unseen"].model_dump()
    assert list(document) == [
        "name", "subject", "weights_sha256", "model", "dataset", "split", "num_images", "attacks", "machine", "commit",
        "minutes", "rows", "checks", "warnings", "command",
    ]  # fmt: skip
    assert list(document["attacks"][0]) == ["name", "epsilon", "step_size", "num_steps", "seed"]
    assert list(document["checks"][0]) == ["name", "value", "limit", "unit", "ok"]
    counted = ["lambda", "width", "condition", "num_correct", "num_total", "accuracy", "low_95", "high_95"]
    assert list(document["rows"][0]) == [*counted, "trained"]


@pytest.fixture
def results(documents: Documents, tmp_path: Path) -> Path:
    """A folder of documents, one of them with a warning."""
    folder = tmp_path / "results"
    folder.mkdir()
    warning = {"lambda": 0.3, "width": 0.5, "kind": "k", "value": 1.0, "text": "a < doubt"}
    doubted = {"attacks": documents["attacks"].model_copy(update={"warnings": (warning,)})}
    for name, document in (documents | doubted).items():
        (folder / f"{name}.json").write_text(json.dumps(document.model_dump()))
    return folder


@pytest.mark.slow
def test_nothing_in_a_figure_is_overprinted(documents: Documents, illegible: Callable[[Any], list[str]]) -> None:
    pytest.importorskip("matplotlib")
    for document in documents.values():
        for name, draw in document.suite.figures.items():
            assert not illegible(draw(document.rows)), name


@pytest.mark.slow
def test_the_page_holds_every_figure_and_every_warning(job: Job, results: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = write_page(job.judged, results, tmp_path / "plots")
    names = sorted(name for suite in SUITES.values() for name in suite.figures)
    assert sorted(path.stem for path in (tmp_path / "plots").glob("*.png")) == names
    text = page.read_text()
    assert text.count("data:image/png;base64,") == len(names)
    assert "a &lt; doubt" in text and "://" not in text
    for head in re.findall("<table><tr>(.*?)</tr>", text):
        columns = re.findall("<th>(.*?)</th>", head)
        assert len(columns) == len(set(columns))  # the costs had one column twice


def test_documents_that_are_missing_damaged_or_of_another_network_are_refused(
    job: Job, results: Path, tmp_path: Path
) -> None:
    other = Judged("another", job.judged.model, "patches", {}, None)
    with pytest.raises(DataError, match="is of another network"):
        read_documents(other, results)
    with pytest.raises(DataError, match="no results under"):
        read_documents(job.judged, tmp_path / "empty")
    (results / "joint.json").write_text('{"name": "joint"}')
    with pytest.raises(DataError, match=r"joint\.json is not what a suite writes \(.*\): run its suite again"):
        read_documents(job.judged, results)


def test_documents_of_another_state_of_a_run_are_refused_and_those_that_do_not_say_it_are_named(
    job: Job, results: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: suites of a run before more epochs, or of another run in a folder of that name, shared one page."""
    assert read_documents(job.judged, results) and not caplog.text
    later = OATNet(job.judged.model.config)
    later.load_state_dict(job.judged.model.state_dict())
    assert read_documents(replace(job.judged, model=later), results)
    with torch.no_grad():
        later.code_KD.add_(1e-6)
    with pytest.raises(DataError, match="is of another network: run its suite again"):
        read_documents(replace(job.judged, model=later), results)
    for file in results.iterdir():
        file.write_text(json.dumps(json.loads(file.read_text()) | {"weights_sha256": ""}))
    assert read_documents(replace(job.judged, model=later), results)
    assert "an earlier version (attacks, classes, unseen and 5 more) do not say with which weights" in caplog.text


@pytest.fixture
def rounded(tiny_bundle: Path, quantization_of: Callable[..., Quantization], tmp_path: Path) -> Judged:
    """A bundle with activation ranges."""
    bundle = Bundle.load(shutil.copytree(tiny_bundle, tmp_path / "tiny"))
    x_NCHW = next(iter(bundle.probes().values())).x_NCHW
    ranges = quantization_of(bundle.tensors(), bundle.manifest.model, x_NCHW)
    return load_judged(attach_quantization(bundle, ranges, probe_atol=50.0).path)


def with_other_ranges(judged: Judged) -> Judged:
    """Give the bundle ranges that are twice as wide."""
    assert judged.bundle is not None
    found = judged.bundle.quantization()
    assert found is not None
    points = tuple(
        row.model_copy(update={"ranges": tuple((2 * low, 2 * high) for low, high in row.ranges)})
        for row in found.points
    )
    wider = found.model_copy(update={"points": points})
    return load_judged(attach_quantization(judged.bundle, wider, probe_atol=50.0).path)


def test_documents_of_int8_hold_with_the_ranges_that_they_were_counted_with(
    rounded: Judged, job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: after another export in int8, the old counts were shown and published as those of the new ranges."""
    suite = replace(SUITES["attacks"], run=lambda _: Result([{"num_correct": 1, "num_total": 2}]))
    ours = replace(job, judged=rounded, rounding=SimpleNamespace(digest=b""))
    out = tmp_path / "out"
    for place, one in (("attacks", replace(ours, rounding=None)), ("int8/attacks", ours)):
        document = run_suite(suite, one, split="test", command="oat-evaluate").model_dump()
        assert ("ranges_sha256" in document) == place.startswith("int8")
        write_whole(out / f"{place}.json", json.dumps(document))
    assert set(read_documents(rounded, out)) == {"attacks", "int8/attacks"}
    other = with_other_ranges(rounded)
    with pytest.raises(DataError, match=r"int8/attacks\.json counted in int8 with other activation ranges than tiny"):
        read_documents(other, out)
    del document["ranges_sha256"]
    write_whole(out / "int8" / "attacks.json", json.dumps(document))
    assert set(read_documents(other, out)) == {"attacks", "int8/attacks"}
    assert "(int8/attacks) do not say with which activation ranges they were counted" in caplog.text


def test_what_was_published_of_other_ranges_is_left_out_with_a_word_and_stays_where_it_says_none(
    rounded: Judged, job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    suite = replace(SUITES["attacks"], run=lambda _: Result([{"num_correct": 1, "num_total": 2}]))
    ours = replace(job, judged=rounded, rounding=SimpleNamespace(digest=b""))
    document = run_suite(suite, ours, split="test", command="oat-evaluate").model_dump()
    unsaid = {name: value for name, value in document.items() if name != "ranges_sha256"}
    other = with_other_ranges(rounded)
    assert other.bundle is not None
    content = json.dumps({"int8/attacks": document, "old/attacks": unsaid}).encode()
    judged = load_judged(attach_file(other.bundle, "evaluation.json", content).path)
    assert list(_published(judged)) == ["old/attacks"]
    assert "left out: 'int8/attacks' in" in caplog.text and "with other activation ranges" in caplog.text


@pytest.mark.parametrize("name", shipped_bundles())
def test_what_a_shipped_bundle_holds_of_int8_is_shown(name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert {"int8/paired", "int8/rounding"} <= set(_published(load_judged(find_bundle(name))))
    assert not caplog.text


@pytest.mark.usefixtures("few_images")
def test_the_command_runs_a_suite_on_a_bundle_and_writes_its_document(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(tiny_bundle), "--suite", "calibration", "--count", "3", "--lambda", "0.3", "--out", str(tmp_path)]
    assert main(command) == 0
    document = json.loads((tmp_path / "calibration.json").read_text())
    assert (document["split"], document["num_images"]) == ("test", 3)
    assert document["weights_sha256"] == load_judged(tiny_bundle).weights_sha256
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["name"] == "oat-evaluate"
    assert main([str(tiny_bundle), "--suite", "nonsense"]) == 2
    assert "unknown suite nonsense: expected attacks" in capsys.readouterr().err


@pytest.mark.usefixtures("few_images")
def test_another_ball_is_attacked_in_steps_of_the_same_share_and_the_document_says_so(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(tiny_bundle), "--count", "2", "--lambda", "0", "--width", "1", "--out", str(tmp_path)]
    here = [*command, "--epsilon", "4/255", "--attacks", "fgsm", "pgd-7", "--attack", "pgd-7"]
    assert main([*here, "--suite", "attacks", "classes"]) == 0
    for name, num in (("attacks", 2), ("classes", 1)):
        attacks = json.loads((tmp_path / f"{name}.json").read_text())["attacks"]
        assert len(attacks) == num and all(attack["epsilon"] == pytest.approx(4 / 255) for attack in attacks)
        assert attacks[-1]["step_size"] == pytest.approx(1 / 255)
    assert "ε = 4/255, 7 steps of 1/255" in capsys.readouterr().out
    for arguments, reason in (
        (["--suite", "attacks", "--attacks", "pgd-20-l2"], "pgd-20-l2: leave out one of both"),
        ([], "name some with --suite"),
    ):
        assert main([*command, "--epsilon", "4/255", *arguments]) == 2
        assert reason in capsys.readouterr().err
    for wrong in ("4", "0/255", "256/255", "-1/255"):
        assert main([*command, f"--epsilon={wrong}"]) == 2
        assert "expected N/255" in capsys.readouterr().err


def test_what_the_network_does_not_take_is_refused_before_any_image_is_read(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoint.pt").touch()
    for arguments, reason in (
        ([str(tiny_bundle), "--width", "0.6"], "width must be one of"),
        ([str(tiny_bundle), "--width", "0.6", "--suite", "calibration"], "width must be one of"),
        ([str(tmp_path)], "is a run's folder: name the checkpoint.pt in it"),
    ):
        assert main(arguments) == 2
        assert reason in capsys.readouterr().err


@pytest.mark.usefixtures("few_images")
def test_an_option_that_would_change_nothing_is_refused_or_named(
    tiny_bundle: Path, job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, file = str(tiny_bundle), tmp_path / "checkpoint.pt"
    file.touch()
    for arguments, reason in (
        (["--split", "validation"], "--split is of suites: name some with --suite"),
        (["--steps", "3", "--beside", network], "--steps and --beside are of suites"),
        (["--plots", str(tmp_path / "p"), "--dataset", "dark", "--epsilon", "4/255"], "--epsilon and --dataset are of"),
        (["--plots", str(tmp_path / "p"), "--attack", "fgsm"], "--attack is of suites"),
        (["--publish", str(tmp_path / "p.md"), "--count", "7"], "--count is of suites"),
        (["--plots", str(tmp_path / "p"), "--precision", "int8"], "--precision is of suites"),
        (["--publish", str(tmp_path / "p.md"), "--lambda", "0", "--width", "1"], "--lambda and --width are of suites"),
        (["--suite", "groups", "all"], "--suite all stands alone"),
        (["--suite", "paired"], "not in float32: leave out the suite, or choose another --precision"),
        (
            ["--suite", "transfer", "joint", "--steps", "3"],
            "would change nothing in transfer, joint, which run no Auto",
        ),
        (
            ["--suite", "classes", "joint", "--attack", "apgd-ce"],
            "joint takes a plain attack, such as pgd-20, got apgd",
        ),
        (["--suite", "attacks", "--attacks", "fgsm", "--steps", "3"], "--steps would change nothing in attacks, which"),
        (["--suite", "attacks", "inside", "--attack", "pgd-7"], "--attack would change nothing in attacks, inside:"),
        (["--suite", "unseen", "--lambda", "0"], "--lambda would change nothing in unseen: leave it out, or"),
        (["--suite", "dedicated", "--width", "1", "--lambda", "0"], "--lambda and --width would change nothing in"),
        (["--suite", "classes", "--attacks", "fgsm"], "--attacks would change nothing in classes: leave it out, or"),
        (
            ["--suite", "sizes", "--epsilon", "4/255", "--beside", network],
            "--epsilon and --beside would change nothing",
        ),
    ):
        assert main([network, *arguments]) == 2
        assert reason in capsys.readouterr().err
    assert main([str(file)]) == 2
    assert "got a checkpoint: name suites with --suite" in capsys.readouterr().err
    command = [
        network,
        "--width",
        "1",
        "--suite",
        "calibration",
        "inside",
        "--epsilon",
        "4/255",
        "--out",
        str(tmp_path),
    ]
    assert main([*command, "--count", "5"]) == 0
    said = capsys.readouterr()
    assert "--epsilon changed nothing in calibration, which" in said.err and "pgd-7 (ε = 4/255" in said.out
    assert "holds 4 images, and --count is 5: all of them count" in said.err


@pytest.mark.usefixtures("few_images")
def test_what_one_suite_cannot_count_is_refused_before_another_one_counts(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: `--suite attacks groups` counted for an hour, and then said that the images come in no groups."""
    monkeypatch.setattr("oat_runtime.extras.find_spec", lambda package: None if package == "art" else True)
    monkeypatch.setattr(evaluate_module, "run_suite", lambda *_, **__: pytest.fail("counted"))
    network = str(tiny_bundle)
    for suite, *more, reason in (
        ("groups", "expected images in groups"),
        ("sizes", "expected crops of boxes"),
        ("crosscheck", "needs art"),
        ("autoattack", "needs art"),
        ("dedicated", "name them with --beside"),
        ("dedicated", "--beside", network, "expected one of each"),
    ):
        assert main([network, "--out", str(tmp_path), "--suite", "calibration", suite, *more]) == 2
        assert reason in capsys.readouterr().err


@pytest.mark.usefixtures("few_images")
def test_what_cannot_be_written_or_shown_is_refused_before_anything_is_counted(
    tiny_bundle: Path, checkpoint: Path, documents: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Regression: each of these was said after all suites had counted."""
    monkeypatch.setattr(evaluate_module, "run_suite", lambda *_, **__: pytest.fail("counted"))
    monkeypatch.chdir(tmp_path)
    network, suite, plots = str(tiny_bundle), ["--suite", "calibration"], ["--plots", "plots"]
    of_another = Path("results/attacks.json")
    write_whole(of_another, json.dumps(documents["attacks"].model_dump()))
    write_whole("out", "a file is in the way")
    for arguments, reason in (
        ([str(checkpoint), *suite, "--publish", "page.md"], "is a checkpoint: export it"),
        ([network, *suite, "--out", "results", *plots], f"{of_another} is of another network: run its suite again"),
        ([network, *suite, "attacks", "--attacks", "pgd-20-l2", "--epsilon", "4/255"], "pgd-20-l2: leave out one"),
        ([network, *suite], "out/evaluate/tiny: Not a directory"),
    ):
        assert main(arguments) == 2
        assert reason in capsys.readouterr().err
    check_documents(load_judged(tiny_bundle), of_another.parent, but=[of_another])  # it is written anew
    monkeypatch.setattr("oat_runtime.extras.find_spec", lambda package: None if package == "matplotlib" else True)
    assert main([network, *suite, *plots]) == 2
    assert "--plots needs matplotlib: pip install" in capsys.readouterr().err


@pytest.mark.usefixtures("few_images")
def test_the_attack_of_a_suite_takes_as_many_steps_as_are_asked_for(tiny_bundle: Path, tmp_path: Path) -> None:
    """Regression: only the suites `attacks`, `paired` and `rounding` did."""
    here = ["--lambda", "0", "--width", "1", "--count", "2", "--out", str(tmp_path)]
    assert main([str(tiny_bundle), *here, "--suite", "transfer", "--attack", "apgd-ce", "--steps", "2"]) == 0
    (attack,) = json.loads((tmp_path / "transfer.json").read_text())["attacks"]
    assert (attack["name"], attack["num_steps"]) == ("apgd-ce", 2)


@pytest.mark.usefixtures("few_images")
def test_one_condition_is_counted_on_the_device_that_was_named(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = []
    monkeypatch.setattr(evaluate_module, "device_argument", str)
    monkeypatch.setattr(
        evaluate_module, "load_judged", lambda path, device="cpu": (devices.append(device), load_judged(path))[1]
    )
    main([str(tiny_bundle), "--count", "1", "--lambda", "0", "--width", "1", "--device", "cuda:3"])
    assert devices == ["cuda:3"]


@pytest.mark.usefixtures("few_images")
def test_results_of_another_ball_or_other_images_never_replace_the_bundles_own(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = load_judged(tiny_bundle)
    dark = replace(judged.images("test"), images_NHWC=judged.images("test").images_NHWC // 8)
    monkeypatch.setattr(Judged, "images_of", lambda *_, **__: dark)
    monkeypatch.chdir(tmp_path)
    command = [
        str(tiny_bundle),
        "--lambda",
        "0",
        "--width",
        "1",
        "--count",
        "4",
        "--suite",
        "attacks",
        "--attacks",
        "fgsm",
    ]
    for more in (
        ["--split", "test"],
        ["--epsilon", "2.5/255"],
        ["--dataset", "dark"],
        ["--dataset", "dark", "--epsilon", "4/255"],
        ["--split", "validation"],
    ):
        assert main([*command, *more]) == 0
    found = read_documents(judged, Path("out") / "evaluate" / judged.name)
    places = ["attacks", "dark/attacks", "epsilon-2.5/attacks", "validation/attacks", "dark/epsilon-4/attacks"]
    assert list(found) == places
    assert [found[place].images for place in places] == ["", "dark", "", "", "dark"]
    assert [found[place].split for place in places] == ["test", "test", "test", "validation", "test"]
    assert [255 * found[place].attacks[0].epsilon for place in places] == pytest.approx([8, 8, 2.5, 8, 4])
    main([str(tiny_bundle), "--plots", "page"])
    assert all(
        title in Path("page/index.html").read_text() for title in ("Attacks, dark, epsilon-4", "Attacks, epsilon-2.5")
    )


@pytest.mark.usefixtures("few_images")
def test_a_point_that_is_named_twice_is_counted_once(tiny_bundle: Path, tmp_path: Path) -> None:
    twice = ["--lambda", "0", "0", "--width", "1", "1", "--count", "2"]
    assert main([str(tiny_bundle), *twice, "--suite", "calibration", "--out", str(tmp_path)]) == 0
    once = ["--lambda", "0", "--width", "1", "--count", "2"]
    assert main([str(tiny_bundle), *once, "--suite", "calibration", "--out", str(tmp_path / "once")]) == 0
    found = [json.loads((folder / "calibration.json").read_text())["rows"] for folder in (tmp_path, tmp_path / "once")]
    assert found[0] == found[1]


@pytest.mark.usefixtures("few_images")
def test_lambdas_count_in_their_order_and_where_the_network_runs_them(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: `classes` took the first and the last that were typed for the ends of λ, and rows named λ=0.05."""

    def counted_at(suite: str, *lambdas: str) -> list[float]:
        out = ["--out", str(tmp_path), "--width", "1", "--count", "2"]
        assert main([str(tiny_bundle), *out, "--suite", suite, "--lambda", *lambdas]) == 0
        rows = json.loads((tmp_path / f"{suite}.json").read_text())["rows"]
        return list(dict.fromkeys(row["lambda"] for row in rows))

    assert counted_at("classes", "1", "0", "0.2") == [0.0, 1.0]
    assert counted_at("calibration", "1", "0.25", "0") == [0.0, 0.25, 1.0]
    assert "counts at" not in capsys.readouterr().err
    assert counted_at("calibration", "0.05", "0.1", "0.01", "0") == [0.0, 0.1]
    said = capsys.readouterr().err
    assert all(f"--lambda {lam} counts at λ=0.1, the smallest trained one above 0" in said for lam in (0.05, 0.01))


def test_another_data_set_is_judged_where_it_is_what_the_network_takes(
    bundle: Bundle, checkpoint: Path, sets: dict[str, ImageSet], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    own = replace(sets["test"], region_margin=0.25)
    known = {
        "dark@16": own.first(3),
        "others@16": replace(own, class_names=("a", "b")),
        "small@8": replace(own, images_NHWC=own.images_NHWC[:, :8, :8]),
        "whole@16": replace(own, region_margin=None),
    }
    monkeypatch.setattr(judged_module, "load_dataset", lambda name, split, **_: known[name] if split == "test" else 1)
    out = ["--suite", "calibration", "--out", str(tmp_path)]
    assert main([str(bundle.path), *out, "--dataset", "dark@16"]) == 0
    assert "3 test images of dark@16, " in capsys.readouterr().out
    (document,) = read_documents(load_judged(bundle.path), tmp_path).values()
    assert (document.images, document.dataset, document.num_images) == ("dark@16", bundle.report.dataset, 3)
    for network, arguments, reason in (
        (bundle.path, ["others@16"], "expected the classes that exported was trained on"),
        (bundle.path, ["small@8"], "expected 16x16 pixels, as exported takes them, got 8x8"),
        (bundle.path, ["whole@16"], "expected images cut out with a margin of 0.25"),
        (bundle.path, ["dark@16", "--split", "validation"], "dark@16 is judged on its test images"),
        (checkpoint, ["dark@16"], "is a checkpoint"),
    ):
        assert main([str(network), *out, "--dataset", *arguments]) == 2
        assert reason in capsys.readouterr().err


@pytest.mark.usefixtures("few_images")
def test_a_suite_goes_on_where_it_was_stopped_and_says_what_all_of_it_takes(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[tuple[object, ...]] = []
    stop_at, original = [4], cache.outcomes_of

    def outcomes_of(*args: Any, **kwargs: Any) -> object:
        if len(counted) == stop_at[0]:
            raise KeyboardInterrupt
        time.sleep(0.4)
        counted.append((*args, kwargs["attack"]))
        return original(*args, **kwargs)

    monkeypatch.setattr(cache, "outcomes_of", outcomes_of)
    monkeypatch.setattr(cache, "commit_of_code", lambda: 40 * "a")

    def attacks(folder: str, *arguments: str, status: int = 0) -> dict[str, Any]:
        out = ["--out", str(tmp_path / folder), "--width", "1", "--attacks", "fgsm", "--suite", "attacks"]
        out += ["--lambda", "0", "0.3", "1"]
        assert main([str(tiny_bundle), *out, *arguments]) == status
        return {} if status else json.loads((tmp_path / folder / "attacks.json").read_text())

    attacks("here", status=130)
    stop_at[0] = 99
    resumed = attacks("here")
    assert len(counted) == 6  # three λ, clean and attacked, none twice
    assert resumed["minutes"] >= 6 * 0.4 / 60 - 0.005  # minutes are rounded
    unbroken = attacks("there")
    assert resumed["rows"] == unbroken["rows"] and len(counted) == 12
    attacks("here", "--count", "3")
    assert len(counted) == 18  # other images
    monkeypatch.setattr(cache, "commit_of_code", lambda: 40 * "b")
    attacks("here")
    assert len(counted) == 24  # other code


@pytest.mark.usefixtures("few_images")
def test_published_counts_are_those_of_the_documents(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle, out, page = tmp_path / "tiny", tmp_path / "out", tmp_path / "page.md"
    shutil.copytree(tiny_bundle, bundle)
    command = [str(bundle), "--out", str(out)]
    narrow = ["--count", "3", "--attack", "fgsm", "--attacks", "fgsm", "--width", "1"]
    assert main([*command, *narrow, "--suite", "attacks", "transfer", "corruptions", "calibration", "inside"]) == 0
    apart = ["--count", "3", "--attacks", "mi-fgsm", "--lambda", "0.3", "--width", "1", "--suite", "attacks"]
    assert main([*command[:-1], str(out / "momentum"), *apart]) == 0
    assert main([*command, "--publish", str(page), "--plots", str(tmp_path / "plots")]) == 0
    attached = json.loads((Bundle.load(bundle).path / "evaluation.json").read_text())
    assert "evaluation.json" in Bundle.load(bundle).manifest.files
    for name in ("attacks", "transfer", "corruptions", "calibration"):
        document = json.loads((out / f"{name}.json").read_text())
        for row, counts in zip(document["rows"], attached[name]["rows"], strict=True):
            assert counts == {key: row[key] for key in counts} and counts["num_total"] == 3
    assert {row["condition"] for row in attached["momentum/attacks"]["rows"]} == {"clean", "mi-fgsm", "worst-case"}
    text = page.read_text()
    assert text.index("\n## Attacks\n") < text.index("\n## Attacks, momentum\n") < text.index("\n## Transfer\n")
    assert len(list((tmp_path / "plots").glob("momentum-*.png"))) > 0
    assert "oat-evaluate" in text and str(out) in text  # the command that makes the figures again
    (row,) = [r for r in attached["attacks"]["rows"] if (r["lambda"], r["condition"]) == (0.3, "clean")]
    assert f"| {100 * row['num_correct'] / 3:.1f}±" in text
    (cost,) = [row for row in attached["inside"]["rows"] if row["part"] == "cost"]
    assert f"{cost['parameters']:,} |" in text and re.search(r"\| +λ=0.3 \| +3 \|", text)
    assert main([*command, "--publish", str(page)]) == 0  # what was put into the bundle changed no network
    judged = load_judged(bundle)
    with pytest.raises(ConfigError, match="export it"):
        write_results(Judged("run", judged.model, "cifar10", {}, None), out, page)


@pytest.mark.usefixtures("few_images")
def test_publishing_more_suites_keeps_those_that_were_published(tiny_bundle: Path, tmp_path: Path) -> None:
    """Regression: the page and the bundle lost every suite whose JSON file was no longer there."""
    bundle, out, page = tmp_path / "tiny", tmp_path / "out", tmp_path / "page.md"
    shutil.copytree(tiny_bundle, bundle)
    command = [str(bundle), "--out", str(out), "--publish", str(page), "--width", "1"]
    assert main([*command, "--count", "3", "--attacks", "fgsm", "--suite", "attacks", "calibration", "inside"]) == 0
    before = page.read_text()
    shutil.rmtree(out)
    assert main([*command, "--count", "2", "--lambda", "1", "--suite", "classes", "calibration"]) == 0
    after = page.read_text()
    parts = [dict(part.split("\n", 1) for part in text.split("\n## ")[1:]) for text in (before, after)]
    assert all(parts[1][title] == parts[0][title] for title in ("Attacks", "Inside"))
    assert "Classes" in parts[1] and parts[1]["Calibration"] != parts[0]["Calibration"]
    attached = json.loads((bundle / "evaluation.json").read_text())
    assert list(attached) == ["attacks", "classes", "calibration", "inside"]
    assert [attached[name]["num_images"] for name in attached] == [3, 2, 2, 3]


def test_a_bundle_whose_counts_cannot_be_read_is_refused_before_the_work(tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "tiny")
    row = {"num_correct": "many", "num_total": 3}
    for content in (b"[]", json.dumps({"attacks": {"name": "attacks", "rows": [row]}}).encode()):
        bundle = attach_file(Bundle.load(tmp_path / "tiny"), "evaluation.json", content)
        with pytest.raises(DataError, match="counts of suites"):
            check_publishable(load_judged(bundle.path))


@pytest.mark.parametrize("start", ["", "run first at step 7 (00ffee)"])
def test_a_page_says_from_which_weights_a_run_started(tiny_bundle: Path, start: str) -> None:
    """Regression: a page gave the minutes of the last run as if it had begun from random weights."""
    bundle = Bundle.load(tiny_bundle)
    origin = bundle.manifest.provenance
    origin = origin.model_copy(update={"recipe": dict(origin.recipe) | {"start": start}})
    head = _head(replace(bundle, manifest=bundle.manifest.model_copy(update={"provenance": origin})))[1]
    assert (
        f"at the end{start and f', from {start}'}, in {origin.train_minutes:g} {'further ' * bool(start)}minutes"
        in head
    )


@pytest.mark.usefixtures("few_images")
def test_a_damaged_document_is_named_and_nothing_is_published(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(tiny_bundle), "--out", str(tmp_path / "out")]
    counted = ["--count", "3", "--lambda", "0", "--width", "1", "--attacks", "fgsm", "--suite", "attacks"]
    assert main([*command, *counted]) == 0
    file = tmp_path / "out" / "attacks.json"
    whole, before = json.loads(file.read_text()), (tiny_bundle / "manifest.json").read_bytes()
    page = tmp_path / "page.md"
    for wrong in (
        {"rows": [{}]}, {"rows": [{"lambda": []}]}, {"rows": [{"lambda": "x", "condition": 3}]}, {"name": "transfer"},
        {"name": "none"}, {"machine": 3},
    ):  # fmt: skip
        file.write_text(json.dumps(whole | wrong))
        capsys.readouterr()
        assert main([*command, "--publish", str(page)]) == 2, wrong
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "run its suite again" in said
    assert (tiny_bundle / "manifest.json").read_bytes() == before
    assert not page.exists()


@pytest.mark.parametrize("damage", [b"", b"PK", b"\0" * 1000], ids=repr)
def test_what_was_kept_is_counted_again_where_it_is_damaged(
    damage: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache, "commit_of_code", lambda: 40 * "a")
    kept = cache.OutcomeCache(tmp_path, OATNet(ModelConfig(depth=10, widen_factor=1)))
    data = ImageSet(np.zeros((3, 8, 8, 3), np.uint8), np.zeros(3, np.int64), (), "three")
    outcomes_N = np.array([True, False, True])
    assert kept.get("key", data, lambda: outcomes_N).tolist() == outcomes_N.tolist()
    (file,) = tmp_path.glob("*/*.npz")
    assert kept.get("key", data, lambda: 1 / 0).tolist() == outcomes_N.tolist()
    for content in (damage, _archive(correct_N=outcomes_N[:2], seconds=1.0), _archive(correct_N=outcomes_N)):
        file.write_bytes(content)
        assert kept.get("key", data, lambda: ~outcomes_N).tolist() == (~outcomes_N).tolist()
        assert "counting again" in caplog.text
        caplog.clear()


def test_what_another_torch_or_device_counted_is_counted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: after an update of torch, documents named the new one for what the old one had counted."""
    monkeypatch.setattr(cache, "commit_of_code", lambda: 40 * "a")
    monkeypatch.setattr(cache, "sha256_of_weights", lambda model: "the same")
    data = ImageSet(np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1, np.int64), (), "one")
    models = {on: OATNet(ModelConfig(depth=10, widen_factor=1)).to(on) for on in ("cpu", "meta")}
    counted: list[str] = []

    def count(on: str) -> Bools:
        counted.append(on)
        return np.ones(1, np.bool_)

    for on in ("cpu", "cpu", "meta", "cpu", "meta"):
        cache.OutcomeCache(tmp_path, models[on]).get("key", data, partial(count, on))
    assert counted == ["cpu", "meta"]
    monkeypatch.setattr(torch, "__version__", "99.0")
    for _ in range(2):
        cache.OutcomeCache(tmp_path, models["cpu"]).get("key", data, partial(count, "another torch"))
    assert counted == ["cpu", "meta", "another torch"]


def _archive(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def test_a_check_that_measured_nothing_is_said_to_have() -> None:
    check = Check("n", None, 1e-3, "u", ok=False)
    assert check_text(check) == "Check “n”: – (u), limit 0.001: does not hold."
    assert check_text(replace(check, value=0.25, ok=True)) == "Check “n”: 0.25 (u), limit 0.001: holds."
