"""The sample of images that stands for an encoder's inputs."""

from pathlib import Path

import pytest
from PIL import Image

from mmsr.bundle.preprocess import ImagePreprocess
from mmsr.export.encoders import read_sample
from mmsr.export.onnx_file import ExportError

SPEC = ImagePreprocess(size=8)


def images(folder: Path, readable: int, count: int) -> list[Path]:
    paths = [folder / f"{number}.png" for number in range(count)]
    for path in paths[count - readable :]:
        Image.new("RGB", (8, 8), "red").save(path)
    return paths


def test_images_that_have_gone_are_left_out(tmp_path: Path) -> None:
    pixels = read_sample(images(tmp_path, 2, 4), SPEC)
    assert list(pixels) == [2, 3]
    assert pixels[2].shape == (8, 8, 3)


@pytest.mark.parametrize(("readable", "count"), [(1, 3), (1, 16), (0, 1), (0, 0)])
def test_too_few_of_them_prove_nothing(tmp_path: Path, readable: int, count: int) -> None:
    with pytest.raises(ExportError, match=f"only {readable} of {count} sampled images"):
        read_sample(images(tmp_path, readable, count), SPEC)


def test_the_first_that_is_unreadable_is_named(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"no image")
    with pytest.raises(ExportError, match=r"0\.png: not an image \(8 bytes\)"):
        read_sample([tmp_path / "0.png"], SPEC)
