"""Memory as a run sets it up: kept when it is freed, and in large pages where the system has them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
LOOK = """
import json, re, resource
import torch
from core_ml.model import device

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def flags(address):
    found = []
    for line in open("/proc/self/smaps"):
        if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(span[1], 16) <= address < int(span[2], 16)
        elif line.startswith("VmFlags:") and inside:
            found = line.split()[1:]
    return found

for _ in range(2):
    device.use_threads(1)
size = 16_000_000
seen = []
for _ in range(6):
    before = faults()
    held = torch.ones(size)
    seen.append(faults() - before)
    told = {"faults": min(seen), "flags": flags(held.data_ptr() + 2 * size)}
    del held
print(json.dumps(told))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="how glibc keeps memory is a matter of Linux")


@pytest.fixture(scope="module")
def told() -> dict:
    made = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


def test_memory_that_was_freed_is_used_again_without_a_fault(told):
    # 64 MB are 15,625 pages of 4 kB, or 31 of 2 MB; a hole may be a few bytes too small the first times.
    assert told["faults"] < 20


@pytest.mark.skipif(
    not THP.exists() or "[never]" in THP.read_text(), reason="this system has no large pages to give"
)
def test_large_pages_are_asked_for_where_tensors_lie(told):
    assert "hg" in told["flags"]
