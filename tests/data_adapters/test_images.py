"""Image files: known pixels come back as the same numbers in 0..1, and a broken file is named."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from forgetmi.data_adapters.images import ImageFile, TextFile
from forgetmi.errors import DataError
from forgetmi.records import LazyValue


def _png(path, array):
    Image.fromarray(array).save(path)
    return ImageFile(path)


def _dicom(path, pixels, *, bits=12, photometric="MONOCHROME2", signed=False, **tags):
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, data.file_meta.MediaStorageSOPInstanceUID
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, photometric
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, bits, bits - 1
    data.PixelRepresentation = int(signed)
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = pixels.astype("<i2" if signed else "<u2").tobytes()
    data.save_as(path, enforce_file_format=True)
    return ImageFile(path)


class TestPictures:
    def test_8_bit_grey(self, tmp_path):
        array = np.array([[0, 51], [102, 255]], dtype=np.uint8)
        value = _png(tmp_path / "a.png", array).load()
        assert value.dtype == np.float32 and value.shape == (2, 2)
        np.testing.assert_allclose(value, [[0, 0.2], [0.4, 1]], rtol=1e-6)

    def test_16_bit_grey_is_divided_by_65535(self, tmp_path):
        array = np.array([[0, 13107], [300, 65535]], dtype=np.uint16)
        np.testing.assert_allclose(_png(tmp_path / "a.png", array).load(), array / 65535, rtol=1e-6)

    def test_colour_palette_and_channels(self, tmp_path):
        array = np.array([[[255, 0, 0], [0, 0, 255]]], dtype=np.uint8)
        _png(tmp_path / "rgb.png", array)
        Image.fromarray(array).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "p.png")
        for name in ("rgb.png", "p.png"):
            np.testing.assert_allclose(ImageFile(tmp_path / name).load(), array / 255, atol=1e-6)
            np.testing.assert_allclose(ImageFile(tmp_path / name, 1).load(), [[0.299, 0.114]], atol=1e-6)
        _png(tmp_path / "g.png", np.array([[51]], dtype=np.uint8))
        np.testing.assert_allclose(ImageFile(tmp_path / "g.png", 3).load(), np.full((1, 1, 3), 0.2), rtol=1e-6)

    def test_what_is_transparent_becomes_black(self, tmp_path):
        array = np.array([[[255, 128, 0, 255], [255, 255, 255, 0]]], dtype=np.uint8)
        value = _png(tmp_path / "a.png", array).load()
        np.testing.assert_allclose(value, [[[1, 128 / 255, 0], [0, 0, 0]]], atol=1e-6)
        grey = np.array([[[200, 255], [200, 0]]], dtype=np.uint8)
        np.testing.assert_allclose(_png(tmp_path / "la.png", grey).load(), [[200 / 255, 0]], atol=1e-6)

    def test_one_bit_and_jpeg(self, tmp_path):
        Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
        assert ImageFile(tmp_path / "a.png").load().tolist() == [[1, 0]]
        Image.fromarray(np.full((8, 8), 128, np.uint8)).save(tmp_path / "a.jpg")
        np.testing.assert_allclose(ImageFile(tmp_path / "a.jpg").load(), np.full((8, 8), 128 / 255), atol=2 / 255)

    @pytest.mark.parametrize("suffix", ["png", "jpg"])
    def test_a_truncated_image_is_named_privately(self, tmp_path, suffix):
        noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
        path = tmp_path / f"p10000032.{suffix}"
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:-400])
        with pytest.raises(DataError, match="truncated") as caught:
            ImageFile(path).load()
        assert str(path) in str(caught.value) and "10000032" not in caught.value.public

    @pytest.mark.parametrize("content", [b"", b"no image", None])
    def test_missing_or_no_image(self, tmp_path, content):
        path = tmp_path / "a.dcm"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match="missing" if content is None else "cannot be decoded") as caught:
            ImageFile(path).load()
        assert str(path) in str(caught.value)


class TestDicom:
    PIXELS = np.array([[0, 1000], [2000, 4095]])

    def test_without_a_window_the_stored_bits_give_the_range(self, tmp_path):
        np.testing.assert_allclose(_dicom(tmp_path / "a", self.PIXELS).load(), self.PIXELS / 4095, rtol=1e-6)

    def test_monochrome1_is_inverted(self, tmp_path):
        value = _dicom(tmp_path / "a", self.PIXELS, photometric="MONOCHROME1").load()
        np.testing.assert_allclose(value, 1 - self.PIXELS / 4095, atol=1e-6)

    def test_rescale_alone_changes_nothing_in_0_to_1(self, tmp_path):
        value = _dicom(tmp_path / "a", self.PIXELS, RescaleSlope="2", RescaleIntercept="-1024").load()
        np.testing.assert_allclose(value, self.PIXELS / 4095, atol=1e-6)

    def test_signed_pixels(self, tmp_path):
        pixels = np.array([[-2048, 0, 2047]])
        np.testing.assert_allclose(
            _dicom(tmp_path / "a", pixels, signed=True).load(), (pixels + 2048) / 4095, atol=1e-6
        )

    @pytest.mark.parametrize("slope", [1, -1])
    def test_a_linear_window_on_rescaled_values(self, tmp_path, slope):
        # PS3.3 C.11.2.1.2.1 with c = 1000, w = 1001: y = (x - 999.5) / 1000 + 0.5, clipped to 0..1
        intercept = 0 if slope == 1 else 4095
        stored = np.array([[0, 499, 500, 1000, 1500, 3000]])
        pixels = (stored - intercept) * slope
        value = _dicom(
            tmp_path / "a",
            pixels,
            WindowCenter="1000",
            WindowWidth="1001",
            RescaleSlope=str(slope),
            RescaleIntercept=str(intercept),
        ).load()
        expected = np.clip((stored - 999.5) / 1000 + 0.5, 0, 1)
        np.testing.assert_allclose(value, expected, atol=1e-6)

    def test_the_first_of_two_windows_counts(self, tmp_path):
        value = _dicom(
            tmp_path / "a", np.array([[0, 10, 4095]]), WindowCenter=["10.5", "2000"], WindowWidth=["11", "4000"]
        ).load()
        np.testing.assert_allclose(value, [[0, 0.5, 1]], atol=1e-6)

    def test_a_voi_table(self, tmp_path):
        table = Dataset()
        table.LUTDescriptor, table.LUTData = [4, 0, 10], [0, 1023, 512, 256]
        table["LUTDescriptor"].VR = "US"
        table["LUTData"].VR = "US"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            value = _dicom(
                tmp_path / "a",
                np.array([[0, 1, 2, 3, 9]]),
                VOILUTSequence=Sequence([table]),
                RescaleSlope="1",
                RescaleIntercept="0",
            ).load()
        np.testing.assert_allclose(value, np.array([[0, 1023, 512, 256, 256]]) / 1023, atol=1e-6)

    def test_colour(self, tmp_path):
        path = tmp_path / "a"
        _dicom(path, self.PIXELS)
        data = pydicom.dcmread(path)
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
        data.BitsAllocated, data.BitsStored, data.HighBit, data.Rows, data.Columns = 8, 8, 7, 1, 2
        data.PixelData = bytes([255, 0, 51, 0, 102, 0])
        data.save_as(path)
        np.testing.assert_allclose(ImageFile(path).load(), [[[1, 0, 0.2], [0, 0.4, 0]]], atol=1e-6)

    def test_several_frames_are_refused(self, tmp_path):
        with pytest.raises(DataError, match="2 frames"):
            _dicom(tmp_path / "a", np.zeros((2, 2, 2)), NumberOfFrames="2").load()

    def test_palette_indices_are_not_taken_for_grey(self, tmp_path):
        with pytest.raises(DataError, match="cannot be decoded"):
            _dicom(tmp_path / "a", self.PIXELS, photometric="PALETTE COLOR").load()

    def test_truncated(self, tmp_path):
        file = _dicom(tmp_path / "a.dcm", np.zeros((32, 32)))
        content = (tmp_path / "a.dcm").read_bytes()
        for cut in (200, len(content) - 500):
            (tmp_path / "a.dcm").write_bytes(content[:cut])
            with pytest.raises(DataError, match="cannot be decoded") as caught:
                file.load()
            assert "a.dcm" in str(caught.value)


def test_values_are_lazy_and_can_be_sent_to_workers(tmp_path):
    for value in (ImageFile(tmp_path / "none.png", 1), TextFile(tmp_path / "none.txt", str.strip)):
        assert isinstance(value, LazyValue)
        assert pickle.loads(pickle.dumps(value)) == value


def test_texts(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeff café ".encode())
    assert TextFile(path).load() == " café "
    assert TextFile(path, str.strip).load() == "café"
    path.write_bytes(b"caf\xe9")
    for broken in (path, tmp_path / "none.txt"):
        with pytest.raises(DataError) as caught:
            TextFile(broken).load()
        assert str(broken) in str(caught.value) and str(broken) not in caught.value.public
