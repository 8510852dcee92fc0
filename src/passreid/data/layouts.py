"""Published data sets as rows of a table: their folders, what their file names mean, their size.

To add a set, add a row to `LAYOUTS`: the tests draw it and read it back.
"""

from __future__ import annotations

from collections.abc import Mapping

from passreid.data.layout import Counts, Groups, Layout

_MARKET_FOLDERS = {
    "bounding_box_train": "train",
    "query": "query",
    "bounding_box_test": "gallery",
}
_MARKET_NAME = r"(?P<pid>-?\d+)_c(?P<cam>\d+)(?!\.?\d)"
_DUKE_NAME = r"(?P<pid>\d+)_c(?P<cam>\d+)_f\d+"
_WITHDRAWN = "DukeMTMC was withdrawn by its authors in 2019 for reasons of privacy"
_MSMT17 = {"train": (1041, 32621), "query": (3060, 11659), "gallery": (3060, 82161)}
_MSMT17_LISTS = {
    "train": ("list_train.txt", "list_val.txt"),
    "query": ("list_query.txt",),
    "gallery": ("list_gallery.txt",),
}
_MSMT17_PATH = "{}/{{pid:04d}}/{{pid:04d}}_{{n:03d}}_{{cam:02d}}_0303morning_{{n:04d}}_0.jpg"
_MSMT17_NAME = r"\d+_\d+_(?P<cam>\d+)_"
_WHOLE = {"whole_body_images": "gallery"}


def _prid(labels: Groups) -> Groups:
    # Only the first 200 numbers are the same person in both cameras.
    if int(labels["pid"]) > 200:
        return labels | {"pid": f"{labels['pid']}-{labels['cam']}"}
    return labels


def _cuhk01(labels: Groups) -> Groups:
    first = labels["number"] in "12"
    return labels | {"cam": "1" if first else "2", "subset": "query" if first else "gallery"}


def _cuhk02(labels: Groups) -> Groups:
    # Each pair of cameras numbers its people and its two cameras anew.
    return labels | {key: f"{labels['pair']}-{labels[key]}" for key in ("pid", "cam")}


def _prcc(labels: Groups) -> Groups:
    return labels | {"clothes": "other" if labels["cam"] == "C" else "usual"}


