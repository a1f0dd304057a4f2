"""SpikingJelly's models and the benchmarks', small, and the chains of norm and neuron that a reader finds in them."""

import re
from functools import partial
from types import SimpleNamespace

from spikingjelly.activation_based import layer, model, neuron, surrogate
from spikingjelly.activation_based.examples.memopt.models import CIFAR10DVSVGG
from spikingjelly.activation_based.model import parametric_lif_net

import tgo_kernels as tgo
from benchmarks.robustness.models import classifier

LIF = {"spiking_neuron": neuron.LIFNode, "surrogate_function": surrogate.ATan(), "detach_reset": True}
PLIF = {"spiking_neuron": neuron.ParametricLIFNode, "detach_reset": True}
SMALL = {"T": 2, "num_classes": 3}
ADDED, TWO = "something is added to its output", "its output goes to 2 places"
SSA = "attn.qkv_conv_bn.1>attn.qkv_lif attn.proj_conv_bn.1>attn.proj_lif"
QK = "attn.qk_conv_bn.1>attn.qk_lif attn.proj_conv_bn.1>attn.proj_lif"


def older(name):
    """Models that need torchvision to be imported."""

    def make():
        from spikingjelly.activation_based.model import sew_resnet, spiking_resnet, spiking_vgg

        shape = {"layers": [1, 1, 1, 1], "num_classes": 3, **LIF}
        make_layers = partial(spiking_vgg.SpikingVGG.make_layers, [4, "M", 8, 8, "M"], batch_norm=True)
        vgg = {"neuron": neuron.LIFNode, "detach_reset": True}
        return {
            "vgg": lambda: make_layers(**vgg),
            "vgg, tdBN": lambda: make_layers(norm_layer=partial(layer.ThresholdDependentBatchNorm2d, 1.0, 1.0), **vgg),
            "vgg, TEBN": lambda: make_layers(norm_layer=partial(layer.TemporalEffectiveBatchNorm2d, 2), **vgg),
            "vgg, BNTT": lambda: make_layers(norm_layer=partial(layer.BatchNormThroughTime2d, 2), **vgg),
            "resnet": lambda: spiking_resnet.SpikingResNet(spiking_resnet.BasicBlock, **shape),
            "bottleneck": lambda: spiking_resnet.SpikingResNet(spiking_resnet.Bottleneck, **shape),
            "sew": lambda: sew_resnet.SEWResNet(sew_resnet.BasicBlock, cnf="ADD", **shape),
            "sew, bottleneck": lambda: sew_resnet.SEWResNet(sew_resnet.Bottleneck, cnf="ADD", **shape),
        }[name]()

    return make


def case(make, shape, fused, pools="", left=None):
    """``fused`` has "norm>neuron ..." by the module that they are in, "norm=neuron" where a pool stands between;
    ``left`` has the norms by the reason."""
    chains, pooled = {}, set()
    for where, pairs in fused.items():
        path = where and f"{where}."
        for pair in pairs.split():
            norm, fire = re.split("[>=]", pair)
            chains[path + norm] = path + fire
            if "=" in pair:
                pooled.add(path + fire)
    reasons = {name: reason for reason, names in (left or {}).items() for name in names.split()}
    return SimpleNamespace(make=make, shape=shape, fused=chains, pooled=pooled, pools=pools.split(), left=reasons)


