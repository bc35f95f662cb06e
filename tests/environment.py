"""The environment of the suite, set before Django's settings are read: a lab of its own in a temporary LAB_HOME.

pytest loads it as a plugin (see pyproject.toml), since pytest-django reads the settings before any conftest.
"""

import os
import shutil
import tempfile
from pathlib import Path

HOME = Path(tempfile.mkdtemp(prefix="m37-"))
os.environ["LAB_HOME"] = str(HOME)
os.environ["CORE_ML_CACHE"] = str(HOME / "cache")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
if beside := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):  # processes that share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // beside)))
os.environ.setdefault("TLDEXTRACT_CACHE", str(HOME / "tldextract"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)
