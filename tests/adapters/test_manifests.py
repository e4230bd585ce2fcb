"""Names, shapes and dtypes of every official file, checked without memory.

A new model needs no line here: tests/golden/manifests/NAME.json is compared with the model NAME. A row states what that
file cannot: a manifest of another name, the parameter count of the official module, the address of the weights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from manifests import FOLDER, contents, manifest, parameters

from arvbench.adapters import MODELS
from arvbench.adapters.loading import known_specs, meta_modules
from arvbench.adapters.tokenizers.vq import VqConfig, VqModel


class Official(NamedTuple):
    """A manifest, the parameters counted on the official module, and its published file (None: not released)."""

    model: str
    manifest: str
    parameters: int | None = None
    file: str | None = None


class Tokenizer(NamedTuple):
    manifest: str
    parameters: int
    file: str


# Counted on the official modules: FoundationVision/VAR at 78b9539, OliverRensu/MVAR at 80768a1, NVlabs/HMAR at 595a9df,
# jiaosiyu1999/FlexVAR at 04462cb, OliverRensu/xAR at 121e9c9, wangqiang9/FlowAR at 5745a96, LTH14/mar at fe470ac,
# HiDream-ai/himar at 1d378c1, and LlamaGen, NAR and PAR, whose 256 px and 384 px files have the same keys. M-VAR's
# smaller models exist without and with normalised attention.
OFFICIAL = (
    Official("var-d16", "var-d16", 310_283_520, "FoundationVision/var/var_d16.pth"),
    Official("var-d20", "var-d20", 600_917_136, "FoundationVision/var/var_d20.pth"),
    Official("var-d24", "var-d24", 1_033_399_360, "FoundationVision/var/var_d24.pth"),
    Official("var-d30", "var-d30", 2_010_020_356, "FoundationVision/var/var_d30.pth"),
    Official("var-d36", "var-d36-512", 2_353_893_904, "FoundationVision/var/var_d36.pth"),
    Official("mvar-d12", "mvar-d12", 198_435_424, "OliverRen/M-VAR/d12.pth"),
    Official("mvar-d12", "mvar-d12-l2norm", 198_435_568, "OliverRen/M-VAR/d12.pth"),
    Official("mvar-d16", "mvar-d16", 464_157_184, "OliverRen/M-VAR/d16.pth"),
    Official("mvar-d16", "mvar-d16-l2norm", 464_157_440, "OliverRen/M-VAR/d16.pth"),
    Official("mvar-d20", "mvar-d20", 900_528_736, "OliverRen/M-VAR/d20.pth"),
    Official("mvar-d20", "mvar-d20-l2norm", 900_529_136, "OliverRen/M-VAR/d20.pth"),
    Official("mvar-d24", "mvar-d24", 1_550_067_136, "OliverRen/M-VAR/d24.pth"),
    Official("mvar-d30", "mvar-d30", 3_017_065_756, "OliverRen/M-VAR/d30.pth"),
    Official("mvar-d32", "mvar-d32", 3_658_707_968, "OliverRen/M-VAR/d32.pth"),
    Official("hmar-d16", "hmar-d16", 467_691_904, "nvidia/HMAR/hmar-d16.pth"),
    Official("hmar-d20", "hmar-d20", 845_517_872, "nvidia/HMAR/hmar-d20.pth"),
    Official("hmar-d24", "hmar-d24", 1_384_328_960, "nvidia/HMAR/hmar-d24.pth"),
    Official("hmar-d30", "hmar-d30", 2_556_324_212, "nvidia/HMAR/hmar-d30.pth"),
    Official("hmar-d24-512", "hmar-d24-512", 1_386_725_120),
    Official("hmar-d30-512", "hmar-d30-512", 2_559_319_412),
    Official("hmar-d36-512", "hmar-d36-512-saln", 2_883_825_200),
    Official("flexvar-d16", "flexvar-d16", 315_561_936, "jiaosiyu1999/FlexVAR/FlexVARd16-epo179.pth"),
    Official("flexvar-d20", "flexvar-d20", 607_513_952, "jiaosiyu1999/FlexVAR/FlexVARd20-epo249.pth"),
    Official("flexvar-d24", "flexvar-d24", 1_041_314_576, "jiaosiyu1999/FlexVAR/FlexVARd24-epo349.pth"),
    Official("llamagen-b-256", "llamagen_c2i_B_256_384", 110_888_448, "FoundationVision/LlamaGen/c2i_B_256.pt"),
    Official("llamagen-b-384", "llamagen_c2i_B_256_384", 110_888_448, "FoundationVision/LlamaGen/c2i_B_384.pt"),
    Official("llamagen-l-256", "llamagen_c2i_L_256_384", 342_910_976, "FoundationVision/LlamaGen/c2i_L_256.pt"),
    Official("llamagen-l-384", "llamagen_c2i_L_256_384", 342_910_976, "FoundationVision/LlamaGen/c2i_L_384.pt"),
    Official("llamagen-xl-384", "llamagen_c2i_XL_256_384", 774_699_520, "FoundationVision/LlamaGen/c2i_XL_384.pt"),
    Official("llamagen-xxl-384", "llamagen_c2i_XXL_256_384", 1_410_972_672, "FoundationVision/LlamaGen/c2i_XXL_384.pt"),
    Official("llamagen-3b-384", "llamagen_c2i_3B_256_384", 3_096_659_200, "FoundationVision/LlamaGen/c2i_3B_384.pt"),
    Official("nar-b", "nar_c2i_B_256", 130_551_552, "chenfeng1271/NAR-imagenet-256-B/last_version.pt"),
    Official("nar-m", "nar_c2i_M_256", 295_453_696, "yefly/NAR-imagenet-256-M/last_version.pt"),
    Official("nar-l", "nar_c2i_L_256", 372_536_320, "chenfeng1271/NAR-imagenet-256-L/last_version.pt"),
    Official("nar-xl", "nar_c2i_XL_256", 815_991_040, "yefly/NAR-imagenet-256-XL/last_version.pt"),
    Official("nar-xxl", "nar_c2i_XXL_256", 1_464_454_656, "chenfeng1271/NAR-imagenet-256-XXL/last_version.pt"),
    Official("xar-b", "xar-b", 172_638_224, "OliverRen/xAR/xAR-B.pth"),
    Official("xar-l", "xar-l", 608_397_968, "OliverRen/xAR/xAR-L.pth"),
    Official("xar-h", "xar-h", 1_186_024_096, "OliverRen/xAR/xAR-H.pth"),
    Official("flowar-s", "flowar-s", 171_718_072, "OliverRen/FlowAR/FlowAR-S.pth"),
    Official("flowar-l", "flowar-l", 586_862_912, "OliverRen/FlowAR/FlowAR-L.pth"),
    Official("flowar-h", "flowar-h", 1_913_316_880, "OliverRen/FlowAR/FlowAR-H.pth"),
    Official("mar-b", "mar-b", 207_924_768, "jadechoghari/mar/mar_base/checkpoint-last.pth"),
    Official("mar-l", "mar-l", 478_326_304, "jadechoghari/mar/mar_large/checkpoint-last.pth"),
    Official("mar-h", "mar-h", 942_403_104, "jadechoghari/mar/mar_huge/checkpoint-last.pth"),
    Official("himar-b", "himar-b", 244_730_160, "HiDream-ai/Hi-MAR/Hi-MAR-B/checkpoint-last.pth"),
    Official("himar-l", "himar-l", 529_490_480, "HiDream-ai/Hi-MAR/Hi-MAR-L/checkpoint-last.pth"),
    Official("himar-h", "himar-h", 1_090_965_808, "HiDream-ai/Hi-MAR/Hi-MAR-H/checkpoint-last.pth"),
    *(
        Official(
            f"detailflow-l-{tokens}",
            "detailflow-gpt-L",
            326_140_928,
            f"ByteFlow-AI/DetailFlow-{tokens // 8}-GPT-L/checkpoints/{tokens}.pt",
        )
        for tokens in (128, 256, 512)
    ),
    Official("dar-l", "dar-gpt-L", 342_910_976, "showlab/D-AR/D-AR-L-360K.pt"),
    Official("dar-xl", "dar-gpt-XL", 774_699_520, "showlab/D-AR/D-AR-XL-360K.pt"),
    Official("par-xl-4x-384", "par_c2i_XL_4x_384", 774_703_360, "Epiphqny/PAR/PAR-XL-4x.pt"),
    Official("par-xxl-4x-384", "par_c2i_XXL_4x_384", 1_410_977_280, "Epiphqny/PAR/PAR-XXL-4x.pt"),
    Official("par-3b-4x-384", "par_c2i_3B_4x_384", 3_096_668_800, "Epiphqny/PAR/PAR-3B-4x.pt"),
    Official("par-3b-16x-384", "par_c2i_3B_16x_384", 3_096_707_200, "Epiphqny/PAR/PAR-3B-16x.pt"),
)
# By the number of tokens; the transformer's file does not depend on it.
DETAILFLOW = {
    f"detailflow-l-{tokens}": Tokenizer(
        f"detailflow-tokenizer-{tokens}", parameters, f"ByteFlow-AI/DetailFlow-{tokens // 8}/checkpoints/{tokens}.pt"
    )
    for tokens, parameters in ((128, 270_376_008), (256, 270_769_224), (512, 271_555_656))
}
DAR_VQ = Tokenizer("dar-tokenizer-v1", 300_099_776, "showlab/D-AR/D-AR-tokenizer_v1.pt")
VAR_VAE = Tokenizer("vqvae-ch160v4096z32", 108_948_355, "FoundationVision/var/vae_ch160v4096z32.pth")
FLEX_VAE = Tokenizer("flexvae", 72_049_827, "jiaosiyu1999/FlexVAR/FlexVAE.pth")
VQ_16 = Tokenizer("vq_ds16", 71_883_403, "FoundationVision/LlamaGen/vq_ds16_c2i.pt")
KL_16 = Tokenizer("kl16", 66_456_019, "xwen99/mar-vae-kl16/kl16.ckpt")
TOKENIZERS = {
    "var": VAR_VAE, "mvar": VAR_VAE, "hmar": VAR_VAE, "flexvar": FLEX_VAE, "llamagen": VQ_16, "nar": VQ_16,
    "par": VQ_16, "xar": KL_16, "flowar": KL_16, "mar": KL_16,
    "himar": KL_16,
}  # fmt: skip
"""Family, or model -> its tokenizer."""
TOKENIZERS |= DETAILFLOW | {"dar": DAR_VQ}
ELSEWHERE = {"hmar-nsp-train-d16", "hmar-mp-train-d16", "vq_ds8"} | {row.manifest for row in TOKENIZERS.values()}
"""Manifests of files that are not a model's transformer."""
STEPS = {"llamagen": {256: 256, 384: 576}, "nar": {256: 31}, "par": {384: 147}}

