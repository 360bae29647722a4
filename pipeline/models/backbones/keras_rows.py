"""The networks of keras.applications.

Accuracies are the published single-crop ones of keras.io/api/applications; for MobileNetV3, which that page leaves out,
those of its docstring.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.models.backbones.row import (
    CAFFE_SCALING,
    EFFICIENTNET_SCALING,
    TF_SCALING,
    TORCH_SCALING,
    Accuracy,
    Backbone,
    Paper,
    Scaling,
    Weights,
)

KERAS_ORIGIN = "https://storage.googleapis.com/tensorflow/keras-applications"


@dataclass(frozen=True)
class _Family:
    """What the rows of one keras.applications paper share; `{}` in `file_name` and `remote_name` is the row's stem."""

    paper: Paper
    folder: str
    file_name: str
    scaling: Scaling | None
    smallest_size: int = 32
    remote_name: str | None = None
    accuracy_source: str = "keras.io/api/applications, single crop"

    def row(
        self,
        name: str,
        function: str,
        side: int,
        parameters: int,
        multiply_adds: int,
        top_1: float,
        top_5: float | None,
        batch: int,
        stem: str,
        digest: str | None,
        contest: str | None = None,
    ) -> Backbone:
        """Returns the row of one network of the family."""
        return Backbone(
            name=name,
            builder=f"keras.applications:{function}",
            paper=self.paper,
            default_size=(side, side),
            smallest_size=self.smallest_size,
            parameters=parameters,
            multiply_adds=multiply_adds,
            accuracy=Accuracy(top_1, top_5, self.accuracy_source),
            contest=contest,
            weights=Weights(
                file_name=self.file_name.format(stem),
                origin=f"{self.folder}/{(self.remote_name or self.file_name).format(stem)}",
                digest=digest,
            ),
            extraction_batch=batch,
            scaling=self.scaling,
            arguments=(("include_top", False), ("weights", None)),
        )


_DIM_ORDERING = "{}_weights_tf_dim_ordering_tf_kernels_notop.h5"

# fmt: off
_XCEPTION = _Family(
    Paper("Chollet", 2016, "arXiv:1610.02357"), f"{KERAS_ORIGIN}/xception", _DIM_ORDERING, TF_SCALING, 71)
_VGG16 = _Family(
    Paper("Simonyan & Zisserman", 2014, "arXiv:1409.1556"), f"{KERAS_ORIGIN}/vgg16", _DIM_ORDERING, CAFFE_SCALING)
_VGG19 = _Family(
    Paper("Simonyan & Zisserman", 2014, "arXiv:1409.1556"), f"{KERAS_ORIGIN}/vgg19", _DIM_ORDERING, CAFFE_SCALING)
_RESNET = _Family(Paper("He et al.", 2015, "arXiv:1512.03385"), f"{KERAS_ORIGIN}/resnet", _DIM_ORDERING, CAFFE_SCALING)
_RESNET_V2 = _Family(Paper("He et al.", 2016, "arXiv:1603.05027"), f"{KERAS_ORIGIN}/resnet", _DIM_ORDERING, TF_SCALING)
_INCEPTION_V3 = _Family(
    Paper("Szegedy et al.", 2015, "arXiv:1512.00567"), f"{KERAS_ORIGIN}/inception_v3", _DIM_ORDERING, TF_SCALING, 75)
_INCEPTION_RESNET_V2 = _Family(
    Paper("Szegedy et al.", 2016, "arXiv:1602.07261"), f"{KERAS_ORIGIN}/inception_resnet_v2", _DIM_ORDERING,
    TF_SCALING, 75)
_MOBILENET = _Family(
    Paper("Howard et al.", 2017, "arXiv:1704.04861"), f"{KERAS_ORIGIN}/mobilenet", "mobilenet_{}_tf_no_top.h5",
    TF_SCALING)
_MOBILENET_V2 = _Family(
    Paper("Sandler et al.", 2018, "arXiv:1801.04381"), f"{KERAS_ORIGIN}/mobilenet_v2",
    "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{}_no_top.h5", TF_SCALING)
