"""Define all settings of a training run, as one frozen, serializable object."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field, model_validator

from oat_runtime.architecture import ModelConfig, Resize
from oat_runtime.compat import Self
from oat_runtime.operating_point import AttackSpec, StrictModel
from oat_runtime.stress.attacks import kind_of


class TrainConfig(StrictModel):
    """Settings of a training run. ε and step sizes are on the [0, 1] pixel scale. A batch is that of all processes."""

    model: ModelConfig = ModelConfig()
    dataset: str = "cifar10"
    """Name of a data set, or path of a folder of images by class or of frames with boxes; see
    `oat_runtime.data.load_dataset`."""
    resize: Resize = "center_crop"
    """How images of another shape are fitted to the size behind `@`, in training and, by the bundle, on the robot:
    `center_crop` keeps the largest centred window, `letterbox` keeps all and pads with black, `stretch` keeps all and
    changes the aspect ratio."""
    skip_broken: bool = False
    """Leave out images of a folder that cannot be read, and say how many. Otherwise the folder is refused."""
    fit_to_data: bool = False
    """Take the number of classes and the pixel statistics from the training images instead of `model`."""
    num_validation: int = Field(default=2000, ge=1, le=10**8)
    """Number of training images that are held out for selection and for the policy's table, and never trained on. A
    folder with a validation folder holds out exactly that, whatever stands here."""
    split: Literal["random", "stratified"] = "random"
    """How they are chosen: from the whole set, or from each class in proportion and at least one. Groups stay whole."""

    balance: Literal["none", "sampling"] = "none"
    """Which images a step takes. `none`: each once an epoch. `sampling`: as many of each class, so that the images of a
    small class come more often; see `training.sampling.BalancedOrder`."""

    attack: AttackSpec = AttackSpec(name="fgsm-rs", epsilon=8 / 255, step_size=10 / 255, num_steps=1)
    """Attack during training, at the λ that is trained: `fgsm`, `fgsm-rs`, `n-fgsm` or `pgd-N`, in the L∞ ball."""
    attack_width: Literal["own", "widest", "narrowest"] = "own"
    """Width at which images are attacked: the width that trains on them, or one width of the step for all."""
    adversarial_loss: Literal["pgd-at", "trades"] = "pgd-at"
    """`pgd-at`: (1 − λ) CE(clean) + λ CE(adversarial), the paper's Eq. 3. `trades`: CE(clean) + λ β KL(clean ‖
    adversarial), so that λ=1 is TRADES (Zhang et al. 2019) at β; the paper's literal form drops the labels at λ=1."""
    trades_beta: float = Field(default=6.0, gt=0)
    """β of `trades`."""
    terms: Literal["both", "sampled"] = "both"
    """`both`: each sample of 0 < λ < 1 has a clean and an adversarial term. `sampled`: each sample has one, adversarial
    with probability λ, drawn so that every batch holds the expected number of them: the same loss in expectation
    for about half the work."""

    lambda_sampling: Literal["discrete", "stratified", "continuous"] = "discrete"
    """Per sample: i.i.d. over the trained λ (the paper); the same but with equal counts in every batch, whose
    constant shapes an engine compiles once; or any λ from the smallest trained one above 0 to 1, and a tenth of the
    samples at exactly 0."""
    lambda_weights: tuple[float, ...] | None = None
    """Share of each trained λ in `discrete` and `stratified` sampling, in proportion; equal by default."""
    lambda_power: float = Field(default=1.0, gt=0)
    """`continuous` draws λ = l + (1 − l) `u ** lambda_power` with uniform u, where l is the smallest trained λ above 0.
    Above 1, small λ are more frequent."""
    num_random_widths: int | None = Field(default=1, ge=0)
    """Narrower widths drawn a step besides the full one; None trains all widths in every step, as the paper does."""

    width_distillation: float = Field(default=0.0, ge=0, le=1)
    """Share of the narrower widths' target that is what the widest width of the step says of the same image, each
    attacked at its own width (in-place distillation, Yu and Huang 2019); the rest is the label."""

    clean_share: float = Field(default=0.0, ge=0, le=0.6)
    """Share of all steps, the first ones, that train on clean images at λ=0 alone and make no attack. At their end the
    batch norms of λ≠0 start from those of λ=0, and the running average of the weights starts anew."""

    epochs: int = Field(default=12, ge=1, le=10**6)
    """Number of times that the run sees every training image; `steps` takes its place."""
    steps: int | None = Field(default=None, ge=1, le=10**9)
    """Optimizer steps of the whole run, in place of `epochs`, to compare recipes of different cost at equal cost."""
    restarts: tuple[int, ...] = ()
    """Steps at which the run was finished and went on with more epochs. At each, learning rate and momenta begin anew.
    `oat-train` writes this; see `training.checkpoint.going_on`."""
    start: str = Field(default="", max_length=1000)
    """What the weights started from, if not from random ones. `oat-train --from` writes this; see
    `training.network.transplant`."""
    batch_size: int = Field(default=128, ge=2, le=10**6)
    """Images in a step, of all processes together."""
    accumulation: int = Field(default=1, ge=1, le=10**6)
    """Parts in which each process works through its share of a batch, to save memory; batch norms see one at a time."""
    optimizer: Literal["sgd", "muon"] = "sgd"
    """What moves the convolutions' weights. `muon` steps along the nearest matrix with orthonormal rows and gives each
    weight the length √rows, without weight decay; everything else stays with SGD. See `training.optimizer.Muon`."""
    muon_learning_rate: float = Field(default=0.05, gt=0)
    """Peak for the convolutions, on the schedule of `learning_rate`: length of a step relative to the weight's."""
    learning_rate: float = Field(default=0.1, gt=0)
    """Peak of SGD's learning rate."""
    start_rate: float = Field(default=0.2, gt=0, le=1)
    """Share of all learning rates that a run with a `start` takes. Trained weights are about half as long as random
    ones, so that the same step turns them further."""
    start_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the weights of its `start` in those with which a run ends: a mean of both can be more accurate and more
    robust than either (Wortsman et al. 2022). The batch norms' statistics are averaged again after it."""
    schedule: Literal["cosine", "linear", "steps"] = "cosine"
    """After the warm-up: along a cosine to zero; straight to zero (with a long warm-up, one cycle); or constant, and a
    tenth after 50 % and again after 75 % of all steps."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps in which the learning rate rises linearly."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Share of its last step that the optimizer adds to each step."""
    nesterov: bool = True
    """Take Nesterov's form of the momentum."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Weight decay; on convolution and classifier weights only."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target that is spread over all classes evenly (Szegedy et al. 2016)."""
    average_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decay a step of a running average of all weights, which is what the finished run holds; 0 keeps no average."""
    awp_gamma: float = Field(default=0.0, ge=0)
    """Adversarial weight perturbation (Wu et al. 2020): relative size of the perturbation, 5e-3 in that paper; 0 does
    without. It costs one more forward and backward pass a width."""
    cutout: int = Field(default=0, ge=0, le=10**4)
    """Side in pixels of a grey square put anywhere on each image (DeVries and Taylor 2017); 0 leaves it out."""
    jitter: float = Field(default=0.0, ge=0, lt=1)
    """Brightness and contrast are each scaled by a factor within 1 ± jitter, one draw an image."""
    mirror: bool | None = None
    """Whether half of the images are mirrored. None leaves it to the data set: a mirrored photo of CIFAR-10 keeps its
    class, a digit and a traffic sign do not, and of a folder of your own nobody knows, so it is not mirrored."""
    rotation: float = Field(default=0.0, ge=0, le=180)
    """Degrees up to which each image is turned, either way. What comes in from outside is black."""
    scale: float = Field(default=0.0, ge=0, lt=1)
    """Each image is enlarged around its middle by a factor within 1 ± scale."""
    blur: float = Field(default=0.0, ge=0, le=16)
    """Each image is blurred by a Gaussian with a standard deviation of up to so many pixels."""
    noise: float = Field(default=0.0, ge=0, le=1)
    """Each image gets Gaussian noise with a standard deviation of up to this, on the [0, 1] pixel scale."""

    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Of the convolutions; images, perturbations, losses and weights stay in float32. auto: bfloat16 where the CPU (AMX
    or AVX512-BF16) or the GPU multiplies it, otherwise float32. A run keeps the precision in which it began."""
    compile_norms: bool = False
    """Fuse normalization, FiLM and ReLU with torch.compile, for which every batch must have the same shapes."""
    cuda_graphs: bool = False
    """On a GPU, record each kind of step once and replay it; for which every batch must have the same shapes."""
    sync_bn: bool = True
    """With several processes, take batch-norm statistics over all of them: the run then does not depend on their
    number. False takes them over each process's own images, in less time, and the running statistics, with which
    attacks are made, are the mean over the processes."""
    num_recalibration: int = Field(default=50, ge=0, le=10**6)
    """Batches over which batch-norm statistics are averaged anew when training ends."""
    eval_every: int = Field(default=2, ge=1, le=10**6)
    """Epochs between two quick validations."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of all random draws: weights, order, augmentation, λ, widths and attacks."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        knots, narrower = self.model.lambdas, len(self.model.widths) - 1
        if self.lambda_weights is not None:
            if self.lambda_sampling == "continuous":
                raise ValueError("lambda_weights needs discrete or stratified lambda_sampling, got 'continuous'")
            if len(self.lambda_weights) != len(knots) or not all(weight > 0 for weight in self.lambda_weights):
                raise ValueError(
                    f"lambda_weights must be {len(knots)} positive numbers, one a lambda, got {self.lambda_weights}: "
                    "null weighs all alike"
                )
        shares = [self.batch_size * share for share in self.lambda_shares]
        constant_shapes = self.lambda_sampling == "stratified" and all(abs(n - round(n)) < 1e-6 for n in shares)
        for name in ("compile_norms", "cuda_graphs"):
            if getattr(self, name) and not constant_shapes:
                raise ValueError(
                    f"{name} needs stratified lambda_sampling and a batch_size that holds a whole number of samples "
                    f"of each of the {len(knots)} lambdas, got {self.lambda_sampling!r} and {self.batch_size}: "
                    f"set them so, or {name}=false"
                )
        if self.num_random_widths is not None and self.num_random_widths > narrower:
            raise ValueError(
                f"num_random_widths must be at most {narrower} (the narrower widths of the model), "
                f"got {self.num_random_widths}: null takes all of them"
            )
        kind = kind_of(self.attack)
        if kind.norm != "linf" or kind.method not in ("fgsm", "fgsm-rs", "n-fgsm", "pgd"):
            raise ValueError(f"attack must be fgsm, fgsm-rs, n-fgsm or pgd-N in the L∞ ball, got {self.attack.name!r}")
        if self.lambda_sampling == "continuous" and ((knots[0], knots[-1]) != (0.0, 1.0) or len(knots) < 3):
            raise ValueError(f"continuous lambda_sampling needs lambdas from 0 to 1, with one between, got {knots}")
        if self.lambda_sampling != "continuous" and self.lambda_power != 1.0:
            raise ValueError(
                f"lambda_power shapes continuous lambda_sampling, got {self.lambda_sampling!r}: set that to "
                "continuous, or leave lambda_power at 1"
            )
        if self.attack.seed != 0:
            raise ValueError(
                f"attack.seed draws nothing in training, got {self.attack.seed}: set seed, and leave it at 0"
            )
        if any(start >= end for start, end in pairwise((0, *self.restarts))):
            raise ValueError(f"restarts must be steps above 0, ascending, got {self.restarts}")
        if self.clean_share > 0.0 and knots[0] != 0.0:
            raise ValueError(f"clean_share trains λ=0: the model's lambdas must hold 0, got {knots}: set it to 0")
        if self.width_distillation > 0.0 and (not narrower or self.num_random_widths == 0):
            raise ValueError(
                "width_distillation teaches narrower widths, and the steps train none: set it to 0, or train some"
            )
        if self.width_distillation > 0.0 and self.adversarial_loss == "trades":
            raise ValueError(
                "width_distillation shares the place of labels, and trades has none under attack: set it to 0"
            )
        if self.adversarial_loss == "trades" and self.terms == "sampled":
            raise ValueError("trades compares the clean and the adversarial image of a sample: terms must be 'both'")
        if self.adversarial_loss == "trades" and kind.method == "fgsm":
            raise ValueError(
                "the attack of trades needs a random start, because its gradient is 0 at the clean image: take fgsm-rs "
                "or pgd-N, got 'fgsm'"
            )
        if self.adversarial_loss != "trades" and self.trades_beta != 6.0:
            raise ValueError(
                f"trades_beta weighs adversarial_loss=trades, got {self.adversarial_loss!r}: set that to trades, or "
                "leave trades_beta at 6"
            )
        return self

    @property
    def lambda_shares(self) -> tuple[float, ...]:
        """The share of each knot among the samples of a step; `continuous` sampling does not use it."""
        weights = self.lambda_weights or (1.0,) * len(self.model.lambdas)
        return tuple(weight / sum(weights) for weight in weights)