IMAGES = (2, 2, 3, 32, 32)
CASES = {
    "vgg": case(older("vgg"), IMAGES, {"": "1>2 5>6 8>9"}, "3 10"),
    "vgg, tdBN": case(older("vgg, tdBN"), IMAGES, {"": "1>2 5>6 8>9"}, "3 10"),
    "vgg, TEBN": case(older("vgg, TEBN"), IMAGES, {"": "1>2 5>6 8>9"}, "3 10"),
    "vgg, BNTT": case(
        older("vgg, BNTT"),
        IMAGES,
        {},
        "3 10",
        {"BatchNormThroughTime2d": " ".join(f"{i}.bn_list.{t}" for i in (1, 5, 8) for t in (0, 1))},
    ),
    "resnet": case(
        older("resnet"),
        IMAGES,
        {"": "bn1>sn1", **{f"layer{i}.0": "bn1>sn1" for i in (1, 2, 3, 4)}},
        "maxpool",
        {
            ADDED: "layer1.0.bn2 layer2.0.bn2 layer3.0.bn2 layer4.0.bn2 "
            "layer2.0.downsample.1 layer3.0.downsample.1 layer4.0.downsample.1"
        },
    ),
    "bottleneck": case(
        older("bottleneck"),
        IMAGES,
        {"": "bn1>sn1", **{f"layer{i}.0": "bn1>sn1 bn2>sn2" for i in (1, 2, 3, 4)}},
        "maxpool",
        {ADDED: " ".join(f"layer{i}.0.bn3 layer{i}.0.downsample.1" for i in (1, 2, 3, 4))},
    ),
    "sew": case(
        older("sew"),
        IMAGES,
        {
            "": "bn1>sn1",
            "layer1.0": "bn1>sn1 bn2>sn2",
            **{f"layer{i}.0": "bn1>sn1 bn2>sn2 downsample.1>downsample_sn" for i in (2, 3, 4)},
        },
        "maxpool",
    ),
    "sew, bottleneck": case(
        older("sew, bottleneck"),
        IMAGES,
        {
            "": "bn1>sn1",
            **{f"layer{i}.0": "bn1>sn1 bn2>sn2 bn3>sn3 downsample.1>downsample_sn" for i in (1, 2, 3, 4)},
        },
        "maxpool",
    ),
    "mnist": case(
        lambda: parametric_lif_net.MNISTNet(4, **PLIF), (2, 2, 1, 28, 28), {"conv_fc": "1>2 5>6"}, "conv_fc.3 conv_fc.7"
    ),
    "cifar10": case(
        lambda: parametric_lif_net.CIFAR10Net(4, **PLIF),
        IMAGES,
        {"conv_fc": "1>2 4>5 7>8 11>12 14>15 17>18"},
        "conv_fc.9 conv_fc.19",
    ),
    "cifar10-dvs": case(
        lambda: parametric_lif_net.CIFAR10DVSNet(4, **PLIF),
        (2, 1, 2, 128, 128),
        {"conv_fc": "1>2 5>6 9>10 13>14"},
        "conv_fc.3 conv_fc.7 conv_fc.11 conv_fc.15",
    ),
    "gesture": case(
        lambda: parametric_lif_net.DVSGestureNet(4, **PLIF),
        (2, 1, 2, 128, 128),
        {"conv_fc": "1>2 5>6 9>10 13>14 17>18"},
        "conv_fc.3 conv_fc.7 conv_fc.11 conv_fc.15 conv_fc.19",
    ),
    "cifar10-dvs, vgg": case(
        lambda: CIFAR10DVSVGG(tau=2.0).features,
        (2, 2, 2, 16, 16),
        {str(i): f"proj_bn.{2 if i in (2, 4, 6) else 1}>neuron" for i in range(8)},
    ),
    "ms-resnet": case(
        lambda: model.MSResNet(layers=(1, 1, 1), base_channels=4, **SMALL),
        IMAGES,
        {f"layer{i}.0": "bn1>spike2" for i in (1, 2, 3)},
        "",
        {
            ADDED: " ".join(f"layer{i}.0.downsample.1 layer{i}.0.bn2" for i in (1, 2, 3)),
            "layer1 (Sequential), not to a neuron alone": "stem.1",
        },
    ),
    "max-resnet": case(
        lambda: model.MaxResNet(layers=(1, 1, 1), base_channels=4, **SMALL),
        IMAGES,
        {"layer1.0": "bn1>spike2", "layer2.0": "bn1=spike2", "layer3.0": "bn1=spike2"},
        "layer2.0.max_pool layer3.0.max_pool",
        {
            ADDED: "layer1.0.bn2 layer2.0.bn2 layer3.0.bn2 layer2.0.downsample.1 layer3.0.downsample.1",
            "layer1 (Sequential), not to a neuron alone": "stem.1",
        },
    ),
    "att-ms-resnet": case(
        lambda: model.AttMSResNet(layers=(1, 1, 1), base_channels=8, **SMALL),
        IMAGES,
        {f"layer{i}.0": "bn1>spike2" for i in (1, 2, 3)},
        "",
        {
            ADDED: "layer1.0.downsample.2 layer2.0.downsample.2 layer3.0.downsample.2",
            "attention (MultiDimensionalAttention)": "layer1.0.bn2 layer2.0.bn2 layer3.0.bn2",
            "layer1 (Sequential), not to a neuron alone": "stem.1",
        },
    ),
    "ma-snn": case(
        lambda: model.MASNN(
            input_size=(8, 8), channels=(8, 8), pools=(1, 2), fc_hidden=8, reduction_t=2, reduction_c=4, **SMALL
        ),
        (2, 2, 2, 8, 8),
        {},
        "",
        {
            "attn (": "conv_blocks.0.bn fc_blocks.0.bn fc_blocks.1.bn",
            "conv_blocks.1.pool (AvgPool2d)": "conv_blocks.1.bn",
        },
    ),
    "spikformer": case(
        lambda: model.Spikformer(
            img_size_h=16, img_size_w=16, patch_size=4, embed_dims=16, num_heads=2, depths=1, **SMALL
        ),
        (2, 2, 3, 16, 16),
        {
            **{f"patch_embed.stages.{i}": f"conv_bn.block.1{how}neuron" for i, how in enumerate(">>==")},
            "patch_embed.positional_encoding": "conv_bn.block.1>neuron",
            "blocks.0": f"{SSA} mlp.fc1.1>mlp.neuron1 mlp.fc2.1>mlp.neuron2",
        },
        "patch_embed.stages.2.conv_bn.block.2 patch_embed.stages.3.conv_bn.block.2",
    ),
    "qkformer": case(
        lambda: model.QKFormer(embed_dims=32, num_heads=(2, 2, 2), depths=(1, 1, 1), **SMALL),
        IMAGES,
        {
            "patch_embed1": "bn1=lif1 bn2=lif2 bn3>lif3 shortcut.1>shortcut.2",
            "patch_embed2": "bn1=lif1 bn2>lif2 shortcut.1>shortcut.2",
            "patch_embed3": "bn1=lif1 bn2>lif2 shortcut.1>shortcut.2",
            "stage1.0": f"{QK} mlp.bn1>mlp.lif1 mlp.bn2>mlp.lif2",
            "stage2.0": f"{QK} mlp.bn1>mlp.lif1 mlp.bn2>mlp.lif2",
            "stage3.0": f"{SSA} mlp.bn1>mlp.lif1 mlp.bn2>mlp.lif2",
        },
        "patch_embed1.pool1 patch_embed1.pool2 patch_embed2.pool patch_embed3.pool",
    ),
    "spike-driven transformer": case(
        lambda: model.SpikeDrivenTransformer(embed_dims=16, num_heads=2, depths=1, **SMALL),
        IMAGES,
        {
            **{f"patch_embed.stages.{i}": "1>2" for i in range(3)},
            "blocks.0": "attn.q_bn>attn.q_lif attn.k_bn>attn.k_lif attn.v_bn>attn.v_lif mlp.bn1>mlp.lif2",
        },
        "patch_embed.stages.0.3 patch_embed.stages.1.3 patch_embed.stages.2.3 patch_embed.final_stage.2",
        {
            TWO: "patch_embed.final_stage.1",
            ADDED: "patch_embed.rpe_bn blocks.0.attn.proj_bn blocks.0.mlp.bn2",
        },
    ),
    "maxformer": case(
        lambda: model.MaxFormer(embed_dims=32, depths=(1, 1, 1), **SMALL),
        IMAGES,
        {
            "patch_embed1": "bn1>lif1 bn2>lif2",
            "patch_embed2": "bn1=lif2",
            "patch_embed3": "bn1=lif2",
            "stage1.0.mlp": "bn1>lif2",
            "stage2.0.mlp": "bn1>lif2",
            "stage3.0": f"{SSA} mlp.bn1>mlp.lif2",
        },
        "patch_embed2.pool patch_embed2.shortcut.2 patch_embed3.pool patch_embed3.shortcut.2",
        {
            ADDED: "patch_embed1.bn3 patch_embed1.shortcut.1 patch_embed2.bn2 patch_embed2.shortcut.1 patch_embed3.bn2 "
            "patch_embed3.shortcut.1 stage1.0.bn stage1.0.mlp.bn2 stage2.0.bn stage2.0.mlp.bn2 stage3.0.mlp.bn2"
        },
    ),
    "maxformer, cifar": case(
        lambda: model.MaxFormer(embed_dims=32, depths=(1, 1, 1), cifar=True, **SMALL),
        (2, 2, 3, 16, 16),
        {
            "patch_embed2": "bn1=lif2",
            "patch_embed3": "bn1=lif2",
            "stage1.0": "bn1>lif2",
            "stage2.0.mlp": "bn1>lif2",
            "stage3.0": "attn.qkv.1>attn.qkv_lif mlp.bn1>mlp.lif2",
        },
        "patch_embed2.pool patch_embed2.shortcut.2 patch_embed3.pool patch_embed3.shortcut.2",
        {
            TWO: "patch_embed1.bn",
            ADDED: "patch_embed1.branch.2 patch_embed1.shortcut.2 patch_embed2.bn2 patch_embed2.shortcut.1 "
            "patch_embed3.bn2 patch_embed3.shortcut.1 stage1.0.bn2 stage2.0.bn stage2.0.mlp.bn2 stage3.0.attn.proj.1 "
            "stage3.0.mlp.bn2",
        },
    ),
    "ours, conv": case(
        lambda: classifier("conv", tgo.LIF, steps=2, channels=(4, 4)),
        (2, 1, 28, 28),
        {"layers": "3.1>4"},
        "",
        {"goes to expand()": "layers.0.1"},
    ),
    "ours, vgg": case(
        lambda: classifier("vgg11", tgo.LIF, steps=2, width=0.125),
        (2, 1, 32, 32),
        {"layers": "3.1>4 6.1>7 8.1>9 11.1>12 13.1>14 16.1>17 18.1>19"},
        "layers.2.0 layers.5.0 layers.10.0 layers.15.0 layers.20.0",
        {"goes to expand()": "layers.0.1"},
    ),
    "ours, wrn": case(
        lambda: classifier("wrn16", tgo.LIF, steps=2, width=1),
        (2, 1, 32, 32),
        {"layers": "7.0>8", **{f"layers.{i}": "norm.0>first between.1>second" for i in range(1, 7)}},
    ),
}
