"""README's tree names every module of the product."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("oat_runtime", "policy", "training", "ros2_ws/src/oat_perception/oat_perception")


def test_the_tree_names_every_module() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    words = set(readme.split("## Where things are")[1].replace("/", " ").replace(",", " ").replace(";", " ").split())
    words |= {word.strip("():.") for word in words}
    missing = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.stem.removesuffix("_backend")
            if not name.startswith("__") and name not in words and "suites" not in path.parts:
                missing.append(str(path.relative_to(ROOT)))
    assert missing == [], "add them to README's tree, each with a phrase"
