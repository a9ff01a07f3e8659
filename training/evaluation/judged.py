"""Load the network that is judged: a bundle, or the checkpoint of a run, which only validation images may judge."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from oat_runtime.architecture import InputSpec
from oat_runtime.backends import int8_engines
from oat_runtime.bundle import Bundle
from oat_runtime.data import ImageSet, Split, check_fingerprint, load_dataset, split_validation
from oat_runtime.errors import BundleError, ConfigError, DataError
from oat_runtime.text import changed_names
from training.checkpoint import load_checkpoint, network_in
from training.config import TrainConfig
from training.network import OATNet, Rounding, network_of
from training.split import DataRecord, TrainedOn, check_division

JudgedSplit = Literal["test", "validation"]


@dataclass(frozen=True)
class Judged:
    """A network to evaluate, and its origin.

    Attributes:
        name: of the bundle or the run.
        model: in evaluation mode, taking no gradients.
        dataset: name of the data set it was trained on.
        recipe: its training configuration, as far as known.
        bundle: the bundle; None for a checkpoint.
        run: the run's folder; None for a bundle.
    """

    name: str
    model: OATNet
    dataset: str
    recipe: dict[str, Any]
    bundle: Bundle | None
    run: Path | None = None

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of a bundle's file of weights, which its other files do not change; of a checkpoint's tensors."""
        if self.bundle is None:
            return sha256_of_weights(self.model)
        return self.bundle.manifest.files["weights.safetensors"].sha256

    @cached_property
    def ranges_sha256(self) -> str:
        """Hash of the activation ranges of a bundle, on whatever they were measured; empty where it holds none.

        Raises:
            BundleError: they are damaged.
        """
        quantization = None if self.bundle is None else self.bundle.quantization()
        if quantization is None:
            return ""
        return hashlib.sha256(quantization.model_dump_json(exclude={"measured"}).encode()).hexdigest()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of its classes, by label; empty where nobody kept them.

        Raises:
            DataError: the record of its run is damaged.
        """
        if self.bundle is not None:
            return self.bundle.class_names
        if self.run is None:
            return ()
        return TrainedOn.of_run(self.run, TrainConfig.model_validate(self.recipe)).class_names

    def rounding(self) -> Rounding:
        """Return how it runs in int8 on this machine, on the fastest engine that does.

        Raises:
            BackendError: no engine runs in int8 here.
            BundleError: it holds no activation ranges.
            ConfigError: a checkpoint, which holds none.
        """
        if self.bundle is None:
            raise ConfigError(f"{self.name} is a checkpoint, and int8 needs a bundle: run oat-export first")
        if (quantization := self.bundle.quantization()) is None:
            raise BundleError(
                f"{self.name} holds no activation ranges: run oat-export {self.bundle.path} --precision int8"
            )
        return Rounding(quantization, (self.bundle.input.height, self.bundle.input.width), int8_engines()[0])

    def images(self, split: JudgedSplit, *, download: bool = False) -> ImageSet:
        """Return the images to judge it on.

        Raises:
            ConfigError: test images for a checkpoint, which is not finished.
            DataError: the data set is not at hand, or is not the one that the network was trained on.
        """
        if split == "test":
            if self.bundle is None:
                raise ConfigError(
                    f"{self.name} is a checkpoint, and those are judged on validation images, so that nothing is "
                    "chosen by the test set: leave --split out, or export a bundle first"
                )
            data = self._of_its_classes(self._loaded("test", download=download))
            check_fingerprint(data, self.bundle.fingerprints.test, whose=f"{self.name}, kept for its test")
            return data
        return self._division(download=download)[1]

    def images_of(self, dataset: str, *, download: bool = False) -> ImageSet:
        """Return the test images of another data set with the same classes, fitted as the network's own.

        Raises:
            ConfigError: a checkpoint, which is not finished.
            DataError: the data set is not at hand, or is not what this network takes: other classes, another size, or
                crops with another margin.
        """
        if self.bundle is None:
            raise ConfigError(
                f"{self.name} is a checkpoint, and those are judged on their own validation images, so that nothing is "
                "chosen by what it is tested on: export a bundle first"
            )
        spec = self.bundle.input
        data = self._of_its_classes(load_dataset(dataset, "test", download=download, resize=spec.resize))
        height, width = data.images_NHWC.shape[1:3]
        if (height, width) != (spec.height, spec.width):
            raise DataError(
                f"{data.name}: expected {spec.width}x{spec.height} pixels, as {self.name} takes them, got "
                f"{width}x{height}: put @{spec.width}x{spec.height} behind the data set's name"
            )
        if data.region_margin != spec.region_margin:
            raise DataError(
                f"{data.name}: expected images cut out with a margin of {spec.region_margin}, as {self.name} was "
                f"trained on them, got {data.region_margin}: None is of images that were not cut out of frames"
            )
        return data

    def parts(self, *, download: bool = False) -> tuple[ImageSet, ImageSet]:
        """Return the images that it was trained on, and those that were held out for validation.

        Raises:
            ConfigError: it does not say which were held out.
            DataError: the data set is not at hand, or is not the one that the network was trained on.
        """
        training, validation = self._division(download=download)
        if self.bundle is not None:
            check_fingerprint(training, self.bundle.fingerprints.train, whose=f"{self.name}, trained on")
        return training, validation

    def _division(self, *, download: bool) -> tuple[ImageSet, ImageSet]:
        num, seed = self.recipe.get("num_validation"), self.recipe.get("seed")
        if not isinstance(num, int) or not isinstance(seed, int):
            raise ConfigError(f"{self.name} does not say which images were held out: evaluate it on the test set")
        everything = self._of_its_classes(self._loaded("train", download=download))
        stratified = self.recipe.get("split") == "stratified"
        training, validation = split_validation(everything, num, seed=seed, stratified=stratified)
        if self.bundle is not None:
            held_out = self.bundle.fingerprints.validation
            check_fingerprint(validation, held_out, whose=f"{self.name}, held out for validation")
        if self.run is not None:
            record = DataRecord.of(TrainConfig.model_validate(self.recipe), training, validation)
            check_division(self.run, record, validation)
        return training, validation

    def _loaded(self, split: Split, *, download: bool) -> ImageSet:
        skip_broken = self.recipe.get("skip_broken") is True
        resize = self.recipe.get("resize", InputSpec().resize) if self.bundle is None else self.bundle.input.resize
        return load_dataset(self.dataset, split, download=download, resize=resize, skip_broken=skip_broken)

    def _of_its_classes(self, data: ImageSet) -> ImageSet:
        """Refuse images of other classes: labels are places in the list of classes."""
        if self.bundle is not None and data.class_names and data.class_names != self.bundle.class_names:
            raise DataError(
                f"{data.name}: expected the classes that {self.name} was trained on, in their order; "
                f"{changed_names(self.bundle.class_names, data.class_names)}"
            )
        return data


def sha256_of_weights(model: OATNet) -> str:
    """Return a hash of names and values of all tensors, on whatever device they are."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_judged(path: Path, *, device: str = "cpu") -> Judged:
    """Read a bundle's folder or a `checkpoint.pt`.

    Raises:
        OATError: it is missing or damaged.
    """
    if (path / "checkpoint.pt").is_file():
        raise ConfigError(f"{path} is a run's folder: name the checkpoint.pt in it, or a bundle that oat-export made")
    if path.is_file():
        checkpoint = load_checkpoint(path)
        config = checkpoint.config
        model = network_in(checkpoint)
        name = path.resolve().parent.name
        dataset, recipe, bundle, run = config.dataset, config.model_dump(mode="json"), None, path.parent
    else:
        bundle = Bundle.load(path)
        model = network_of(bundle.tensors(), bundle.manifest.model)
        name, dataset, recipe = bundle.manifest.name, bundle.report.dataset, bundle.manifest.provenance.recipe
        run = None
    return Judged(name, model.eval().requires_grad_(False).to(device), dataset, recipe, bundle, run)
