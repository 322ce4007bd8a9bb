"""What every adapter of the registry promises, on the small sources of ``factories.py``."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

from forgetmi.batch import Loader
from forgetmi.data_adapters import ADAPTERS, load_dataset
from forgetmi.errors import DataError, RequestError
from forgetmi.records import LEVELS, LazyValue
from forgetmi.requests import ForgetRequest, resolve
from tests.data_adapters.factories import FACTORIES

TABLES = (".csv", ".tsv", ".ndjson", ".jsonl")


class Fingerprint:
    """A stand-in for every kind of modality: an example is a few numbers that depend on the whole value."""

    kind = "any"
    default_noise = None

    def prepare(self, value):
        digest = hashlib.sha256(fingerprint(value)).digest()[:8]
        return torch.tensor(list(digest), dtype=torch.float32)

    def blank(self):
        return torch.zeros(8)

    def collate(self, examples):
        return torch.stack(list(examples))


def fingerprint(value):
    """Bytes that say what a value is: arrays by type, shape and content, others as Python writes them."""
    if isinstance(value, np.ndarray | torch.Tensor):
        array = np.asarray(value)
        return f"{array.dtype}{array.shape}".encode() + array.tobytes()
    return repr(value).encode()


def content(dataset):
    """Everything in the records, values read."""
    return [
        (
            *(r.sample_id, r.study_id, r.patient_id, r.institution, r.label, r.split),
            *((name, fingerprint(r.value(name))) for name in sorted(r.modalities)),
        )
        for r in dataset
    ]


def snapshot(root):
    return sorted((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in [root, *root.rglob("*")])


_watched: list[str] = []
_written: list[str] = []


def _note_writes(event, arguments):
    if not _watched:
        return
    touched = []
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        touched = arguments[:1]
    elif event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate"):
        touched = arguments
    paths = [os.path.abspath(path) for path in touched if isinstance(path, str | os.PathLike)]
    _written.extend(f"{event} {path}" for path in paths if path.startswith(_watched[0]))


@contextmanager
def watched(root):
    """The list of attempts to write below ``root``, also of those that would succeed because the tests run as root."""
    _written.clear()
    _watched.append(str(root))
    try:
        yield _written
    finally:
        _watched.clear()


sys.addaudithook(_note_writes)


@pytest.fixture(params=sorted(set(ADAPTERS) & set(FACTORIES)))
def name(request):
    return request.param


@pytest.fixture
def source(name, tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    return FACTORIES[name](folder)


def test_every_adapter_has_a_factory():
    assert sorted(ADAPTERS) == sorted(FACTORIES)


def test_the_adapter_says_what_it_is(name):
    adapter = ADAPTERS[name]
    assert adapter.name == name
    assert adapter.summary and adapter.license_note
    assert adapter.levels == tuple(level for level in LEVELS if level in adapter.levels)


def test_records_are_sorted_their_ids_are_text_and_every_split_is_known(name, source):
    data = load_dataset(name, source.options)
    keys = [(r.patient_id, r.study_id, r.sample_id) for r in data]
    assert keys == sorted(keys)
    assert all(type(cell) is str for key in keys for cell in key)
    assert all(cell and cell == cell.strip() for key in keys for cell in key)
    assert data.license_note
    assert all(set(r.modalities) == set(data.modality_kinds) for r in data)
    assert {r.split for r in data} >= {"train"}
    assert all(type(cell) is str and cell.strip() for r in data for pair in r.attributes.items() for cell in pair)
    for record in data:
        if isinstance(record.label, tuple):
            assert len(record.label) == len(data.classes)
        elif record.label is not None:
            assert type(record.label) is int and 0 <= record.label < len(data.classes)


def test_levels_are_honest(name, source):
    data = load_dataset(name, source.options)
    assert set(data.levels) <= set(ADAPTERS[name].levels)
    for record in data:
        # An id that is not real repeats the finer one, so that nothing looks like a link that is none.
        if "institution" not in data.levels:
            assert record.institution == ""
        if "patient" not in data.levels:
            assert record.patient_id in (record.study_id, record.sample_id)
        if "study" not in data.levels:
            assert record.study_id in (record.sample_id, record.patient_id)
    first = next(r for r in data if r.split == "train")
    ids = {
        "institution": first.institution,
        "patient": first.patient_id,
        "study": first.study_id,
        "sample": first.sample_id,
    }
    for level in ("patient", "study", "sample"):
        request = ForgetRequest.of(level, [ids[level]])
        if level not in data.levels:
            with pytest.raises(RequestError, match="cannot support"):
                resolve(data, request)
            continue
        partition = resolve(data, request, remaining="exclude")
        field = f"{level}_id"
        named = [i for i, r in enumerate(data) if getattr(r, field) == ids[level] and r.split == "train"]
        assert partition.forget == tuple(named)
        for other, canonical in data.aliases.get(level, {}).items():
            if canonical == ids[level]:  # another id of the same person or study is the same request
                assert resolve(data, ForgetRequest.of(level, [other]), remaining="exclude").forget == tuple(named)


def test_loading_reads_no_pixel(name, source, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("an image was read while the source was indexed")

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", refuse)
        patch.setattr("pydicom.pixels.pixel_array", refuse)
        patch.setattr("pydicom.Dataset.pixel_array", property(refuse))
        patch.setattr("forgetmi.data_adapters.images.ImageFile.load", refuse)
        data = load_dataset(name, source.options)
    if source.lazy:
        kinds = {name for name, kind in data.modality_kinds.items() if kind in ("image", "volume", "signal")}
        values = [r.modalities[name] for r in data for name in kinds]
        assert all(value is None or isinstance(value, LazyValue) for value in values)


def test_the_watch_sees_a_write(tmp_path):
    with watched(tmp_path / "source") as written:
        (tmp_path / "other").write_text("")
        assert written == []
        (tmp_path / "source").mkdir()
        (tmp_path / "source" / "new").write_text("")
        assert len(written) == 2


def test_nothing_is_written_into_the_source(name, source):
    before = snapshot(source.root)
    with watched(source.root) as written:
        content(load_dataset(name, source.options))
    assert written == []
    assert snapshot(source.root) == before


def test_a_read_only_folder_works(name, source):
    expected = content(load_dataset(name, source.options))
    paths = [source.root, *source.root.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert content(load_dataset(name, source.options)) == expected
    finally:
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


class _Batches(torch.utils.data.Dataset):
    def __init__(self, loader, batches):
        self.loader, self.batches = loader, batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, position):
        batch = self.loader.batch(self.batches[position])
        return [batch.indices, *(batch.inputs[k] for k in sorted(batch.inputs)), *batch.present.values()]


def test_the_same_batches_for_any_number_of_workers(name, source):
    data = load_dataset(name, source.options)
    order = list(range(len(data)))
    batches = [order[start : start + 3] for start in range(0, len(order), 3)]
    loader = Loader(data, dict.fromkeys(data.modality_kinds, Fingerprint()), cache=False)
    seen = []
    for workers in (0, 1, 4):
        read = torch.utils.data.DataLoader(_Batches(loader, batches), batch_size=None, num_workers=workers)
        seen.append([[tensor.tolist() for tensor in batch] for batch in read])
    assert seen[0] == seen[1] == seen[2]


def test_records_survive_the_way_to_another_process(name, source):
    data = load_dataset(name, source.options)
    assert content(pickle.loads(pickle.dumps(data))) == content(data)


def test_a_broken_file_is_named_or_counted(name, source):
    before = load_dataset(name, source.options)
    patients = {p for p in before.patients() if len(p) > 4}
    source.breakable.write_bytes(b"\x00 this is no such file")
    try:
        data = load_dataset(name, source.options)
        if data.skipped.total > before.skipped.total:
            assert len(data) < len(before)
            assert any(source.breakable.name in place for places in data.skipped.examples.values() for place in places)
            return
        with pytest.raises(DataError) as caught:
            content(data)
        error = caught.value
    except DataError as raised:
        error = raised
    assert source.breakable.name in str(error)
    assert not [p for p in patients if p in error.public]


def test_gzipped_tables_are_read_alike(name, source):
    expected = content(load_dataset(name, source.options))
    plain = [p for p in source.root.rglob("*") if p.suffix in TABLES]
    zipped = [p for p in source.root.rglob("*.gz") if p.with_suffix("").suffix in TABLES]
    for path in plain:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        path.unlink()
    for path in zipped:
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    if not plain and not zipped:
        pytest.skip("this source has no table of text")
    assert content(load_dataset(name, source.options)) == expected
