"""A plain static network of an OATNet's shapes: what one would deploy who trained one network for one purpose.

The benchmark's yardstick. It shares no code with what is compared with it (`oat_runtime.fold`), and torch's own tool
folds its batch norms.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from oat_runtime.layers import scaled
from oat_runtime.model import ModelConfig, OATNet


class StaticBlock(nn.Module):
    """A residual block with ordinary batch norms, of the WideResNet order (`pre`) or the ResNet one."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, pre: bool) -> None:
        """Make it with fresh weights, in evaluation mode."""
        super().__init__()
        self.pre = nn.BatchNorm2d(inputs).eval() if pre else None
        self.conv1 = _conv_norm(inputs, outputs, 3, stride)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False) if pre else _conv_norm(outputs, outputs, 3, 1)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or inputs != outputs:
            plain = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = plain if pre else _conv_norm(inputs, outputs, 1, stride)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Run the block."""
        active = x_NCHW if self.pre is None else F.relu(self.pre(x_NCHW))
        skip = x_NCHW if self.shortcut is None else self.shortcut(active)
        out: Tensor = self.conv2(F.relu(self.conv1(active))) + skip
        return out if self.pre is not None else F.relu(out)


class StaticNet(nn.Module):
    """A plain residual network with the shapes of an OATNet at one width: images in [0, 1] to logits."""

    def __init__(self, model: OATNet, width: float) -> None:
        """Take the shapes of `model` at `width`, not its weights."""
        super().__init__()
        config: ModelConfig = model.config
        pre = config.family == "wide_resnet"
        self.normalize = nn.BatchNorm2d(3, eps=0.0, affine=False)
        self.normalize.running_mean = model.mean.flatten().clone()
        self.normalize.running_var = model.std.flatten().square()
        channels = scaled(model.stem.out_channels, width)
        size, stride = model.stem.kernel_size[0], model.stem.stride[0]
        self.stem = (
            nn.Conv2d(3, channels, size, stride, size // 2, bias=False)
            if pre
            else _conv_norm(3, channels, size, stride)
        )
        self.pool = model.pool
        self.blocks = nn.ModuleList()
        for block in model.blocks:
            conv = block.conv1
            assert isinstance(conv, nn.Conv2d)
            outputs = scaled(conv.out_channels, width)
            self.blocks.append(StaticBlock(channels, outputs, conv.stride[0], pre=pre))
            channels = outputs
        self.final = nn.BatchNorm2d(channels).eval() if pre else None
        self.classifier = nn.Linear(channels, config.num_classes)
        self.eval().requires_grad_(False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Logits of a batch."""
        x_NCHW = self.stem(self.normalize(x_NCHW))
        if self.final is None:
            x_NCHW = F.relu(x_NCHW)
        if self.pool:
            x_NCHW = F.max_pool2d(x_NCHW, kernel_size=3, stride=2, padding=1)
        for block in self.blocks:
            x_NCHW = block(x_NCHW)
        if self.final is not None:
            x_NCHW = F.relu(self.final(x_NCHW))
        logits: Tensor = self.classifier(x_NCHW.mean(dim=(2, 3)))
        return logits


def _conv_norm(inputs: int, outputs: int, size: int, stride: int) -> nn.Conv2d:
    """A convolution with the batch norm after it folded in, by torch's own tool."""
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return fuse_conv_bn_eval(conv.eval(), nn.BatchNorm2d(outputs).eval())
