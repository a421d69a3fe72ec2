"""What the kernel's own selftests print, as each series prints it, and how results are compared."""

from __future__ import annotations

from tests.test_stock_selftests import UNPATCHED, WAYS, counted, differing, outcomes

#: 6.1's kselftest.h, with what a program says between its lines.
LATER = """program test_memcontrol
ok 1 test_memcg_subtree_control
# a remark
not ok 2 test_memcg_low
ok 3 # SKIP test_memcg_swap_max
# Totals: pass:1 fail:1 xfail:0 xpass:0 skip:1 error:0
status 1
program mrelease_test
Success reaping a child with 1MB of memory allocations
status 0"""

#: 5.4's, which calls what it skips "not ok".
OLDER = """program test_core
ok 1 test_cgcore_destroy
not ok 2 # SKIP test_cgcore_lesser_ns_open
status 4"""


def test_lines_of_a_later_series() -> None:
    assert list(outcomes(LATER.splitlines())) == [
        ("test_memcontrol: test_memcg_subtree_control", "ok"),
        ("test_memcontrol: test_memcg_low", "not ok"),
        ("test_memcontrol: test_memcg_swap_max", "skip"),
        ("test_memcontrol", "exit status 1"),
        ("mrelease_test", "ok"),
    ]


def test_lines_of_an_older_series() -> None:
    assert list(outcomes(OLDER.splitlines())) == [
        ("test_core: test_cgcore_destroy", "ok"),
        ("test_core: test_cgcore_lesser_ns_open", "skip"),
        ("test_core", "skip"),
    ]


def test_names_without_what_is_left_to_luck() -> None:
    lines = ["program mrelease_test", "ok 1 Success reaping a child with 2MB of memory allocations"]
    assert list(outcomes(lines)) == [
        ("mrelease_test: Success reaping a child with memory allocations", "ok")
    ]


def test_what_usually_comes_counts() -> None:
    stock = {"a": ["ok", "ok", "not ok"], "b": ["ok"], "c": ["skip"], "d": ["ok", "not ok"]}
    patched = {"a": ["not ok", "ok", "ok"], "b": ["not ok"], "c": ["skip"], "d": ["not ok"]}
    assert differing({UNPATCHED: stock, WAYS[0]: patched}) == {"b"}
    assert differing({UNPATCHED: stock, WAYS[0]: stock}) == set()


def test_counted() -> None:
    assert counted(["ok", "skip", "ok"]) == "2 ok, 1 skip"
