"""Nothing that is read ends in a foreign error, takes more than its share, or changes its meaning in silence.

Each kind of input takes seconds. `OAT_FUZZ=long` runs all cases, which takes a quarter of an hour.
"""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from harness import IS_LONG, run  # noqa: E402

OURS = {"oat_runtime", "policy", "training", "oat_perception", "tests", *(path.stem for path in HERE.glob("*.py"))}
KINDS = sorted({path.stem for path in HERE.glob("*.py")} - {"damage", "harness", "test_fuzz"})


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.slow] if IS_LONG else []) for kind in KINDS])
def test_damaged_input_is_refused_or_read_as_it_is(kind: str) -> None:
    try:
        outcome = run(kind)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] in OURS:
            raise
        pytest.skip(f"{kind} needs {error.name}")
    print(outcome)
    assert outcome.num_faults == 0, "\n".join(outcome.faults)
    assert outcome.num_refused > outcome.num_cases / 4
    assert outcome.num_cases == outcome.num_refused + outcome.num_accepted
