"""Where an OMOP CDM's tables are: files in a folder, or a database. Both are read a row at a time, and only read."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from forgetmi.data_adapters.streams import Row, as_text, positions, stream_table
from forgetmi.delimited import base_suffix, open_text
from forgetmi.errors import DataError, MissingDependencyError

_SUFFIXES = (".csv", ".tsv", ".parquet")
_SQLITE = (".db", ".sqlite", ".sqlite3")


class Tables(Protocol):
    """Tables by name, lower case.

    Attributes:
        columns: table to its columns, lower case.
    """

    columns: dict[str, tuple[str, ...]]

    def rows(self, table: str, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Row]:
        """``table:row`` (or ``file:row``) and the cells of the columns, as text, blank where missing.

        Raises:
            DataError: the table cannot be read, or lacks a column.
        """
        ...


def open_tables(root: Path | None, database_env: str | None, schema: str | None) -> Tables:
    """The tables in a folder, in an SQLite file, or behind the URL in an environment variable.

    Raises:
        DataError: there is nothing of the kind, or it cannot be read.
        MissingDependencyError: a database without SQLAlchemy.
    """
    if root is None:
        return Database(_url(database_env or ""), schema)
    if root.is_dir():
        return Folder(root)
    if not root.is_file() or root.suffix.lower() not in _SQLITE:
        raise DataError(
            f"there is no folder and no database {root.name}",
            where=str(root.parent),
            expected=f"a folder of tables, or an SQLite file that ends in {', '.join(_SQLITE)}",
            fix="correct root in the configuration",
        )
    return Database(root, schema)


class Folder:
    """Files, ``person.csv``, ``PERSON.csv.gz``, ``person.parquet``, or a folder ``person`` of Parquet parts.

    A ``.csv`` whose header has tabs and no commas is separated by tabs: the vocabularies are downloaded so.
    """

    def __init__(self, root: Path) -> None:
        self._files: dict[str, list[Path]] = {}
        self._delimiters: dict[str, str | None] = {}
        self.columns: dict[str, tuple[str, ...]] = {}
        found: dict[str, dict[Path, list[Path]]] = {}
        for path in sorted(root.iterdir()):
            parts = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
            if parts and (path.is_dir() or base_suffix(path) in _SUFFIXES):
                # A file beside its own zipped twin is one table.
                twin = path.with_suffix("") if path.suffix.lower() == ".gz" else path
                found.setdefault(path.name.partition(".")[0].lower(), {}).setdefault(twin, parts)
        for table, versions in found.items():
            if len(versions) > 1:
                raise DataError(
                    f"the table {table} is there {len(versions)} times: {', '.join(p.name for p in versions)}",
                    where=str(root),
                    expected="one file a table",
                    fix="leave one of them in the folder",
                )
            (self._files[table],) = versions.values()
            header, self._delimiters[table] = _header(self._files[table][0])
            self.columns[table] = tuple(name.strip().lower() for name in header)
        self._root = root

    def rows(self, table: str, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Row]:
        """See :class:`Tables`."""
        require_table(self, table, str(self._root))
        for path in self._files[table]:
            yield from stream_table(path, columns, optional, delimiter=self._delimiters[table])


class Database:
    """A database, through SQLAlchemy. An SQLite file is opened in its read-only mode.

    Args:
        source: a URL, or an SQLite file.
        schema: the schema of the CDM; the connection's own by default.
    """

    def __init__(self, source: str | Path, schema: str | None) -> None:
        try:
            import sqlalchemy
        except ImportError as error:
            raise MissingDependencyError("Reading a database", "sql") from error
        self._schema, self._where = schema, "the database"
        try:
            url = sqlalchemy.make_url(source) if isinstance(source, str) else sqlalchemy.URL.create("sqlite")
            file = source if isinstance(source, Path) else url.database
            if url.get_backend_name() == "sqlite":
                # Otherwise SQLite makes an empty database of a misspelt name.
                if not file or not Path(file).is_file():
                    raise DataError("there is no such SQLite file", private=[str(file)])
                self._where = Path(file).name
                self._engine = sqlalchemy.create_engine("sqlite://", creator=_ReadOnly(Path(file)))
            else:
                self._engine = sqlalchemy.create_engine(url)
        except (sqlalchemy.exc.ArgumentError, ValueError) as error:
            raise DataError(
                "the database's URL cannot be read", expected="dialect+driver://user:password@host/database"
            ) from error
        except ImportError as error:
            raise DataError(
                f"the database's driver is not installed: {error.name}", fix=f"pip install {error.name}"
            ) from error
        with self._readable():
            inspector = sqlalchemy.inspect(self._engine)
            names = [*inspector.get_table_names(schema), *inspector.get_view_names(schema)]
            self._names = {name.lower(): name for name in names}
            self._columns = {
                table: [column["name"] for column in inspector.get_columns(name, schema)]
                for table, name in self._names.items()
            }
        self.columns = {table: tuple(map(str.lower, names)) for table, names in self._columns.items()}

    def rows(self, table: str, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Row]:
        """See :class:`Tables`. Rows are in the order of the table's own id; a place is the number in that order."""
        import sqlalchemy

        require_table(self, table, self._where)
        names = self._columns[table]
        at = positions(names, columns, optional, table)
        # Columns without types: SQLAlchemy then passes on what the driver gives and converts nothing.
        wanted: list[Any] = [sqlalchemy.column(names[i]) for i in at if i is not None]
        statement = sqlalchemy.select(*wanted).select_from(sqlalchemy.table(self._names[table], schema=self._schema))
        if f"{table}_id" in self.columns[table]:
            statement = statement.order_by(sqlalchemy.column(names[self.columns[table].index(f"{table}_id")]))
        with self._readable(), self._engine.connect() as connection:
            found = connection.execution_options(stream_results=True, yield_per=10_000).execute(statement)
            for number, row in enumerate(found, start=1):
                place = f"{table}:{number}"
                cells = iter(as_text([_decoded(value, place) for value in row]))
                yield place, ["" if i is None else next(cells) for i in at]

    @contextmanager
    def _readable(self) -> Iterator[None]:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except SQLAlchemyError as error:
            # A driver's message may hold the address of the server; it never goes into a log.
            raise DataError(
                f"{self._where} cannot be read ({type(error).__name__})",
                where=self._where,
                fix="check the URL, the schema, and that the account may read the tables",
                private=[str(getattr(error, "orig", None) or error)],
            ) from None


