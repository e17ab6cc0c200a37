"""One record per data set. Sizes are those that the papers print, or that were counted in the official lists."""

from __future__ import annotations

from featstore.datasets.catalogue import Protocol, Record

__all__ = ["ALL"]

KORNBLITH, FANG, ROYER = "Kornblith 2019", "Fang 2023", "Royer 2020"
OFFICIAL = Protocol("train", "val", "trainval", "test", "official val; refit on train and val")
CUSTOM = (
    "hyper-parameters chosen on a part of train (its size is not published; this is a usual one), refit on all of train"
)
REPORTED = "the paper chooses the best epoch on the split that it reports"


def _held(fraction: float) -> Protocol:
    return Protocol(f"train#rest({fraction:g},seed=0)", f"train#held({fraction:g},seed=0)", "train", "test", CUSTOM)


TWELVE = (
    Record(
        "food101", "Food-101", (KORNBLITH,), {"train": 75_750, "test": 25_250}, 101, "accuracy", _held(0.1),
        ("train", "test"),
        layout="Put there the folder 'food-101' with 'images' and 'meta'.",
        source="It is food-101.tar.gz (5 GB) of data.vision.ee.ethz.ch/cvl/datasets_extra/food-101.",
        licence="images of foodspotting.com: scientific use", loader="lists:food101", can_download=True,
        traps=("train has wrong labels on purpose; test was cleaned",),
    ),
    Record(
        "cifar10", "CIFAR-10", (KORNBLITH, ROYER),
        {"train": 50_000, "test": 10_000, "source": 20_000, "target": 20_000, "val": 10_000}, 10, "accuracy", _held(0.1),
        ("train", "test", "source", "target", "val"), variants=("all", "without_deer"),
        variant_of="10 classes, or the 9 that Royer and Lampert use",
        layout="Put there the folder 'cifar-10-batches-py' that torchvision downloads (torchvision.datasets.CIFAR10(root, "
        "download=True)), or 'train' and 'test' with one folder of images per class, or 'train.npz' and 'test.npz'.",
        source="It is cifar-10-python.tar.gz (170 MB) of www.cs.toronto.edu/~kriz/cifar.html.",
        licence="none stated", loader="cifar:cifar10", can_download=True,
        traps=(
            "copies as JPEG are lossy: networks trained on the original lose 8 to 14 points on them",
            "test holds near-duplicates of train",
            "source, target and val are parts of train (batches 1 and 2, 3 and 4, 5), for Royer 2020; they need the batches",
        ),
    ),
    Record(
        "cifar100", "CIFAR-100", (KORNBLITH,), {"train": 50_000, "test": 10_000}, 100, "accuracy", _held(0.1),
        ("train", "test"), variants=("fine", "coarse"), variant_of="100 classes, or the 20 they form",
        layout="Put there the folder 'cifar-100-python', or 'train' and 'test' with one folder of images per class, or "
        "'train.npz' and 'test.npz'.",
        source="It is cifar-100-python.tar.gz (169 MB) of www.cs.toronto.edu/~kriz/cifar.html.",
        licence="none stated", loader="cifar:cifar100", can_download=True,
        traps=("test holds near-duplicates of train",),
    ),
    Record(
        "birdsnap", "Birdsnap", (KORNBLITH,), {"train": 47_386, "test": 2_443}, 500, "accuracy", _held(0.1),
        ("train", "test"),
        layout="Put there the folder 'birdsnap' with 'images.txt', 'test_images.txt', 'species.txt' and the folder 'images' "
        "(or 'download/images').",
        source="The lists are birdsnap.tgz of thomasberg.org/datasets/birdsnap/1.1; its get_birdsnap.py fetches the images "
        "from their addresses.",
        licence="images of Flickr, each with its own", loader="lists:birdsnap",
        traps=(
            "many addresses are dead: others got 1,845 or 1,855 of the 2,443 test images, with classes empty",
            "the split is what is on this disk, and how much is missing is said",
            "mirrors hold train only, or other splits",
        ),
    ),
    Record(
        "sun397", "SUN397", (KORNBLITH,), {"train": 19_850, "test": 19_850}, 397, "accuracy", _held(0.2),
        ("train", "test"), variants=tuple(str(k) for k in range(1, 11)), variant_of="partition; the papers use the first",
        layout="Put there the folder 'SUN397' with the class folders 'a', 'b' …, 'ClassName.txt' and the lists "
        "'Training_01.txt' and 'Testing_01.txt' (or a folder 'Partitions' with them).",
        source="It is SUN397.tar.gz (37 GB) and Partitions.zip of vision.princeton.edu/projects/2010/SUN; both addresses were "
        "dead in 2026, so look for a mirror, and check that it has the names of Training_01.txt.",
        licence="images of the web: research use", loader="lists:sun397",
        traps=(
            "loaders that read all 108,754 images have no split: without the partition lists this is another data set",
            "a random split of a mirror is not comparable",
        ),
    ),
    Record(
        "cars", "Stanford Cars", (KORNBLITH,), {"train": 8_144, "test": 8_041}, 196, "accuracy", _held(0.2),
        ("train", "test"),
        layout="Put there the folder 'stanford_cars' with 'devkit', 'cars_train', 'cars_test' and "
        "'cars_test_annos_withlabels.mat'; or with 'cars_annos.mat' and 'car_ims'; or with 'train' and 'test' of one folder "
        "per class.",
        source="The address of the authors (ai.stanford.edu/~jkrause/cars) is dead and torchvision cannot fetch it; mirrors "
        "are at Kaggle ('Stanford Cars Dataset').",
        licence="images of the web: non-commercial research", loader="matlab:cars",
        traps=(
            "the devkit has no labels of test: they are in cars_test_annos_withlabels.mat",
            "folders per class number the classes by name, the devkit in its own order",
        ),
    ),
    Record(
        "aircraft", "FGVC Aircraft", (KORNBLITH,),
        {"train": 3_334, "val": 3_333, "trainval": 6_667, "test": 3_333}, 100, "mean_per_class", OFFICIAL,
        ("train", "val", "trainval", "test"), variants=("variant", "family", "manufacturer"),
        variant_of="which labels; the papers use the 100 variants",
        layout="Put there the folder 'fgvc-aircraft-2013b' with 'data/images' and the lists in 'data'.",
        source="It is fgvc-aircraft-2013b.tar.gz (2.6 GB) of www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft.",
        licence="non-commercial research", loader="lists:aircraft", can_download=True,
        traps=("the banner of 20 pixels at the bottom of each image names the photographer; the papers leave it",),
    ),
    Record(
        "voc2007", "PASCAL VOC 2007", (KORNBLITH,),
        {"train": 2_501, "val": 2_510, "trainval": 5_011, "test": 4_952}, 20, "map11", OFFICIAL,
        ("train", "val", "trainval", "test"), variants=("negative", "positive", "ignored"),
        variant_of="what 'difficult' counts as; the devkit's evaluation ignores it, and so do fits here",
        layout="Put there the folder 'VOCdevkit' with 'VOC2007/JPEGImages' and 'VOC2007/ImageSets/Main'.",
        source="It is VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar (900 MB) of "
        "host.robots.ox.ac.uk/pascal/VOC/voc2007.",
        licence="images of Flickr: Flickr's terms", loader="voc:voc2007", is_multi_label=True, can_download=True,
        traps=(
            "'difficult' is absent, present or left out, depending on whose code; other code also reads labels off all boxes",
            "report on voc2007:test:ignored for the devkit's measure; in train and val it leaves the image out of that label's fit",
            "the measure is average precision at 11 recalls, not the area under the curve",
            "predictions cannot be exchanged between models under average precision: test on accuracy instead",
        ),
    ),
    Record(
        "dtd", "Describable Textures", (KORNBLITH,),
        {"train": 1_880, "val": 1_880, "trainval": 3_760, "test": 1_880}, 47, "accuracy", OFFICIAL,
        ("train", "val", "trainval", "test"), variants=tuple(str(k) for k in range(1, 11)),
        variant_of="partition; the papers use the first",
        layout="Put there the folder 'dtd' with 'images' and 'labels' (or the folder 'dtd/dtd' that torchvision makes).",
        source="It is dtd-r1.0.1.tar.gz (600 MB) of www.robots.ox.ac.uk/~vgg/data/dtd.",
        licence="research use", loader="lists:dtd", can_download=True,
        traps=("images of one partition's test are in another's train: never mix partitions",),
    ),
    Record(
        "pets", "Oxford-IIIT Pets", (KORNBLITH,), {"trainval": 3_680, "test": 3_669}, 37, "mean_per_class",
        Protocol("trainval#rest(0.2,seed=0)", "trainval#held(0.2,seed=0)", "trainval", "test", CUSTOM),
        ("trainval", "test"),
        layout="Put there the folder 'oxford-iiit-pet' with 'images' and 'annotations'.",
        source="It is images.tar.gz and annotations.tar.gz (800 MB) of www.robots.ox.ac.uk/~vgg/data/pets.",
        licence="CC BY-SA 4.0", loader="lists:pets", can_download=True,
        traps=("test has 3,669 images; the 3,369 in a table of Kornblith et al. is a misprint",),
    ),
    Record(
        "caltech101", "Caltech-101", (KORNBLITH,), {"train": 3_060, "test": 6_084}, 102, "mean_per_class",
        _held(0.1667), ("train", "test"), variants=tuple(str(k) for k in range(10)), variant_of="seed of the draw",
        layout="Put there the folder '101_ObjectCategories' with its 102 class folders, or 'caltech101' with it.",
        source="It is caltech-101.zip (137 MB) of data.caltech.edu/records/mzrjq-6wc02.",
        licence="CC BY 4.0", loader="caltech:caltech101", can_download=True,
        traps=(
            "BACKGROUND_Google counts as the 102nd class; torchvision drops it, and has 101 classes and 8,677 images",
            "there is no official split: 30 of each class are drawn, without replacement",
            "lists in circulation were drawn with replacement, and hold 2,416 different images for training",
        ),
    ),
    Record(
        "flowers", "102 Flowers", (KORNBLITH,),
        {"train": 1_020, "val": 1_020, "trainval": 2_040, "test": 6_149}, 102, "mean_per_class", OFFICIAL,
        ("train", "val", "trainval", "test"),
        layout="Put there the folder 'flowers-102' with 'jpg', 'imagelabels.mat' and 'setid.mat'.",
        source="It is 102flowers.tgz, imagelabels.mat and setid.mat (350 MB) of www.robots.ox.ac.uk/~vgg/data/flowers/102.",
        licence="none stated", loader="matlab:flowers", can_download=True,
        traps=("the small lists are train and val, the large one is test; some code has them the other way round",),
    ),
)  # fmt: skip

