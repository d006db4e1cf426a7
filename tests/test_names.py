"""Names: composed within PostgreSQL's limit, and told from everybody else's by their mark."""

from __future__ import annotations

import string

import pytest
from hypothesis import assume, example, given, settings, strategies as st

from clonedb.errors import ConfigError
from clonedb.names import clone_name, new_owner, parse, template_name, unfinished_name

many = settings(max_examples=50, deadline=None, database=None)

prefixes = st.from_regex(r"[a-z][a-z0-9_]{0,23}", fullmatch=True)
fingerprints = st.text("0123456789abcdef", min_size=64, max_size=64)
owners = st.builds(new_owner)
numbers = st.integers(1, 99_999)
ours = st.one_of(
    st.builds(template_name, prefixes, fingerprints),
    st.builds(unfinished_name, prefixes, fingerprints, owners, numbers),
    st.builds(clone_name, prefixes, fingerprints, owners, numbers),
)
LONGEST = "a" * 24


@many
@given(prefixes, fingerprints, owners, numbers)
@example(LONGEST, "f" * 64, "a" * 10, 99_999)
@example("a_t_b", "0" * 64, "tttttttttt", 1)
@example("c_", "c" * 64, "cccccccccc", 1)
def test_composed_name_says_what_it_was_made_of(
    prefix: str, fingerprint: str, owner: str, number: int
) -> None:
    """Each kind of name fits into 63 bytes and is read back as what it is."""
    template = template_name(prefix, fingerprint)
    unfinished = unfinished_name(prefix, fingerprint, owner, number)
    clone = clone_name(prefix, fingerprint, owner, number)
    assert max(len(name.encode()) for name in (template, unfinished, clone)) <= 63
    assert len({template, unfinished, clone}) == 3
    for text, kind, beginning, whose in (
        (template, "template", 12, None),
        (unfinished, "unfinished", 12, owner),
        (clone, "clone", 6, owner),
    ):
        name = parse(prefix, text)
        assert name is not None
        assert (name.text, name.kind, name.fingerprint, name.owner) == (
            text,
            kind,
            fingerprint[:beginning],
            whose,
        )


def test_names_need_no_quotes() -> None:
    """People type them into psql: lower-case letters, digits and underscores, a letter first."""
    name = clone_name("clonedb", "0" * 64, new_owner(), 12)
    assert set(name) <= set(string.ascii_lowercase + string.digits + "_")
    assert name.startswith("clonedb_c_000000_")


def test_every_process_has_the_same_name_for_a_template_and_its_own_for_clones() -> None:
    """The template's name follows from its fingerprint alone; owners are random."""
    assert template_name("clonedb", "ab" * 32) == template_name("clonedb", "ab" * 32)
    assert len({new_owner() for _ in range(1000)}) == 1000


@many
@given(prefixes, st.text(max_size=63))
@example("clonedb", "clonedb")
@example("clonedb", "clonedb_")
@example("clonedb", "clonedb_t_0123456789ab_000000")
@example("clonedb", "clonedb_test")
@example("postgres", "postgres")
def test_foreign_name_is_not_ours(prefix: str, text: str) -> None:
    """A database that somebody else made is never taken for one of ours, not even with our prefix."""
    assert parse(prefix, text) is None
    assert parse(prefix, f"{prefix}_{text}") is None
    assert parse(prefix, f"{prefix}_t_{text}") is None


@many
@given(ours, st.data())
def test_changed_name_is_not_ours(text: str, data: st.DataObject) -> None:
    """One character changed, added or left out, and the mark does not fit."""
    place = data.draw(st.integers(0, len(text)))
    character = data.draw(st.sampled_from(string.ascii_lowercase + string.digits + "_"))
    for changed in (
        text[:place] + character + text[place + 1 :],
        text[:place] + character + text[place:],
        text[:-1],
    ):
        assume(changed != text)
        for end in range(1, 25):
            assert parse(changed[:end], changed) is None


@many
@given(ours)
def test_exactly_one_prefix_claims_a_name(text: str) -> None:
    """Whatever a name's prefix looks like, gc under another one leaves the database alone."""
    assert [end for end in range(len(text)) if parse(text[:end], text)] in [
        [end] for end in range(1, 25)
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [("clonedb", "clonedb_x"), ("a", "a_t"), ("a", "a_c_b"), ("a", "a_"), ("shop", "shop2")],
)
def test_prefix_does_not_claim_the_names_of_a_longer_one(one: str, other: str) -> None:
    """Two projects on one server, `clonedb` and `clonedb_x`, do not collect each other's databases."""
    for mine, yours in ((one, other), (other, one)):
        for text in (
            template_name(mine, "0123456789abcdef" * 4),
            unfinished_name(mine, "c" * 64, "tcbtcbtcbt", 1),
            clone_name(mine, "0123456789abcdef" * 4, "aaaaaaaaaa", 7),
        ):
            assert parse(mine, text)
            assert parse(yours, text) is None


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "1a",
        "_a",
        "Shop",
        "shop-1",
        "shöp",
        "a b",
        'a"',
        "a;drop database x",
        "a" * 25,
        "a\n",
    ],
)
def test_bad_prefix_is_refused(prefix: str) -> None:
    """What would need quotes, or leave no room for the rest, is an error that says what a prefix is."""
    complaint = r"^prefix is .*; it takes a lower-case letter and up to 23 "
    with pytest.raises(ConfigError, match=complaint):
        template_name(prefix, "0" * 64)
    for compose in (unfinished_name, clone_name):
        with pytest.raises(ConfigError, match=complaint):
            compose(prefix, "0" * 64, "a" * 10, 1)
