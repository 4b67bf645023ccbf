"""The packages of the wheel: all of lume_run as found, and conf/ beside them as lume_run/config/conf."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["lume_run", "lume_run.*"]), "lume_run.config.conf"],
    package_dir={"lume_run.config.conf": "conf"},
)