LAYOUTS: Mapping[str, Layout] = {
    "msmt17": Layout(
        source="MSMT17, Wei et al. 2018; list_val is part of train",
        folders={"train": "train", "test": "gallery"},
        name=_MSMT17_NAME,
        drawn=_MSMT17_PATH.format("test"),
        drawn_train=_MSMT17_PATH.format("train"),
        lists=_MSMT17_LISTS,
        lists_name_people=True,
        counts=_MSMT17,
    ),
    "msmt17-v2": Layout(
        source="MSMT17 V2, its version with blurred faces",
        folders={"mask_train_v2": "train", "mask_test_v2": "gallery"},
        name=_MSMT17_NAME,
        drawn=_MSMT17_PATH.format("mask_test_v2"),
        drawn_train=_MSMT17_PATH.format("mask_train_v2"),
        lists=_MSMT17_LISTS,
        lists_name_people=True,
        counts=_MSMT17,
        notes=(
            "MSMT17 V2: faces are blurred, so results are not comparable with those on V1; "
            "name the version with every number",
        ),
    ),
    "occluded-duke": Layout(
        source="Occluded-Duke, Miao et al. 2019, counted from its lists",
        folders=_MARKET_FOLDERS,
        name=_DUKE_NAME,
        drawn="{folder}/{pid:04d}_c{cam}_f{n:07d}.jpg",
        root=r"occluded[^a-z]*duke",
        lists={subset: (f"{subset}.list",) for subset in ("train", "query", "gallery")},
        counts={"train": (702, 15618), "query": (519, 2210), "gallery": (1110, 17661)},
        notes=(_WITHDRAWN,),
    ),
    "dukemtmc": Layout(
        source="DukeMTMC-reID, Zheng et al. 2017",
        folders=_MARKET_FOLDERS,
        name=_DUKE_NAME,
        drawn="{folder}/{pid:04d}_c{cam}_f{n:07d}.jpg",
        counts={"train": (702, 16522), "query": (702, 2228), "gallery": (1110, 17661)},
        notes=(_WITHDRAWN,),
    ),
    "cuhk03-np": Layout(
        source="CUHK03, new protocol of Zhong et al. 2017; the folder is labeled or detected",
        folders=_MARKET_FOLDERS,
        name=_MARKET_NAME,
        drawn="labeled/{folder}/{pid:04d}_c{cam}_{n}.png",
        certain=("bounding_box_train", "bounding_box_test"),
        root=r"^(labeled|detected)$",
    ),
    "market1501": Layout(
        source="Market-1501, Zheng et al. 2015",
        folders=_MARKET_FOLDERS,
        name=_MARKET_NAME,
        drawn="{folder}/{pid:04d}_c{cam}s1_{n:06d}_00.jpg",
        certain=("bounding_box_train", "bounding_box_test"),
        counts={"train": (751, 12936), "query": (750, 3368), "gallery": (750, 15913)},
    ),
    "market-names": Layout(
        source="any set with the file names of Market-1501 in other folders",
        folders={
            "train": "train",
            "query": "query",
            "probe": "query",
            "gallery": "gallery",
            "test": "gallery",
        },
        name=rf"^\w+/{_MARKET_NAME}",
        drawn="{folder}/{pid:04d}_c{cam}s1_{n:06d}_00.jpg",
    ),
    "veri": Layout(
        source="VeRi-776, Liu et al. 2016, counted as in its readme",
        folders={"image_train": "train", "image_query": "query", "image_test": "gallery"},
        name=_MARKET_NAME,
        drawn="{folder}/{pid:04d}_c{cam:03d}_{n:08d}_0.jpg",
        certain=("image_train", "image_query", "image_test"),
        counts={"train": (576, 37778), "query": (200, 1678), "gallery": (200, 11579)},
        notes=("VeRi-776 shows vehicles, not people",),
    ),
    "sensereid": Layout(
        source="SenseReID, Zhao et al. 2017",
        folders={"test_probe": "query", "test_gallery": "gallery"},
        name=r"(?P<pid>\d+)_(?P<cam>\d+)",
        drawn="{folder}/{pid:05d}_{cam}.jpg",
        pictures=2,
        certain=("test_probe", "test_gallery"),
        counts={"query": (522, 1040), "gallery": (1717, 3388)},
    ),
    "grid": Layout(
        source="GRID, Loy et al. 2009; half of the 250 pairs for training, 10 random splits",
        folders={"probe": "query", "gallery": "gallery"},
        name=r"(?P<pid>\d{4})_(?P<cam>\d+)_\d+_\d+_\d+_\d+_\d+",
        drawn="{side}/{pid:04d}_{cam}_{n}_1_2_3_4.jpeg",
        cameras=(2, 2),
        pictures=1,
        halves=True,
        counts={"train": (125, 250), "query": (125, 125), "gallery": (125, 900)},
    ),
    "viper": Layout(
        source="VIPeR, Gray and Tao 2008; half of the people for training, 10 random splits",
        folders={"cam_a": "query", "cam_b": "gallery"},
        name=r"cam_(?P<cam>[ab])/(?P<pid>\d+)_\d+",
        drawn="{side}/{pid:03d}_45.bmp",
        cameras=(2, 2),
        pictures=1,
        halves=True,
        counts={"train": (316, 632), "query": (316, 316), "gallery": (316, 316)},
    ),
    "prid": Layout(
        source="PRID 2011 single-shot, Hirzer et al. 2011; half of the 200 pairs for training, "
        "10 random splits",
        folders={"cam_a": "query", "cam_b": "gallery"},
        name=r"cam_(?P<cam>[ab])/person_(?P<pid>\d+)\.",
        drawn="{side}/person_{pid:04d}.png",
        cameras=(2, 2),
        pictures=1,
        derive=_prid,
        halves=True,
        counts={"train": (100, 200), "query": (100, 100), "gallery": (649, 649)},
    ),
    "prid-video": Layout(
        source="PRID 2011 multi-shot, Hirzer et al. 2011, tracklets; half of the 200 pairs for "
        "training, 10 random splits (papers leave out short tracklets)",
        folders={"cam_a": "query", "cam_b": "gallery"},
        name=r"cam_(?P<cam>[ab])/(?P<tracklet>person_(?P<pid>\d+))/\d+\.",
        drawn="{side}/person_{pid:04d}/{frame:04d}.png",
        cameras=(2, 2),
        pictures=1,
        frames=2,
        derive=_prid,
        halves=True,
        counts={"train": (100, 200), "query": (100, 100), "gallery": (649, 649)},
    ),
    "ilids-vid": Layout(
        source="iLIDS-VID, Wang et al. 2014, tracklets; half of the 300 people for training, "
        "10 random splits",
        folders={"sequences/cam1": "query", "sequences/cam2": "gallery"},
        name=r"cam(?P<cam>\d)/(?P<tracklet>person(?P<pid>\d+))/",
        drawn="{side}/person{pid:03d}/cam{cam}_person{pid:03d}_{frame:05d}.png",
        cameras=(2, 2),
        pictures=1,
        frames=2,
        halves=True,
        counts={"train": (150, 300), "query": (150, 150), "gallery": (150, 150)},
    ),
    "ilids": Layout(
        source="i-LIDS MCTS, Zheng et al. 2009; half of the 119 people for training, one image of "
        "each other person in the gallery, 10 random splits",
        folders={"Persons": "pool"},
        name=r"(?P<pid>\d{4})\d{3}\.",
        drawn="Persons/{pid:04d}{every:03d}.jpg",
        halves=True,
        counts={"gallery": (60, 60)},
    ),
    "cuhk01": Layout(
        source="CUHK01, Li et al. 2012; 486 people for the test, 10 random splits",
        folders={"campus": "query"},
        name=r"(?P<pid>\d{4})00(?P<number>[1-4])\.",
        drawn="campus/{pid:04d}{every:03d}.png",
        cameras=(2, 2),
        pictures=2,
        derive=_cuhk01,
        halves=True,
        counts={"train": (485, 1940), "query": (486, 972), "gallery": (486, 972)},
    ),
    "cuhk02": Layout(
        source="CUHK02, Li and Wang 2013; camera pairs P1 to P4 for training, P5 for the test",
        folders={
            **{f"P{pair}": "train" for pair in range(1, 5)},
            "P5/cam1": "query",
            "P5/cam2": "gallery",
        },
        name=r"(?P<pair>P\d)/cam(?P<cam>\d)/(?P<pid>\d+)_\d+",
        drawn="P5/cam{cam}/{pid:03d}_{n:03d}.png",
        drawn_train="P1/cam{cam}/{pid:03d}_{n:03d}.png",
        cameras=(2, 2),
        certain=("P5/cam1",),
        derive=_cuhk02,
        counts={"train": (1577, 6308), "query": (239, 478), "gallery": (239, 478)},
    ),
    "partial-reid": Layout(
        source="Partial-REID, Zheng et al. 2015",
        folders={"partial_body_images": "query", **_WHOLE},
        name=r"(?P<pid>\d+)_\d+",
        drawn="{folder}/{pid:03d}_{every:03d}.jpg",
        certain=("partial_body_images",),
        counts={"query": (60, 300), "gallery": (60, 300)},
    ),
    "occluded-reid": Layout(
        source="Occluded-REID, Zhuo et al. 2018",
        folders={"occluded_body_images": "query", **_WHOLE},
        name=r"(?P<pid>\d+)_\d+",
        drawn="{folder}/{pid:03d}/{pid:03d}_{every:02d}_01.tif",
        certain=("occluded_body_images",),
        counts={"query": (200, 1000), "gallery": (200, 1000)},
    ),
    "mars": Layout(
        source="MARS, Zheng et al. 2016, tracklets; gallery without queries and junk",
        folders={"bbox_train": "train", "bbox_test": "test"},
        name=r"(?P<tracklet>(?:00)?(?P<pid>-1|\d{4})C(?P<cam>\d)T\d+)F\d+",
        drawn="{folder}/{pid:04d}/{pid:04d}C{cam}T{n:04d}F{frame:03d}.jpg",
        frames=2,
        certain=("bbox_train", "bbox_test"),
        counts={"train": (625, 8298), "query": (626, 1980), "gallery": (0, 9330)},
    ),
    "dukemtmc-video": Layout(
        source="DukeMTMC-VideoReID, Wu et al. 2018, tracklets",
        folders={"train": "train", "query": "query", "gallery": "gallery"},
        name=r"(?P<pid>\d{4})/(?P<tracklet>\d+)/\d{4}_?C(?P<cam>\d)_?F",
        drawn="{folder}/{pid:04d}/{every:04d}/{pid:04d}_C{cam}_F{frame:04d}.jpg",
        frames=2,
        counts={"train": (702, 2196), "query": (702, 702), "gallery": (1110, 2636)},
        notes=(_WITHDRAWN,),
    ),
    "ltcc": Layout(
        source="LTCC, Qian et al. 2020",
        folders={"train": "train", "query": "query", "test": "gallery"},
        name=r"^\w+/(?P<pid>\d+)_(?P<clothes>\d+)_c(?P<cam>\d+)_\d+",
        drawn="{folder}/{pid:03d}_{outfit}_c{cam}_{n:06d}.png",
        outfits=(0, 1),
        counts={"train": (77, 9576), "query": (75, 493), "gallery": (75, 7050)},
    ),
    "prcc": Layout(
        source="PRCC, Yang et al. 2019; one image of each person by camera A in the gallery, "
        "10 random choices; cameras A and B show the same clothes, C others",
        folders={
            "rgb/train": "train",
            "rgb/test/A": "gallery",
            "rgb/test/B": "query",
            "rgb/test/C": "query",
        },
        name=r"test/(?P<cam>[ABC])/(?P<pid>\d+)/|(?P<pid2>\d+)/(?P<cam2>[ABC])_",
        drawn="rgb/test/{letter}/{pid:03d}/cropped_rgb{n:03d}.jpg",
        drawn_train="rgb/train/{pid:03d}/{letter}_cropped_rgb{n:03d}.jpg",
        cameras=(2, 3),
        outfits=(0, 0, 1),
        certain=("rgb/train", "rgb/test/A"),
        derive=_prcc,
        single_shot=True,
        counts={"train": (150, 17896), "query": (71, 7416), "gallery": (71, 71)},
    ),
    "celeb-reid": Layout(
        source="Celeb-reID, Huang et al. 2019",
        folders={"train": "train", "query": "query", "gallery": "gallery"},
        name=r"^\w+/(?P<pid>[1-9]\d*)_[1-9]\d*_\d+\.",
        drawn="{folder}/{pid}_{every}_0.jpg",
        outfits=(0, 1, 2),
        counts={"train": (632, 20208), "query": (420, 2972), "gallery": (420, 11006)},
        notes=("Celeb-reID names no clothes: more than 70 % of a person's images show others",),
    ),
}

# Two data sets in the layout of CUHK03-NP, and the light version of Celeb-reID, by the root's name.
VARIANTS: Mapping[str, Counts] = {
    "cuhk03-np/labeled": {"train": (767, 7368), "query": (700, 1400), "gallery": (700, 5328)},
    "cuhk03-np/detected": {"train": (767, 7365), "query": (700, 1400), "gallery": (700, 5332)},
    "celeb-reid/celeb-reid-light": {
        "train": (490, 9021),
        "query": (100, 887),
        "gallery": (100, 934),
    },
}