BGR = "the authors' code gives the network blue, green, red: append +bgr() for their numbers"

SIX = (
    Record(
        "cct20", "Caltech Camera Traps (CCT-20)", (FANG,), {}, 15, "accuracy",
        Protocol("train", "cis_val", "train", "cis_test", "official; the best epoch on cis_val"),
        ("train", "cis_val", "cis_val_clean", "cis_test", "trans_val", "trans_test"),
        variants=("annotations", "images"), variant_of="one sample per annotation, as the authors, or per image",
        layout="Put there the folder 'CCT-20' with 'eccv_18_annotation_files' and 'eccv_18_all_images_sm'.",
        source="It is eccv_18_annotations.tar.gz and eccv_18_all_images_sm.tar.gz (6 GB) of "
        "lila.science/datasets/caltech-camera-traps.",
        licence="Community Data License Agreement, permissive", loader="traps:cct20",
        traps=(
            "train and cis_val share 224 sequences (270 images of cis_val): cis_val_clean is without them",
            "images without an animal (category 30) are left out, as in the paper",
            BGR,
        ),
    ),
    Record(
        "aptos", "APTOS 2019", (FANG,), {"train": 2_931, "val": 731, "all": 3_662}, 5, "quadratic_kappa",
        Protocol("train", "val", "train", "val", REPORTED), ("train", "val", "all"),
        layout="Put there the folder 'aptos2019' with 'train.csv' and 'train_images'.",
        source="It is the competition aptos2019-blindness-detection (10 GB) of Kaggle.",
        licence="rules of the competition", loader="competitions:aptos",
        traps=("val is also what is reported", BGR),
    ),
    Record(
        "hpa", "Human Protein Atlas", (FANG,), {"train": 22_582, "val": 5_664, "test_val": 2_826}, 28, "macro_f1",
        Protocol("train", "val", "train", "val", REPORTED), ("train", "val", "test_val", "all"),
        layout="Put there the folder 'hpa' with 'split.stratified.small.0.csv' and the folder 'train' of ID_red.png, "
        "ID_green.png, ID_blue.png, or 'rgby/train' of ID.png; for 'hpa:all' 'train.csv' is enough.",
        source="Images and train.csv are the competition human-protein-atlas-image-classification (18 GB) of Kaggle, the list "
        "is in github.com/mlfoundations/imagenet-applications-transfer, splits/hpa.",
        licence="rules of the competition; images CC BY-SA 3.0", loader="competitions:hpa", is_multi_label=True,
        traps=("the yellow channel is left out", "val is also what is reported", "F1 needs a threshold per label", BGR),
    ),
    Record(
        "melanoma", "SIIM-ISIC Melanoma", (FANG,), {}, 2, "roc_auc",
        Protocol("train", "val", "train", "val", REPORTED), ("train", "val", "all"),
        layout="Put there the folder 'melanoma' with 'melanoma-2020' and 'melanoma-2019', each with 'train.csv' (it has a column "
        "'tfrecord') and 'train'.",
        source="They are jpeg-melanoma-512x512 and jpeg-isic2019-512x512 of Kaggle's user cdeotte, renamed.",
        licence="CC BY-NC 4.0", loader="competitions:melanoma",
        traps=("rows with a negative fold are known duplicates and left out", "val is also what is reported", BGR),
    ),
    Record(
        "cassava", "Cassava Leaf Disease", (FANG,), {"train": 17_120, "val": 4_277, "all": 21_397}, 5, "accuracy",
        Protocol("train", "val", "train", "val", REPORTED), ("train", "val", "all"),
        layout="Put there the folder 'cassava-leaf-disease-classification' with 'train.csv' and 'train_images'.",
        source="It is the competition of that name (6 GB) of Kaggle.",
        licence="rules of the competition", loader="competitions:cassava",
        traps=("val is also what is reported",),
    ),
    Record(
        "eurosat", "EuroSAT", (FANG,), {"train": 21_600, "val": 5_400, "all": 27_000}, 10, "accuracy",
        Protocol("train", "val", "train", "val", REPORTED), ("train", "val", "all"),
        layout="Put there the folder 'eurosat/2750' with one folder per class.",
        source="It is EuroSAT.zip (RGB, 90 MB) of github.com/phelber/EuroSAT.",
        licence="MIT; Copernicus data: free and open", loader="competitions:eurosat", can_download=True,
        traps=("val is also what is reported", "VTAB and others split it otherwise"),
    ),
)  # fmt: skip

