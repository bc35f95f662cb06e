"""What the project promises about itself: its layers, its imports, its top level, its compose file."""

import os
import pkgutil
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOP_LEVEL = {
    "manage.py", "pyproject.toml", "README.md", "lab", "worker", "core_ml", "templates", "tests",
    "docker-compose.yml", "benchmarks", "docs", "Makefile", "requirements.lock", "CHANGELOG.md", "LICENSE",
}  # fmt: skip


def tracked() -> list[str]:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("this is not a checkout, so there is no list of its files")
    return listing.stdout.splitlines()


@pytest.mark.parametrize("package", ["core_ml", "lab", "worker"])
def test_every_module_can_be_imported(package: str):
    root = import_module(package)
    for module in pkgutil.walk_packages(root.__path__, f"{package}."):
        if not module.name.endswith("__main__"):
            import_module(module.name)


def test_web_starts_without_torch():
    code = (
        "import sys, django; from lab.asgi import application; import lab.urls; "
        "assert not {'torch', 'pandas', 'datasets'} & set(sys.modules), 'web loads a heavy library'"
    )
    environment = {"DJANGO_SETTINGS_MODULE": "lab.settings"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, check=True)


def test_the_top_level_is_what_the_readme_says():
    assert {path.partition("/")[0] for path in tracked() if not path.startswith(".")} == TOP_LEVEL


def test_every_link_of_the_readme_leads_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target


def test_the_compose_file_is_valid():
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        "docker-compose.yml",
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_every_dependency_is_pinned_and_says_why_it_is_there():
    text = (ROOT / "pyproject.toml").read_text()
    pinned = (ROOT / "requirements.lock").read_text().lower()
    wanted = [line.strip() for line in text.splitlines() if line.strip().startswith('"') and "#" in line]
    assert len(wanted) > 25
    for line in wanted:
        name = line.strip('"').split(">")[0].split("=")[0].split("[")[0].split('"')[0].lower()
        assert f"\n{name.replace('_', '-')}==" in pinned.replace("_", "-"), name
        assert line.partition("#")[2].strip(), f"{name} does not say why it is there"


def test_nothing_runs_text_as_code_or_loads_pickles():
    forbidden = re.compile(
        r"pickle\.load|torch\.load\(|(?<![.\w])(eval|exec)\(|shell=True|mark_safe|(inner|outer)HTML\s*=(?!=)|insertAdjacentHTML|\|safe\b"
    )
    for path in tracked():
        if path.startswith(("lab/", "core_ml/", "worker/", "templates/")) and path.endswith(
            (".py", ".html", ".js")
        ):
            found = forbidden.search((ROOT / path).read_text())
            assert not found, f"{path} has {found[0]}"


def test_no_page_loads_anything_from_elsewhere():
    for path in tracked():
        if path.startswith("templates/") or (
            path.endswith((".css", ".js")) and path.startswith("lab/static")
        ):
            text = (ROOT / path).read_text()
            for word in ('src="http', 'src="//', '@import "http', "url(http", 'rel="stylesheet" href="http'):
                assert word not in text, f"{path} has {word}"
