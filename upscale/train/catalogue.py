"""THE table of datasets: those that the three papers train and validate on, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class Part:
    """Pictures `first` to `last` (exclusive, by name) of a folder under the data folder, or of
    another dataset's part."""

    path: str
    first: int = 0
    last: int | None = None


@dataclass(frozen=True)
class Dataset:
    """A line of the table.

    pictures: how many there should be in `train`. settings: of TrainConfig, what the papers do
    with it unless the user says otherwise. preparing: the same in words.
    """

    title: str
    where: str
    licence: str
    layout: str
    train: tuple[Part, ...]
    validation: tuple[Part, ...]
    pictures: int
    preparing: str
    settings: Mapping[str, object] = field(default_factory=dict)


_FACES = MappingProxyType({"crop": "square", "domain": "face"})
_SQUARE = MappingProxyType({"crop": "square"})
_PATCH = MappingProxyType({"crop": "patch"})
_SQUARE_TEXT = "largest central square, area-resized to --patch, mirrored; LR bicubic antialiased"
_PATCH_TEXT = "random parts of --patch pixels, mirrored and turned; LR bicubic antialiased"
_LSUN = "https://github.com/fyu/lsun (download.py; objects: http://dl.yf.io/lsun/objects/)"
_LSUN_TERMS = "none stated; for research"
_HQ_VALIDATION = (Part("celeba-hq/CelebA-HQ-img", 0, 100),)

DATASETS: dict[str, Dataset] = {
    "ffhq": Dataset(
        "Flickr-Faces-HQ (Karras et al. 2019)", "https://github.com/NVlabs/ffhq-dataset",
        "CC BY-NC-SA 4.0; the photographs have licences of their own",
        "ffhq/images1024x1024/**/*.png",
        (Part("ffhq/images1024x1024"),), _HQ_VALIDATION, 70_000, _SQUARE_TEXT, _FACES,
    ),
    "celeba-hq": Dataset(
        "CelebA-HQ (Karras et al. 2018)", "https://github.com/switchablenorms/CelebAMask-HQ",
        "non-commercial research and education",
        "celeba-hq/CelebA-HQ-img/*.jpg",
        (Part("celeba-hq/CelebA-HQ-img", 100),), _HQ_VALIDATION, 29_900, _SQUARE_TEXT, _FACES,
    ),
    "celeba": Dataset(
        "CelebA, aligned (Liu et al. 2015)", "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        "non-commercial research", "celeba/img_align_celeba/000001.jpg to 202599.jpg",
        (Part("celeba/img_align_celeba", 0, 162_770),),
        (Part("celeba/img_align_celeba", 162_770, 182_637),), 162_770,
        _SQUARE_TEXT + " (ECDP's published code resizes the whole picture: --crop stretch)", _FACES,
    ),
    "div2k": Dataset(
        "DIV2K (Agustsson and Timofte 2017)", "https://data.vision.ee.ethz.ch/cvl/DIV2K/",
        "academic research", "div2k/DIV2K_train_HR/*.png and div2k/DIV2K_valid_HR/*.png",
        (Part("div2k/DIV2K_train_HR"),), (Part("div2k/DIV2K_valid_HR"),), 800, _PATCH_TEXT, _PATCH,
    ),
    "df2k": Dataset(
        "DIV2K and Flickr2K (Lim et al. 2017)",
        "DIV2K as above; https://cv.snu.ac.kr/research/EDSR/Flickr2K.tar", "academic research",
        "div2k/DIV2K_train_HR/*.png, div2k/DIV2K_valid_HR/*.png, flickr2k/Flickr2K_HR/*.png",
        (Part("div2k/DIV2K_train_HR"), Part("flickr2k/Flickr2K_HR")),
        (Part("div2k/DIV2K_valid_HR"),), 3450, _PATCH_TEXT, _PATCH,
    ),
    "imagenet": Dataset(
        "ImageNet 1K (Russakovsky et al. 2015)", "https://image-net.org/download-images",
        "non-commercial research", "imagenet/train/<class>/*.JPEG and imagenet/val/**/*.JPEG",
        (Part("imagenet/train"),), (Part("imagenet/val"),), 1_281_167,
        _SQUARE_TEXT + "; pictures with a side below it left out", _SQUARE,
    ),
    "lsun-cats": Dataset(
        "LSUN cat (Yu et al. 2015)", _LSUN, _LSUN_TERMS, "lsun/cat/data.mdb (from cat.zip)",
        (Part("lsun/cat"),), (Part("cat", 0, 100),), 1_657_266, _SQUARE_TEXT, _SQUARE,
    ),
    "lsun-bedrooms": Dataset(
        "LSUN bedroom (Yu et al. 2015)", _LSUN, _LSUN_TERMS,
        "lsun/bedroom_train_lmdb/data.mdb and lsun/bedroom_val_lmdb/data.mdb",
        (Part("lsun/bedroom_train_lmdb"),), (Part("lsun/bedroom_val_lmdb"),), 3_033_042,
        _SQUARE_TEXT, _SQUARE,
    ),
    "lsun-towers": Dataset(
        "LSUN tower (Yu et al. 2015)", _LSUN, _LSUN_TERMS,
        "lsun/tower_train_lmdb/data.mdb and lsun/tower_val_lmdb/data.mdb",
        (Part("lsun/tower_train_lmdb"),), (Part("lsun/tower_val_lmdb"),), 708_264,
        _SQUARE_TEXT, _SQUARE,
    ),
    "cat": Dataset(
        "CAT (Zhang et al. 2008)", "https://archive.org/details/CAT_DATASET", _LSUN_TERMS,
        "cat/CAT_00/*.jpg to cat/CAT_06/*.jpg",
        (Part("cat", 100),), (Part("cat", 0, 100),), 9_897, _SQUARE_TEXT, _SQUARE,
    ),
}  # fmt: skip


def usual_settings(names: str) -> dict[str, object]:
    """What the papers do with a dataset, or with all of a mix; {} where one has no name."""
    each = [DATASETS[n].settings.items() if n in DATASETS else () for n in names.split(",")]
    return dict(set(each[0]).intersection(*each[1:]))
