"""Brings the system's Chromium for the browser tests where it is missing and can be had: Debian, as root.

Elsewhere it says so in one sentence, and the browser tests are skipped.
"""

import os
import shutil
import subprocess

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


def find() -> str | None:
    """The path of a Chromium of the system, or None."""
    if given := os.environ.get("CHROMIUM"):
        return given
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def main() -> None:
    if find():
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        print(
            "There is no Chromium, so the browser tests are skipped: install the package chromium to run them."
        )
        return
    print("Installing Chromium for the browser tests")
    for command in (
        ["apt-get", "update"],
        ["apt-get", "install", "-y", "--no-install-recommends", "chromium"],
    ):
        result = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        )
        if result.returncode:
            print(
                f"Chromium could not be installed, so the browser tests are skipped: {result.stderr.strip()[-200:]}"
            )
            return


if __name__ == "__main__":
    main()
