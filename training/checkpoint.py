"""Write training checkpoints atomically, and read them without unpickling anything but tensors and plain values."""

from __future__ import annotations

import json
import math
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import nn

from oat_runtime.bundle import Bundle
from oat_runtime.data import lasting_name
from oat_runtime.errors import CheckpointError, one_line, quoted
from oat_runtime.files import expanded, parse_json, reason_of, sha256_of, whole_file
from oat_runtime.text import some
from training.config import TrainConfig
from training.network import OATNet, network_of, tensors_of
from training.network.resnets import resnet_from
from training.network.transplant import Source
from training.origin import UNKNOWN
from training.split import TrainedOn

_FORMAT = 4
_READABLE = (1, 2, 3, 4)
"""Format 1 had no average, format 2 had no origin, and format 3 had no weights of a start."""
_MOST_PICKLED = 8 * 2**20
"""Bytes of the list of contents, beside which the tensors lie; that of a ResNet-34 has 0.2 million."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State of a run after `step` optimizer steps. Random draws depend on (seed, step), so no generator is stored."""

    config: TrainConfig
    step: int
    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    seconds: float
    """Time spent training so far."""
    finished: bool = False
    average: dict[str, torch.Tensor] | None = None
    """Running average of the weights, if the run has one."""
    first: dict[str, torch.Tensor] | None = None
    """Weights that an unfinished run started from, if it ends with some of them (`start_share`)."""
    commit: str = UNKNOWN
    hardware: str = UNKNOWN
    """Code and hardware of the process that wrote this, also if the run began elsewhere."""


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint; a kill or a full disk leaves the old one whole.

    Raises:
        OSError: it cannot be written; it names the file.
    """
    payload = {
        "format": _FORMAT,
        "config": checkpoint.config.model_dump_json(),
        "step": checkpoint.step,
        "model": checkpoint.model,
        "optimizer": checkpoint.optimizer,
        "seconds": checkpoint.seconds,
        "finished": checkpoint.finished,
        "average": checkpoint.average,
        "first": checkpoint.first,
        "commit": checkpoint.commit,
        "hardware": checkpoint.hardware,
    }
    with whole_file(path) as file:
        try:
            torch.save(payload, file)
        except RuntimeError as error:
            # torch's writer, which closes its archive on the way out, hides why it could not write.
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def load_checkpoint(path: Path, *, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint; `check_tensors` then compares its tensors with what they are for.

    Raises:
        CheckpointError: no such file, a damaged one, one of another format, or one that says what cannot be.
    """
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at {one_line(path)}: give the path of a checkpoint.pt that oat-train wrote"
        )
    try:
        _check_archive(path)
        return _checkpoint(torch.load(path, map_location=device, weights_only=True))
    except ValidationError as error:
        reason = f"its configuration: {reason_of(error)}"
    except Exception as error:
        reason = _in_our_words(error)
    raise CheckpointError(
        f"{one_line(path)} is damaged or not a checkpoint ({reason}): if oat-train wrote it, remove it and train "
        "again, or name another --run"
    )


def _in_our_words(error: Exception) -> str:
    """What is wrong with a file: zip, pickle and torch raise two dozen kinds, and torch advises to load it unsafely."""
    return (
        one_line(error) if type(error) in (ValueError, TypeError) else "its contents are damaged, or not plain values"
    )


