"""Everything that decides a training run, as one frozen, serializable object."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from oat_runtime.model import ModelConfig
from oat_runtime.operating_point import AttackSpec, StrictModel


class TrainConfig(StrictModel):
    """One training run. ε and step sizes are on the [0, 1] pixel scale."""

    model: ModelConfig = ModelConfig()
    dataset: Literal["cifar10"] = "cifar10"
    num_validation: int = Field(default=2000, ge=1)
    """Training images held out for selection and for the policy's table; never trained on."""
    attack: AttackSpec = AttackSpec(name="fgsm-rs", epsilon=8 / 255, step_size=10 / 255, num_steps=1)
    """Attack made during training, from a uniform random start, at the λ and width it trains."""
    lambda_sampling: Literal["discrete", "stratified", "continuous"] = "discrete"
    """Per sample: i.i.d. uniform on the model's knots (the paper); the same but with equal counts in every batch,
    whose constant shapes an engine compiles once; or uniform on [0, 1] with a tenth of the samples at exactly 0."""
    num_random_widths: int | None = Field(default=1, ge=0)
    """Narrower widths drawn a step besides the full one; None trains all widths in every step, as the paper does."""
    epochs: int = Field(default=12, ge=1)
    batch_size: int = Field(default=128, ge=2)
    learning_rate: float = Field(default=0.1, gt=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps in which the learning rate rises linearly; it falls along a cosine after that."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    """On convolution and classifier weights only."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the convolutions; images, perturbations, losses and weights stay in float32."""
    compile_norms: bool = False
    """Fuse normalization, FiLM and ReLU with torch.compile, for which every batch must have the same shapes."""
    num_recalibration: int = Field(default=50, ge=0)
    """Batches over which batch-norm statistics are averaged anew when training ends."""
    eval_every: int = Field(default=2, ge=1)
    """Epochs between two looks at the validation images."""
    seed: int = Field(default=0, ge=0, lt=2**29)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.compile_norms and (self.lambda_sampling != "stratified" or self.batch_size % len(self.model.lambdas)):
            raise ValueError(
                "compile_norms needs stratified lambda_sampling and a batch_size that is a multiple of the "
                f"{len(self.model.lambdas)} lambdas, got {self.lambda_sampling!r} and {self.batch_size}"
            )
        if self.num_random_widths is not None and self.num_random_widths > len(self.model.widths) - 1:
            raise ValueError(
                f"num_random_widths must be at most {len(self.model.widths) - 1} (the narrower widths of the model), "
                f"got {self.num_random_widths}"
            )
        return self