DOMAINS = (
    Record(
        "pacs", "PACS", (ROYER,),
        {"all:photo": 1_670, "all:art_painting": 2_048, "all:cartoon": 2_344, "all:sketch": 3_929}, 7, "accuracy",
        Protocol("train", "val", "train", "test", "lists of the authors"), ("all", "train", "val", "test"),
        variants=("photo", "art_painting", "cartoon", "sketch"), variant_of="domain",
        layout="Put there the folder 'PACS' with a folder (or zip) of class folders for each domain, and for train, val and "
        "test the lists 'photo_train_kfold.txt' … or a 'split.csv'.",
        source="It is at sketchx.eecs.qmul.ac.uk and domaingeneralization.github.io.",
        licence="none stated; images of Caltech-256, Sketchy, TU-Berlin, Google: research use", loader="pacs:pacs",
        traps=("in the authors' lists test is the whole domain, train and val included",),
    ),
    Record(
        "mnist", "MNIST", (ROYER,),
        {"train": 60_000, "test": 10_000, "val": 5_000, "source": 25_000, "target": 30_000}, 10, "accuracy",
        Protocol("target", "val", "target", "test", "Royer 2020: 'source' trains the network"),
        ("train", "test", "val", "source", "target"),
        layout="Put there the folder 'MNIST/raw' with the idx files (gzipped or not), or 'train.npz' and 'test.npz'.",
        source="It is four files (11 MB) of yann.lecun.com/exdb/mnist or ossci-datasets.s3.amazonaws.com/mnist.",
        licence="CC BY-SA 3.0", loader="drawings:mnist", can_download=True,
        traps=("val, source and target are parts of train", "which image is source is drawn by us: the sizes are the paper's"),
    ),
    Record(
        "svhn", "SVHN", (ROYER,),
        {"train": 73_257, "test": 26_032, "extra": 531_131, "val": 10_000, "target": 63_257}, 10, "accuracy",
        Protocol("target", "val", "target", "test", "Royer 2020: the first 10,000 of train are val"),
        ("train", "test", "extra", "val", "target"),
        layout="Put there 'train_32x32.mat' and 'test_32x32.mat', or the folder 'svhn' with them.",
        source="They are at ufldl.stanford.edu/housenumbers (250 MB).",
        licence="non-commercial use", loader="matlab:svhn", can_download=True,
        traps=("the digit 0 has the label 10 in the files, 0 here", "val and target are parts of train"),
    ),
    Record(
        "quickdraw", "QuickDraw bitmaps", (ROYER,),
        {"source": 35_000, "train": 30_000, "val": 5_000, "test": 15_000, "all": 90_000}, 9, "accuracy",
        Protocol("train", "val", "train", "test", "Royer 2020: 'source' trains the network"),
        ("source", "train", "val", "test", "all"),
        layout="Put there the folder 'quickdraw' with 'airplane.npy', 'car.npy', 'bird.npy', 'cat.npy', 'dog.npy', 'frog.npy', "
        "'horse.npy', 'cruise ship.npy', 'truck.npy'.",
        source="They are in the bucket quickdraw_dataset/full/numpy_bitmap of Google Cloud Storage.",
        licence="CC BY 4.0", loader="drawings:quickdraw",
        traps=(
            "the paper inverts them: append +invert()",
            "which image is where is drawn by us, per class: the sizes are the paper's to within a few",
        ),
    ),
    Record(
        "digits", "scikit-learn's digits", (), {"source": 898, "train": 358, "val": 90, "test": 451, "all": 1_797}, 10, "accuracy",
        Protocol("train", "val", "train", "test", "ours: 'source' trains featstore:digits_net"),
        ("source", "train", "val", "test", "all"), layout="", source="It comes with scikit-learn.",
        licence="CC BY 4.0 (UCI)", loader="digits:digits",
    ),
)  # fmt: skip

ALL: tuple[Record, ...] = (*TWELVE, *SIX, *DOMAINS)