def _check_archive(path: Path) -> None:
    """Check sizes and checksums, which torch writes and does not compare, before a byte is unpickled."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            start = file.read(2)
        cut = "it is cut off" if start else "it is empty"
        raise ValueError(cut if b"PK".startswith(start) else "it is another kind of file")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("its parts are compressed, and torch compresses none")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("its parts are larger than the file")
        if any(member.file_size > _MOST_PICKLED for member in members if member.filename.endswith(".pkl")):
            raise ValueError(f"its list of contents has more than {_MOST_PICKLED} bytes")
        if (spoiled := archive.testzip()) is not None:
            raise ValueError(f"{spoiled} fails its checksum")


def _checkpoint(payload: Any) -> Checkpoint:
    if not isinstance(payload, dict):
        raise TypeError(f"expected a dict, got {type(payload).__name__}")
    version = payload.get("format")
    if type(version) is not int or version not in _READABLE:
        raise ValueError(f"expected checkpoint format {_FORMAT}, got {quoted(version)}")
    config = TrainConfig.model_validate(parse_json(_of(payload, "config", str)))
    step, seconds = _of(payload, "step", int), float(_of(payload, "seconds", float, int))
    if step < 0 or not 0.0 <= seconds < math.inf:
        raise ValueError(f"expected step and seconds of 0 or more, got {quoted(step)} and {quoted(seconds)}")
    model, average = _of(payload, "model", dict), _of(payload, "average", dict, type(None)) if version > 1 else None
    first = _of(payload, "first", dict, type(None)) if version > 3 else None
    for tensors in (model, average or {}, first or {}):
        for name, tensor in tensors.items():
            if not (isinstance(name, str) and isinstance(tensor, torch.Tensor)):
                raise TypeError(f"expected tensors by name, got {quoted(name)}: {type(tensor).__name__}")
    return Checkpoint(
        config=config,
        step=step,
        model=model,
        optimizer=_of(payload, "optimizer", dict),
        seconds=seconds,
        finished=_of(payload, "finished", bool),
        average=average,
        first=first,
        commit=one_line(_of(payload, "commit", str)) if version > 2 else UNKNOWN,
        hardware=one_line(_of(payload, "hardware", str)) if version > 2 else UNKNOWN,
    )


def _of(payload: dict[str, Any], name: str, *kinds: type) -> Any:
    """The value of a name, which must be of exactly one of these types: True is no step."""
    if name not in payload:
        raise ValueError(f"it says no {name}")
    value = payload[name]
    if type(value) not in (*kinds, *((OrderedDict,) if dict in kinds else ())):
        raise TypeError(f"expected {name} of type {kinds[0].__name__}, got {quoted(value)}")
    return value


def going_on(config: TrainConfig, checkpoint: Checkpoint, path: Path) -> TrainConfig:
    """Return the configuration with which a run goes on from a checkpoint of its own.

    An unfinished run goes on as it was. A finished one also goes on with more epochs or steps: its last step becomes
    one of `restarts`.

    Args:
        config: what is asked for. Without `restarts` and `start` of its own, it gets those of the checkpoint, and
            for the precision `auto` that in which the run began.
        checkpoint: of the run.
        path: its file, for the error.

    Raises:
        CheckpointError: it is of another configuration.
    """
    noted: dict[str, object] = {
        "restarts": config.restarts or checkpoint.config.restarts,
        "start": config.start or checkpoint.config.start,
        "precision": checkpoint.config.precision if config.precision == "auto" else config.precision,
    }
    if config.steps is not None and checkpoint.config.steps is not None:
        noted["epochs"] = checkpoint.config.epochs  # without effect in either
    config = config.model_copy(update=noted)
    theirs = _flat(checkpoint.config.model_copy(update={"dataset": lasting_name(checkpoint.config.dataset)}))
    ours = _flat(config)
    changed = sorted(key for key in ours if ours[key] != theirs[key])
    if not changed:
        return config
    if checkpoint.finished and set(changed) <= {"epochs", "steps"}:
        return config.model_copy(update={"restarts": (*config.restarts, checkpoint.step)})
    remedy = "start a new run folder with --run"
    if set(changed) <= {"epochs", "steps"}:
        key = "epochs" if checkpoint.config.steps is None else "steps"
        remedy += f", or finish this run as it began (--set {key}={theirs[key]}) and then ask for more"
    differing = [f"{key} ({one_line(theirs[key])} became {one_line(ours[key])})" for key in changed]
    raise CheckpointError(f"{path} is of another configuration, it differs in {some(differing)}: {remedy}")


def _flat(config: TrainConfig) -> dict[str, str]:
    """The settings as `--set` takes them: `model.depth` to `28`."""
    fields = config.model_dump(mode="json")
    for name in ("model", "attack"):
        fields |= {f"{name}.{key}": value for key, value in fields.pop(name).items()}
    return {key: json.dumps(value, ensure_ascii=False) for key, value in fields.items()}


def load_weights(model: nn.Module, checkpoint: Checkpoint, *, averaged: bool = False) -> None:
    """Put a checkpoint's weights into the network that its configuration describes, or none of them.

    Args:
        model: the network.
        checkpoint: the checkpoint.
        averaged: take the running average where there is one.

    Raises:
        CheckpointError: a tensor is missing, too many, of another shape or type, or not finite.
    """
    own = model.state_dict()
    check_tensors("network", checkpoint.model, own)
    weights = dict(checkpoint.model)
    if averaged and checkpoint.average is not None:
        check_tensors("average", checkpoint.average, {k: v for k, v in own.items() if v.is_floating_point()})
        weights |= checkpoint.average
    model.load_state_dict(weights)


def network_in(checkpoint: Checkpoint) -> OATNet:
    """Return the network of a run: with its average, which a finished run holds already, where it has not ended.

    Raises:
        CheckpointError: see `load_weights`.
    """
    model = OATNet(checkpoint.config.model)
    load_weights(model, checkpoint, averaged=not checkpoint.finished)
    return model


def check_tensors(what: str, found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Compare tensors by name with those whose places they are to take.

    Raises:
        CheckpointError: a tensor is missing, too many, of another shape or type, or not finite.
    """
    if differing := sorted(set(found) ^ set(expected)):
        raise CheckpointError(f"the checkpoint's {what} has other tensors than expected: {quoted(differing[:3])}")
    for name, like in expected.items():
        tensor = found[name]
        if tensor.layout != torch.strided or tensor.is_meta or (tensor.shape, tensor.dtype) != (like.shape, like.dtype):
            raise CheckpointError(
                f"the checkpoint's {what}: expected {name} of {like.dtype} {tuple(like.shape)}, got {tensor.dtype} "
                f"{quoted(tuple(tensor.shape))} ({tensor.layout} on {tensor.device.type})"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"the checkpoint's {what}: {name} is not finite: train again in a new run folder")


