"""List the suites of an evaluation, in the order of reading. A new suite is one file here and one line below.

A suite's file holds its texts, its computation (`run`: a `Job` to a `Result`), its tables and its figures, and ends in
`SUITE`. What a suite is and what it works on: `training.evaluation.suite`.
"""

from training.evaluation.suites import (
    attacks,
    autoattack,
    calibration,
    classes,
    corruptions,
    crosscheck,
    dedicated,
    groups,
    inside,
    joint,
    paired,
    rounding,
    sizes,
    transfer,
    unseen,
)

SUITES = {
    suite.name: suite
    for suite in (
        attacks.SUITE,
        classes.SUITE,
        groups.SUITE,
        sizes.SUITE,
        unseen.SUITE,
        transfer.SUITE,
        joint.SUITE,
        corruptions.SUITE,
        calibration.SUITE,
        inside.SUITE,
        paired.SUITE,
        rounding.SUITE,
        crosscheck.SUITE,
        autoattack.SUITE,
        dedicated.SUITE,
    )
}
"""Suites by name."""