_MOBILENET_V3 = _Family(
    Paper("Howard et al.", 2019, "arXiv:1905.02244"), f"{KERAS_ORIGIN}/mobilenet_v3",
    "weights_mobilenet_v3_{}_float_no_top_v2.h5", None,
    accuracy_source="docstring of keras.applications.MobileNetV3, single crop")
_DENSENET = _Family(
    Paper("Huang et al.", 2016, "arXiv:1608.06993"), f"{KERAS_ORIGIN}/densenet", _DIM_ORDERING, TORCH_SCALING)
# keras.applications asks for NASNet's default size with these weights; the headless network is convolutional and takes
# any, so the row does too.
_NASNET = _Family(
    Paper("Zoph et al.", 2017, "arXiv:1707.07012"), f"{KERAS_ORIGIN}/nasnet", "nasnet_{}_no_top.h5", TF_SCALING,
    remote_name="NASNet-{}-no-top.h5")
_EFFICIENTNET = _Family(
    Paper("Tan & Le", 2019, "arXiv:1905.11946"), "https://storage.googleapis.com/keras-applications", "{}_notop.h5",
    EFFICIENTNET_SCALING)
_EFFICIENTNET_V2 = _Family(
    Paper("Tan & Le", 2021, "arXiv:2104.00298"), f"{KERAS_ORIGIN}/efficientnet_v2", "efficientnetv2-{}_notop.h5", None)
_CONVNEXT = _Family(Paper("Liu et al.", 2022, "arXiv:2201.03545"), f"{KERAS_ORIGIN}/convnext", "{}_notop.h5", None)

_VGG_CONTEST = "7.3 % top-5 error on the test set of ILSVRC 2014, 2nd: seven such networks averaged"