def optimizer_state(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the saved state of an optimizer like this one for it to load; its settings stay those of this one.

    Raises:
        CheckpointError: it is of other weights, or a momentum has another shape or type, or is not finite.
    """
    own = optimizer.state_dict()
    weights = dict(
        zip(
            (index for group in own["param_groups"] for index in group["params"]),
            (weight for group in optimizer.param_groups for weight in group["params"]),
            strict=True,
        )
    )
    groups, state = saved.get("param_groups"), saved.get("state")
    indices = [group.get("params") for group in groups] if _is_list_of_dicts(groups) else None
    if indices != [group["params"] for group in own["param_groups"]] or not isinstance(state, dict):
        raise CheckpointError("the checkpoint's optimizer is of other weights: train again in a new run folder")
    for index, kept in state.items():
        buffer = kept.get("momentum_buffer") if isinstance(kept, dict) and set(kept) <= {"momentum_buffer"} else kept
        if type(index) is not int or index not in weights or not isinstance(buffer, torch.Tensor | None):
            raise CheckpointError(f"the checkpoint's optimizer: expected momenta, got {quoted(index)}: {quoted(kept)}")
        if buffer is not None:
            check_tensors("optimizer", {f"momentum {index}": buffer}, {f"momentum {index}": weights[index].detach()})
    return {"state": state, "param_groups": own["param_groups"]}


def _is_list_of_dicts(value: object) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def read_source(name_or_path: str) -> Source:
    """Read the weights of a bundle, of a run, or of a torchvision ResNet.

    Args:
        name_or_path: a bundle's folder or the name of a shipped one; a run's folder or checkpoint, of which the
            averaged weights are taken where it has not ended; or a state dict (`.pth`, read without running code in it,
            or `.safetensors`).

    Raises:
        OATError: there is none, or it is damaged.
    """
    path = expanded(name_or_path)
    file = path / "checkpoint.pt" if path.is_dir() and not (path / "manifest.json").is_file() else path
    if not file.is_file():
        bundle = Bundle.load(path)
        network = network_of(bundle.tensors(), bundle.manifest.model)
        name = f"bundle {one_line(bundle.path.name)} ({bundle.sha256[:12]})"
        return Source(name, network, TrainedOn.of_bundle(bundle))
    digest = sha256_of(file)
    if file.suffix in (".pth", ".safetensors"):
        return Source(f"{one_line(file.name)} ({digest[:12]})", resnet_from(_state_dict(file)))
    checkpoint = load_checkpoint(file)
    network = network_of(tensors_of(network_in(checkpoint)), checkpoint.config.model)
    name = f"run {one_line(file.parent.name)} at step {checkpoint.step} ({digest[:12]})"
    return Source(name, network, TrainedOn.of_run(file.parent, checkpoint.config))


def _state_dict(file: Path) -> dict[str, torch.Tensor]:
    try:
        if file.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(file))
        if zipfile.is_zipfile(file):
            _check_archive(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
            raise TypeError(f"expected tensors by name, got {quoted(state)}")
        return state
    except Exception as error:
        raise CheckpointError(
            f"{one_line(file)} is damaged or not a state dict ({_in_our_words(error)}): fetch it again, or give another"
        ) from None