STATED = {row.manifest for row in OFFICIAL} | ELSEWHERE
FOUND = [path.stem for path in sorted(FOLDER.glob("*.json")) if path.stem not in STATED]
ROWS = [*OFFICIAL, *(Official(model=name, manifest=name) for name in FOUND)]
every_row = pytest.mark.parametrize("row", [pytest.param(row, id=f"{row.model}-{row.manifest}") for row in ROWS])


def training_only(modules):
    """Beginnings of the names in a tokenizer's file that its module leaves out."""
    return modules["tokenizer"].training_only


def tokenizer_of(model):
    return TOKENIZERS.get(model) or TOKENIZERS.get(MODELS[model].family)


@every_row
def test_state_dicts_equal_the_official_files(row):
    official = manifest(row.manifest)
    # The keys of a file may decide on the configuration: here the manifest stands for the file.
    spec = MODELS[row.model].sampler.adapt_spec(MODELS[row.model], official)
    modules = meta_modules(spec)
    assert contents(modules["transformer"]) == official
    assert row.parameters in (None, parameters(modules["transformer"]))
    if tokenizer := tokenizer_of(row.model):
        read = {k: v for k, v in manifest(tokenizer.manifest).items() if not k.startswith(training_only(modules))}
        assert contents(modules["tokenizer"]) == read
        assert parameters(modules["tokenizer"]) == tokenizer.parameters


