"""Write a bundle whole or not at all, and put more files into one."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from oat_runtime.architecture import InputSpec, ModelConfig
from oat_runtime.bundle.manifest import (
    FLOAT32_ATOL,
    MANIFEST,
    MANIFEST_HASH,
    NAME,
    OUTCOMES,
    PROBE,
    WEIGHTS,
    DataSummary,
    Figures,
    FileEntry,
    Manifest,
    Provenance,
    Temperature,
    is_plain,
)
from oat_runtime.bundle.reader import Bundle, older_of
from oat_runtime.errors import BundleError, one_line, quoted
from oat_runtime.files import MAX_JSON_BYTES, parse_json, read_at_most, write_whole
from oat_runtime.operating_point import OperatingTable, Precision
from oat_runtime.plain_net import Tensors
from oat_runtime.quantization import QUANTIZATION, Quantization
from oat_runtime.text import some

_LOG = logging.getLogger(__name__)
EVALUATION: Final = "evaluation.json"
"""File with the documents of published suites, by their places."""
ARITHMETIC: Final = "arithmetic"
"""Key of a document's `machine`: what the network ran in and on, if not in float32 on torch."""


def _compact(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return it in half the bytes where float16 holds every value exactly; `Bundle.tensors` widens it again."""
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    lossless = array.dtype == np.float32 and np.array_equal(half.astype(np.float32), array)
    return half if lossless else array


def save_bundle(
    path: Path,
    tensors: Tensors,
    config: ModelConfig,
    *,
    probe: Mapping[str, npt.NDArray[np.float32]],
    name: str,
    class_names: tuple[str, ...],
    input_spec: InputSpec,
    provenance: Provenance,
    temperatures: tuple[Temperature, ...],
    select: OperatingTable,
    report: OperatingTable,
    outcomes: Mapping[str, npt.NDArray[np.bool_]],
    data: DataSummary | None = None,
) -> Bundle:
    """Write a bundle beside `path` and move it there whole, in place of an older one.

    Args:
        path: the folder to make.
        tensors: the weights, by the names of `oat_runtime.architecture.tensor_shapes`; what float16 holds exactly is
            stored in it.
        config: their architecture.
        probe: `x_NCHW` (N, 3, H, W), and `logits/λ/width` (N, K) of the trained network at each point; float32.
        name: its name, lower case.
        class_names: one a class.
        input_spec: what camera frames are turned into.
        provenance: where it comes from.
        temperatures: one for each trained point.
        select: the policy's table, counted in float32.
        report: the people's table, counted in float32.
        outcomes: per-image outcomes of `report`, by `outcome_key`.
        data: how the images were split, and their fingerprints, where that is known.

    Raises:
        BundleError: `path` holds something that is not a bundle, or what was given would not be read again; nothing was
            written.
    """
    check_target(path)
    files: dict[str, bytes] = {
        WEIGHTS: safetensors.numpy.save({key: _compact(array) for key, array in tensors.items()}),
        PROBE: safetensors.numpy.save(dict(probe)),
        OUTCOMES: _packed(outcomes),
    }
    manifest = Manifest(
        name=name,
        model=config,
        class_names=class_names,
        input=input_spec,
        lambda_range=(config.lambdas[0], config.lambdas[-1]),
        provenance=provenance,
        data=data,
        figures={"float32": Figures(temperatures=temperatures, select=select, report=report)},
        probe_atol={"float32": FLOAT32_ATOL},
        files={file: _entry(content) for file, content in files.items()},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with _partial(path) as partial:
        _fill(partial, files, manifest)
        Bundle.load(partial).tensors()
    return Bundle.load(path)


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """Give a folder beside `path` that takes its place when the block ends, and is gone if the block fails."""
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield partial
        partial.chmod(0o755)
        older = older_of(path)
        if path.exists():
            shutil.rmtree(older, ignore_errors=True)  # what a kill left behind an earlier replacement
            os.replace(path, older)
        try:
            os.replace(partial, path)
        except OSError:
            if older.exists():
                os.replace(older, path)
            raise
        shutil.rmtree(older, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fill(folder: Path, files: Mapping[str, bytes], manifest: Manifest) -> None:
    for file, content in {**files, **_manifest_files(manifest)}.items():
        write_whole(folder / file, content)  # whose errors name the file


def check_changeable(bundle: Bundle) -> None:
    """Refuse a bundle that cannot be replaced by a changed one beside it, before the work whose result goes into it.

    Raises:
        BundleError: with what to do instead.
    """
    path = bundle.path.resolve()
    for folder in (path, path.parent):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise BundleError(
                f"{one_line(bundle.path)} cannot be changed: no permission to write in {one_line(folder)}: copy the "
                "bundle to a folder of yours, and name that"
            )


def check_target(path: Path) -> None:
    """Refuse to replace what is not a bundle or cannot be replaced, or to make one whose name would not do.

    Raises:
        BundleError: with what to do instead.
    """
    if path.exists() and not (path / MANIFEST).is_file():
        raise BundleError(f"{one_line(path)} exists and is not a bundle: name a new folder, as in bundles/my-net")
    if path.exists() and not os.access(path.parent, os.W_OK | os.X_OK):
        raise BundleError(
            f"{one_line(path)} cannot be replaced: no permission to write in {one_line(path.parent)}: name a new folder"
        )
    if re.fullmatch(NAME, path.name) is None:
        raise BundleError(
            f"a bundle's name must be lower case letters, digits, '.', '_' or '-', got {quoted(path.name)}"
        )


def attach_file(bundle: Bundle, name: str, content: bytes) -> Bundle:
    """Put one more file (say, the policy's constants) into a bundle and list it in the manifest.

    The bundle is replaced whole or not at all.

    Raises:
        BundleError: the name is not a plain file name, or one of the bundle's own; the bundle changed since it was
            loaded; or there is no room for a copy.
    """
    if not is_plain(name) or name in (WEIGHTS, PROBE, OUTCOMES):
        raise BundleError(f"an attached file needs a plain name of its own, got {quoted(name)}")
    return _replaced(bundle, {}, {name: content})


def attach_quantization(
    bundle: Bundle,
    quantization: Quantization,
    *,
    probe_atol: float,
    figures: Figures | None = None,
    outcomes: Mapping[str, npt.NDArray[np.bool_]] | None = None,
) -> Bundle:
    """Put into a bundle what int8 needs; figures that were counted in int8 before hold no longer, and go.

    So do documents of suites that counted in int8, where these ranges are others than before; the log names them.

    Args:
        bundle: the bundle, which is replaced whole or not at all.
        quantization: the ranges of its activations.
        probe_atol: by how much int8 logits may differ from the probe's on any machine; see `Manifest.tolerance`, which
            allows no more than 10 % of the largest logit.
        figures: what was counted in int8 with these ranges; None where nothing was.
        outcomes: per-image outcomes of the table `report` in `figures`, by `outcome_key` with the precision int8.

    Raises:
        BundleError: the ranges do not fit the architecture, the bundle changed since it was loaded, or it would not be
            read again; it stays as it is.
    """
    _check_unchanged(bundle)  # before its files are read, which may be others by now
    try:
        quantization.check(bundle.manifest.model)
    except ValueError as error:
        raise BundleError(f"these activation ranges are not of {bundle.manifest.name}: {error}") from None
    others = {name: found for name, found in bundle.manifest.figures.items() if name != "int8"}
    changes = {
        "quantization": QUANTIZATION,
        "probe_atol": bundle.manifest.probe_atol | {"int8": probe_atol},
        "figures": others if figures is None else others | {"int8": figures},
    }
    content = (quantization.model_dump_json() + "\n").encode()
    files = {QUANTIZATION: content, OUTCOMES: _outcomes_of(bundle, others, outcomes)}
    kept, outdated = ({}, []) if _has_ranges(bundle, quantization) else _published(bundle)
    if outdated:
        files[EVALUATION] = json.dumps(kept, ensure_ascii=False).encode()
    made = _replaced(bundle, changes, files)
    if outdated:
        _LOG.warning(
            "%s no longer holds %s, counted in int8 with other activation ranges: run and publish them again",
            one_line(made.path), some(outdated),
        )  # fmt: skip
    return made


def _has_ranges(bundle: Bundle, quantization: Quantization) -> bool:
    """Whether a bundle holds these ranges, on whatever they were measured."""
    try:
        found = bundle.quantization()
    except BundleError:  # what is damaged is measured again
        return False
    unsaid = {"measured": ""}
    return found is not None and found.model_copy(update=unsaid) == quantization.model_copy(update=unsaid)


def _published(bundle: Bundle) -> tuple[dict[str, Any], list[str]]:
    """Return the documents of published suites that hold with any ranges, and the places of those that do not.

    Documents that cannot be read are neither: whoever shows them refuses them.
    """
    if EVALUATION not in bundle.manifest.files:
        return {}, []
    try:
        documents = parse_json(read_at_most(bundle.path / EVALUATION, MAX_JSON_BYTES))
        outdated = [place for place, document in documents.items() if ARITHMETIC in document["machine"]]
    except (AttributeError, LookupError, OSError, TypeError, ValueError):
        return {}, []
    return {place: document for place, document in documents.items() if place not in outdated}, outdated


def _outcomes_of(
    bundle: Bundle, precisions: Iterable[Precision], more: Mapping[str, npt.NDArray[np.bool_]] | None = None
) -> bytes:
    """Pack the bundle's outcomes of some precisions, and more."""
    found = dict(more or {})
    for precision in precisions:
        found |= {
            key if precision == "float32" else f"{precision}/{key}": hits
            for key, hits in bundle.outcomes(precision).items()
        }
    return _packed(found)


def _packed(outcomes: Mapping[str, npt.NDArray[np.bool_]]) -> bytes:
    packed: bytes = safetensors.numpy.save({key: np.packbits(value) for key, value in outcomes.items()})
    return packed


def _replaced(bundle: Bundle, changes: Mapping[str, Any], files: Mapping[str, bytes]) -> Bundle:
    """Put other files and another manifest into a copy of the bundle, which takes its place if it can be read.

    Raises:
        BundleError: it is not the bundle that was loaded any more, or the changed one would not be read again.
    """
    _check_unchanged(bundle)
    entries = {name: _entry(content) for name, content in files.items()}
    manifest = bundle.manifest.model_copy(update={**changes, "files": bundle.manifest.files | entries})
    with _partial(bundle.path.resolve()) as partial:  # a link goes on to name it
        try:
            shutil.copytree(bundle.path, partial, dirs_exist_ok=True)
        except shutil.Error as error:  # texts alone, each with its files
            _, _, reason = error.args[0][0]
            raise BundleError(
                f"{one_line(bundle.path)} stays as it was, because its copy could not be written beside it "
                f"({one_line(reason)}): make room, and run this again"
            ) from error
        _fill(partial, files, manifest)
        made = Bundle.load(partial)
        if QUANTIZATION in files:
            made.quantization()
        if OUTCOMES in files:
            for precision in made.manifest.figures:
                made.outcomes(precision)
    return Bundle.load(bundle.path)


def _check_unchanged(bundle: Bundle) -> None:
    """Refuse a bundle that another one replaced since it was loaded, whose files would be lost."""
    if (now := Bundle.load(bundle.path).sha256) != bundle.sha256:
        raise BundleError(
            f"{one_line(bundle.path)} changed meanwhile: expected sha256 {bundle.sha256[:12]}, got {now[:12]}: run the "
            "command again, so that nothing is lost that was put into it"
        )


def upgrade(bundle: Bundle) -> Bundle:
    """Write the manifest of an older bundle in today's schema; its other files stay as they are.

    Its identity changes, so device profiles and whatever else names the old hash have to be made anew.
    """
    return _replaced(bundle, {}, {})


def _manifest_files(manifest: Manifest) -> dict[str, bytes]:
    """The manifest, and its hash in the form that `sha256sum --check` reads."""
    content = (manifest.model_dump_json(indent=1) + "\n").encode()
    return {MANIFEST: content, MANIFEST_HASH: f"{hashlib.sha256(content).hexdigest()}  {MANIFEST}\n".encode()}


def _entry(content: bytes) -> FileEntry:
    return FileEntry(sha256=hashlib.sha256(content).hexdigest(), num_bytes=len(content))
