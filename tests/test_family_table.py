"""The guide's table of neurons: of the registry as it is, and of what was measured."""

from benchmarks import family, record
from tgo_kernels import neurons


def test_the_table_is_that_of_the_registry_and_of_what_was_measured():
    (table,) = family.BETWEEN.findall(family.PAGE.read_text())
    assert table == family.table(record.read(record.RESULTS / "family.csv"))
    assert all(f"`{kind.__name__}` | {', '.join(kind.STATES)}" in table for kind in neurons.HOUSE)


def test_it_is_measured(tmp_path, capsys):
    family.main(["--small", "--rounds", "1", "--out", str(tmp_path / "family.csv")])
    rows = record.read(tmp_path / "family.csv")
    others = len(neurons.HOUSE) - 1
    assert [row["figure"] for row in rows].count("plain") == 2 * others and len(rows) == 4 * others + 2
    assert all(float(row["value"]) > 0 for row in rows)
    assert family.table(rows) in capsys.readouterr().out
