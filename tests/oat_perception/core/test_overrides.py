"""Both knobs change at once, and each end is named once."""

from __future__ import annotations

import pytest
from oat_perception.core.overrides import Overrides, what_changed

from policy.signals import Override


def test_overrides_are_swapped_whole_and_name_what_ended() -> None:
    overrides = Overrides()
    assert overrides.put({"lambda": Override(0.2), "width": Override(0.5, expires_s=10.0)}) == []
    seen = overrides.held
    assert overrides.put({"lambda": None}) == ["lambda"]
    assert set(seen) == {"lambda", "width"}, "a reader's view never changes under it"
    assert overrides.expire(9.9) == []
    assert overrides.expire(10.0) == ["width"]
    assert overrides.put({"lambda": None}) == [], "nothing ends twice"
    overrides.put({"lambda": Override(0.2), "width": Override(0.5, expires_s=10.0)})
    assert overrides.end_timed() == ["width"]
    assert set(overrides.held) == {"lambda"}


def test_what_has_an_expiry_lies_over_what_lasts_and_uncovers_it() -> None:
    """Regression: an override of ten seconds took the operator's lasting one away for good."""
    lasting, timed = Override(1.0), Override(0.3, expires_s=10.0)
    overrides = Overrides()
    overrides.put({"lambda": lasting})
    assert overrides.put({"lambda": timed}) == []
    assert overrides.held == overrides.at(9.9) == {"lambda": timed}
    assert overrides.next_expiry_s == 10.0
    assert overrides.at(10.0) == {"lambda": lasting}, "at that very moment, also before anybody calls `expire`"
    assert overrides.expire(10.0) == ["lambda"]
    assert overrides.held == {"lambda": lasting}
    assert overrides.next_expiry_s is None
    overrides.put({"lambda": timed})
    assert overrides.end_timed() == ["lambda"]
    assert overrides.held == {"lambda": lasting}


@pytest.mark.parametrize("word", [Override(0.5), Override(1.0), None], ids=str)
def test_the_newest_word_counts_and_ends_what_has_an_expiry(word: Override | None) -> None:
    overrides = Overrides()
    overrides.put({"lambda": Override(1.0), "width": Override(0.75)})
    overrides.put({"lambda": Override(0.3, expires_s=10.0), "width": Override(0.5, expires_s=10.0)})
    assert overrides.put({"lambda": word}) == ([] if word else ["lambda"])
    assert overrides.held.get("lambda") == word
    assert overrides.held["width"].value == 0.5, "the other knob is left alone"
    assert overrides.expire(10.0) == ["width"]


def test_the_log_says_what_changed_and_nothing_else() -> None:
    before = {"lambda": Override(0.2), "width": Override(0.5, expires_s=40.0)}
    assert what_changed(before, dict(before), now_s=10.0) == ""
    assert what_changed({}, before, now_s=10.0) == "lambda set to 0.2, width set to 0.5 for 30 s"
    assert what_changed(before, {"lambda": Override(1.0)}, now_s=10.0) == (
        "lambda set to 1, width given back to the policy"
    )
