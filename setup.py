"""What pyproject.toml cannot say: claim lists, experiments and tables travel in the package, as ``lorabook/data``."""

import tempfile

from setuptools import find_packages, setup

with tempfile.TemporaryDirectory() as scratch:  # or what a build leaves behind would travel in the next one
    setup(
        packages=[*find_packages(include=["lorabook*"]), "lorabook.data"],
        package_dir={"lorabook.data": "data"},
        package_data={
            "lorabook.page": ["*.mplstyle"],
            "lorabook.data": [
                *("claims/*.yml", "experiments/*.yml", "practice/*.csv", "real_fine_tune/*.csv", "kim_minilm/*.csv"),
                *("published/*.csv", "published/PROVENANCE.md"),
            ],
        },
        include_package_data=False,
        options={"build": {"build_base": scratch}, "egg_info": {"egg_base": scratch}},
    )