class _ReadOnly:
    """Opens an SQLite file so that nothing can be written."""

    def __init__(self, path: Path) -> None:
        self._address = f"{path.resolve().as_uri()}?mode=ro"

    def __call__(self) -> Any:
        import sqlite3

        return sqlite3.connect(self._address, uri=True)


def require_table(tables: Tables, table: str, where: str) -> None:
    """Raise :class:`DataError` where there is no such table."""
    if table not in tables.columns:
        raise DataError(
            f"there is no table {table}",
            where=where,
            expected=f"{table}.csv, {table}.csv.gz or {table}.parquet, or a table of that name",
            fix="copy it there, or leave out what needs it (modalities, measurements, diagnoses, unit)",
        )


def _url(variable: str) -> str:
    found = os.environ.get(variable, "")
    if not found:
        raise DataError(
            f"the environment variable {variable} is not set",
            expected="the database's URL, as dialect+driver://user:password@host/database",
            fix=f"export {variable}=...; the URL stays out of the configuration because it holds a password",
        )
    return found


def _header(path: Path) -> tuple[list[str], str | None]:
    """Column names, and the delimiter where it is not the one that the file's name says."""
    if base_suffix(path) == ".parquet":
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise MissingDependencyError("Reading a Parquet file", "parquet") from error
        try:
            return list(pq.read_schema(path).names), None
        except (OSError, ValueError, ArithmeticError, pa.ArrowException) as error:  # text that is no UTF-8
            raise DataError(f"{path.name} cannot be read: {error}", where=str(path.parent)) from error
    with open_text(path) as stream:
        line = stream.readline()
    delimiter = "\t" if base_suffix(path) == ".tsv" or ("\t" in line and "," not in line) else ","
    try:
        return next(csv.reader([line], delimiter=delimiter), []), delimiter
    except csv.Error as error:
        raise DataError(f"{path.name} has no readable header: {error}", where=f"{path.name}:1") from error


def _decoded(value: Any, place: str) -> Any:
    if not isinstance(value, bytes | memoryview):
        return value
    try:
        return bytes(value).decode()
    except UnicodeDecodeError as error:
        raise DataError("a cell holds bytes that are no UTF-8 text", where=place) from error
