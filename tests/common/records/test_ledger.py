"""Questions to the ledger."""

from common.records.accounts.ledger import Account, Used, Wanted, add, usage
from common.records.database import Records

ALL = Wanted("2026-01-01", "2026-12-31")


def test_usage_is_summed_by_day_and_by_the_chosen_dimensions(records: Records) -> None:
    counts = {
        Account("a", "m", "2026-11-26", "default"): Used(requests=1, prompt_tokens=10, gpu_us=3),
        Account("a", "n", "2026-11-26", "flex"): Used(requests=2, prompt_tokens=20),
        Account("b", "m", "2026-11-27", "default"): Used(requests=4, completion_tokens=5),
    }
    with records.begin() as connection:
        add(connection, counts)
        add(connection, counts)

    def asked(wanted: Wanted, *group_by: str) -> list[tuple[str, ...]]:
        with records.read() as connection:
            found = usage(connection, wanted, group_by)  # type: ignore[arg-type]
        return [(*account, str(used.requests)) for account, used in found]

    assert asked(ALL) == [("", "", "2026-11-26", "", "6"), ("", "", "2026-11-27", "", "8")]
    assert asked(ALL, "model", "tier") == [
        ("", "m", "2026-11-26", "default", "2"),
        ("", "n", "2026-11-26", "flex", "4"),
        ("", "m", "2026-11-27", "default", "8"),
    ]
    assert asked(Wanted("2026-11-27", "2026-11-27")) == [("", "", "2026-11-27", "", "8")]
    assert asked(Wanted("2026-01-01", "2026-12-31", owners=("a",), models=("n",)), "owner") == [
        ("a", "", "2026-11-26", "", "4")
    ]
    assert asked(Wanted("2026-01-01", "2026-12-31", owners=())) == []


def test_sums_larger_than_32_bits_are_exact(records: Records) -> None:
    with records.begin() as connection:
        add(connection, {Account("a", "m", "2026-11-26", "default"): Used(prompt_tokens=2**40, gpu_us=2**50)})
        add(connection, {Account("a", "m", "2026-11-26", "default"): Used(prompt_tokens=1, gpu_us=1)})
    with records.read() as connection:
        [(_, used)] = usage(connection, ALL, ())
    assert (used.prompt_tokens, used.gpu_us) == (2**40 + 1, 2**50 + 1)