# Columns: name, function, side, parameters, multiply-adds, top-1, top-5, extraction batch, stem of the weights file,
# its digest, what a contest knew it by.
KERAS_ROWS = (
    _XCEPTION.row("xception", "Xception", 299, 22_910_480, 8_357_403_496, 0.790, 0.945, 8,
                  "xception", "md5:b0042744bf5b25fce3cb969f33bebb97"),
    _VGG16.row("vgg16", "VGG16", 224, 138_357_544, 15_470_264_320, 0.713, 0.901, 8,
               "vgg16", "md5:6d6bbae143d832006294945121d1f1fc", _VGG_CONTEST),
    _VGG19.row("vgg19", "VGG19", 224, 143_667_240, 19_632_062_464, 0.713, 0.900, 8,
               "vgg19", "md5:253f8cb515780f3b799900260a226db6", _VGG_CONTEST),
    _RESNET.row("resnet50", "ResNet50", 224, 25_636_712, 3_857_973_248, 0.749, 0.921, 8,
                "resnet50", "md5:4d473c1dd8becc155b73f8504c6f6626"),
    _RESNET.row("resnet101", "ResNet101", 224, 44_707_176, 7_570_194_432, 0.764, 0.928, 8,
                "resnet101", "md5:88cf7a10940856eca736dc7b7e228a21"),
    _RESNET.row("resnet152", "ResNet152", 224, 60_419_944, 11_282_415_616, 0.766, 0.931, 8,
                "resnet152", "md5:ee4c566cf9a93f14d82f913c2dc6dd0c",
                "3.57 % top-5 error on the test set of ILSVRC 2015, 1st: six residual networks averaged"),
    _RESNET_V2.row("resnet50_v2", "ResNet50V2", 224, 25_613_800, 3_482_255_360, 0.760, 0.930, 8,
                   "resnet50v2", "md5:fac2f116257151a9d068a22e544a4917"),
    _RESNET_V2.row("resnet101_v2", "ResNet101V2", 224, 44_675_560, 7_194_476_544, 0.772, 0.938, 8,
                   "resnet101v2", "md5:c0ed64b8031c3730f411d2eb4eea35b5"),
    _RESNET_V2.row("resnet152_v2", "ResNet152V2", 224, 60_380_648, 10_906_697_728, 0.780, 0.942, 8,
                   "resnet152v2", "md5:ed17cf2e0169df9d443503ef94b23b33"),
    _INCEPTION_V3.row("inception_v3", "InceptionV3", 299, 23_851_784, 5_713_216_096, 0.779, 0.937, 8,
                      "inception_v3", "md5:bcbd6486424b2319ff4ef7d526e38f63",
                      "3.6 % top-5 error on the test set of ILSVRC 2012: four such networks, many crops"),
    _INCEPTION_RESNET_V2.row("inception_resnet_v2", "InceptionResNetV2", 299, 55_873_736, 13_155_794_016, 0.803, 0.953,
                             8, "inception_resnet_v2", "md5:d19885ff4a710c122648d3b5c3b684e4"),
    # Keras publishes no digest of these two files.
    _MOBILENET.row("mobilenet", "MobileNet", 224, 4_253_864, 568_740_352, 0.704, 0.895, 16, "1_0_224", None),
    _MOBILENET_V2.row("mobilenet_v2", "MobileNetV2", 224, 3_538_984, 300_774_272, 0.713, 0.901, 16, "1.0_224", None),
    _MOBILENET_V3.row("mobilenet_v3_small", "MobileNetV3Small", 224, 2_554_968, 56_510_400, 0.681, None, 16,
                      "small_224_1.0", "md5:d3e8ec802a04aa4fc771ee12a9a9b836"),
    _MOBILENET_V3.row("mobilenet_v3_large", "MobileNetV3Large", 224, 5_507_432, 216_589_760, 0.756, None, 16,
                      "large_224_1.0", "md5:07fb09a5933dd0c8eaafa16978110389"),
    _DENSENET.row("densenet121", "DenseNet121", 224, 8_062_504, 2_834_161_664, 0.750, 0.923, 8,
                  "densenet121", "md5:30ee3e1110167f948a6b9946edeeb738"),
    _DENSENET.row("densenet169", "DenseNet169", 224, 14_307_880, 3_359_843_328, 0.762, 0.932, 8,
                  "densenet169", "md5:b8c4d4c20dd625c148057b9ff1c1176b"),
    _DENSENET.row("densenet201", "DenseNet201", 224, 20_242_984, 4_291_365_888, 0.773, 0.936, 8,
                  "densenet201", "md5:c13680b51ded0fb44dff2d8f86ac8bb1"),
    _NASNET.row("nasnet_mobile", "NASNetMobile", 224, 5_326_716, 563_638_816, 0.744, 0.919, 16,
                "mobile", "md5:1ed92395b5b598bdda52abe5c0dbfd63"),
    _NASNET.row("nasnet_large", "NASNetLarge", 331, 88_949_818, 23_783_414_658, 0.825, 0.960, 4,
                "large", "md5:d81d89dc07e6e56530c4e77faddd61b5"),
    _EFFICIENTNET.row("efficientnet_b0", "EfficientNetB0", 224, 5_330_571, 385_814_752, 0.771, 0.933, 16,
                      "efficientnetb0", "md5:50bc09e76180e00e4465e1a485ddc09d"),
    _EFFICIENTNET.row("efficientnet_b1", "EfficientNetB1", 240, 7_856_239, 686_802_832, 0.791, 0.944, 16,
                      "efficientnetb1", "md5:74c4e6b3e1f6a1eea24c589628592432"),
    _EFFICIENTNET.row("efficientnet_b2", "EfficientNetB2", 260, 9_177_569, 993_561_872, 0.801, 0.949, 16,
                      "efficientnetb2", "md5:111f8e2ac8aa800a7a99e3239f7bfb39"),
    _EFFICIENTNET.row("efficientnet_b3", "EfficientNetB3", 300, 12_320_535, 1_827_141_392, 0.816, 0.957, 8,
                      "efficientnetb3", "md5:af6d107764bb5b1abb91932881670226"),
    _EFFICIENTNET.row("efficientnet_b4", "EfficientNetB4", 380, 19_466_823, 4_393_771_024, 0.829, 0.964, 8,
                      "efficientnetb4", "md5:ebc24e6d6c33eaebbd558eafbeedf1ba"),
    _EFFICIENTNET.row("efficientnet_b5", "EfficientNetB5", 456, 30_562_527, 10_266_384_752, 0.836, 0.967, 4,
                      "efficientnetb5", "md5:38879255a25d3c92d5e44e04ae6cec6f"),
    _EFFICIENTNET.row("efficientnet_b6", "EfficientNetB6", 528, 43_265_143, 19_067_593_536, 0.840, 0.968, 4,
                      "efficientnetb6", "md5:9ecce42647a20130c1f39a5d4cb75743"),
    _EFFICIENTNET.row("efficientnet_b7", "EfficientNetB7", 600, 66_658_687, 37_745_884_192, 0.843, 0.970, 4,
                      "efficientnetb7", "md5:cbcfe4450ddf6f3ad90b1b398090fe4a"),
    _EFFICIENTNET_V2.row("efficientnet_v2_b0", "EfficientNetV2B0", 224, 7_200_312, 718_086_176, 0.787, 0.943, 16,
                         "b0", "md5:893217f2bb855e2983157299931e43ff"),
    _EFFICIENTNET_V2.row("efficientnet_v2_b1", "EfficientNetV2B1", 240, 8_212_124, 1_196_819_360, 0.798, 0.950, 16,
                         "b1", "md5:0e80663031ca32d657f9caa404b6ec37"),
    _EFFICIENTNET_V2.row("efficientnet_v2_b2", "EfficientNetV2B2", 260, 10_178_374, 1_697_542_832, 0.805, 0.951, 16,
                         "b2", "md5:1dfe2e7a5d45b6632553a8961ea609eb"),
    _EFFICIENTNET_V2.row("efficientnet_v2_b3", "EfficientNetV2B3", 300, 14_467_622, 3_011_458_816, 0.820, 0.958, 8,
                         "b3", "md5:f6abf7b5849ac99a89b50dd3fd532856"),
    _EFFICIENTNET_V2.row("efficientnet_v2_s", "EfficientNetV2S", 384, 21_612_360, 8_365_617_152, 0.839, 0.967, 8,
                         "s", "md5:af0682fb74e8c54910f2d4393339c070"),
    _EFFICIENTNET_V2.row("efficientnet_v2_m", "EfficientNetV2M", 480, 54_431_388, 24_582_460_384, 0.853, 0.974, 4,
                         "m", "md5:1b8dc055df72dde80d614482840fe342"),
    _EFFICIENTNET_V2.row("efficientnet_v2_l", "EfficientNetV2L", 480, 119_027_848, 56_079_699_008, 0.857, 0.975, 4,
                         "l", "md5:b0b66b5c863aef5b46e8608fe1711615"),
    _CONVNEXT.row("convnext_tiny", "ConvNeXtTiny", 224, 28_589_128, 4_455_531_264, 0.813, None, 8,
                  "convnext_tiny", "sha256:d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1"),
    _CONVNEXT.row("convnext_small", "ConvNeXtSmall", 224, 50_223_688, 8_683_712_256, 0.823, None, 8,
                  "convnext_small", "sha256:6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab"),
    _CONVNEXT.row("convnext_base", "ConvNeXtBase", 224, 88_591_464, 15_354_729_472, 0.853, None, 8,
                  "convnext_base", "sha256:40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45"),
    _CONVNEXT.row("convnext_large", "ConvNeXtLarge", 224, 197_767_336, 34_361_433_600, 0.863, None, 4,
                  "convnext_large", "sha256:96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd"),
    _CONVNEXT.row("convnext_xlarge", "ConvNeXtXLarge", 224, 350_196_968, 60_921_030_656, 0.867, None, 4,
                  "convnext_xlarge", "sha256:de3f8a54174130e0cecdc71583354753d557fcf1f4487331558e2a16ba0cfe05"),
)
# fmt: on