@every_row
def test_files_are_looked_for_under_their_published_names(row):
    checkpoint = MODELS[row.model].checkpoint
    if row in OFFICIAL:
        assert row.file == (checkpoint and f"{checkpoint.hub_repo}/{checkpoint.transformer_file}")
    if checkpoint and (tokenizer := tokenizer_of(row.model)):
        repository = checkpoint.tokenizer_repo or checkpoint.hub_repo
        assert f"{repository}/{checkpoint.tokenizer_file}" == tokenizer.file


def test_every_released_model_has_a_manifest():
    with_manifest = {row.model for row in ROWS}
    without = [name for name, spec in known_specs() if spec.checkpoint and name not in with_manifest]
    assert not without, f"add tests/golden/manifests/NAME.json, names, shapes and dtypes of the file, for {without}"


@pytest.mark.parametrize(
    ("name", "l2_norm"),
    [
        ("mvar-d12", False),
        ("mvar-d16", False),
        ("mvar-d20", False),
        ("mvar-d24", True),
        ("mvar-d30", True),
        ("mvar-d32", True),
    ],
)
def test_an_mvar_is_normalised_as_its_authors_state_unless_its_file_says_otherwise(name, l2_norm):
    spec = MODELS[name]
    assert spec.transformer.attn_l2_norm == l2_norm
    opposite = replace(spec, transformer=replace(spec.transformer, attn_l2_norm=not l2_norm))
    for row in OFFICIAL:
        if row.model == name:
            official = manifest(row.manifest)
            assert spec.sampler.adapt_spec(opposite, official) == spec.sampler.adapt_spec(spec, official)


@pytest.mark.parametrize("name", [row.model for row in OFFICIAL if MODELS[row.model].family in STEPS])
def test_passes_and_resolution_of_token_grids_are_the_official_ones(name):
    spec = MODELS[name]
    assert spec.image_px == (384 if name.endswith("384") else 256)
    assert spec.tokens == (spec.image_px // 16) ** 2
    assert spec.steps == (51 if "16x" in name else STEPS[spec.family][spec.image_px])


@pytest.mark.parametrize(
    ("name", "config", "count"),
    [
        ("vq_ds16", VqConfig(), 71_883_403),
        ("vq_ds8", VqConfig(encoder_ch_mult=(1, 2, 2, 4), decoder_ch_mult=(1, 2, 2, 4)), 70_109_835),
    ],
)
def test_vq_tokenizers_equal_the_official_files(name, config, count):
    with torch.device("meta"):
        vq = VqModel(config)
    assert contents(vq) == manifest(name)
    assert parameters(vq) == count
    assert config.downsample == int(name.removeprefix("vq_ds"))
