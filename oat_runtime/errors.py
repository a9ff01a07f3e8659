"""The exception tree: every error that this project raises on purpose.

OATError
├── OperatingPointError   λ or width out of range, or not offered by this bundle   (also ValueError)
├── InputError            an image, frame or batch that cannot be used             (also ValueError)
├── ConfigError           a configuration that contradicts itself                  (also ValueError)
├── DataError             a data set that is missing, damaged or of another format
├── BundleError           a bundle that is missing, truncated, tampered or unknown
├── CheckpointError       a checkpoint that is damaged or of another run
└── BackendError          an inference engine that is missing or refused the model

A message says what was expected, what came, and what to do about it.
"""


class OATError(Exception):
    """Base of all errors raised on purpose by this project."""


class OperatingPointError(OATError, ValueError):
    """λ or width is out of range, or this bundle does not offer it."""


class InputError(OATError, ValueError):
    """An image, frame or batch has a wrong type, shape, range or encoding."""


class ConfigError(OATError, ValueError):
    """A configuration contradicts itself or the thing it configures."""


class DataError(OATError):
    """A data set is missing, damaged, or in a format that is not known."""


class BundleError(OATError):
    """A bundle is missing, truncated, tampered with, or of an unknown schema."""


class CheckpointError(OATError):
    """A training checkpoint is damaged or belongs to another configuration."""


class BackendError(OATError):
    """An inference engine is not installed or refused the network."""
