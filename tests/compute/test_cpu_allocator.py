"""The allocator settings reach the process, keep what the user chose, and stay away where they do not apply."""

import os
import subprocess
import sys

import pytest

from kit import cpu_allocator


@pytest.fixture
def glibc(monkeypatch):
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(cpu_allocator, "NVIDIA", cpu_allocator.Path("/nowhere"))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)


def test_settings(glibc):
    found = cpu_allocator.environment()
    assert "glibc.malloc.mmap_max=0" in found["GLIBC_TUNABLES"].split(":")
    assert found["THP_MEM_ALLOC_ENABLE"] == "1"


def test_the_users_own_settings_win(glibc, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.mmap_max=9:glibc.malloc.tcache_count=3")
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    found = cpu_allocator.environment()
    assert {"glibc.malloc.mmap_max=9", "glibc.malloc.tcache_count=3"} <= set(found["GLIBC_TUNABLES"].split(":"))
    assert found["THP_MEM_ALLOC_ENABLE"] == "0"


@pytest.mark.parametrize("libc", ["", "libc", "musl"])
def test_not_without_glibc(glibc, monkeypatch, libc):
    monkeypatch.setattr("platform.libc_ver", lambda: (libc, ""))
    assert cpu_allocator.environment() == {}


def test_not_beside_a_gpu(glibc, monkeypatch, tmp_path):
    monkeypatch.setattr(cpu_allocator, "NVIDIA", tmp_path)
    assert cpu_allocator.environment() == {}


def test_a_command_runs_with_them_and_its_exit_code_comes_back():
    show = "import os, sys; print(os.environ.get('GLIBC_TUNABLES')); sys.exit(3)"
    done = subprocess.run(
        [sys.executable, "-m", "kit.cpu_allocator", sys.executable, "-c", show], capture_output=True, text=True
    )
    assert done.returncode == 3
    assert done.stdout.strip() == str(
        cpu_allocator.environment().get("GLIBC_TUNABLES", os.environ.get("GLIBC_TUNABLES"))
    )


def test_a_command_that_does_not_exist():
    done = subprocess.run([sys.executable, "-m", "kit.cpu_allocator", "no-such-thing"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "cannot run 'no-such-thing'" in done.stderr
