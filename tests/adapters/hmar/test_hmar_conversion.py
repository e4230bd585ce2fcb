from __future__ import annotations

import shutil

import pytest
import torch
from safetensors import safe_open
from tiny_models import FILES, tiny_hmar

from arvbench.adapters import MODELS
from arvbench.adapters.checkpoints import MisfitError
from arvbench.adapters.hmar.checkpoints import merge_stages, merged_name, training_module
from arvbench.adapters.loading import build_sampler
from arvbench.errors import CheckpointError
from arvbench.harness.cli import main
from arvbench.harness.verify.formats import read_fixture
from arvbench.harness.verify.replays import REPLAYS


def stages_of(merged, config):
    """The two training checkpoints that a merged state dict would come from."""
    stages = {}
    for stage in ("nsp", "mp"):
        names = training_module(config, stage).state_dict()
        stages[stage] = {name: merged[merged_name(name, stage, config)].clone() for name in names}
    return stages


@pytest.fixture(params=[False, True], ids=["adaln", "shared-adaln"])
def trained(request):
    """(config, merged state dict, the two training checkpoints)."""
    spec = tiny_hmar(shared_aln=request.param)
    merged = build_sampler(spec, weights="random:1").transformer.state_dict()
    return spec.transformer, merged, stages_of(merged, spec.transformer)


def test_merging_gives_every_tensor_of_the_sampler(trained):
    config, merged, stages = trained
    assert stages["nsp"].keys() - stages["mp"].keys() == {"word_embed.bias"}
    assert stages["mp"].keys() - stages["nsp"].keys() == {"word_embed_bias", "mask_embed.weight"}
    result = merge_stages(stages["nsp"], stages["mp"], config)
    assert result.keys() == merged.keys()
    assert all(torch.equal(result[name], merged[name]) for name in merged)


def test_blocks_go_where_the_official_merge_puts_them(golden):
    """The recipe fixtures of both passes were made by the official merge; their key maps say how."""
    fixture = read_fixture(golden / "recipe" / "hmar_tiny_b.json")
    config = REPLAYS["hmar"].spec(fixture).transformer
    assert "blocks.i = model.base_blocks.i for i<2, = model.ns_blocks.(i-2)" in fixture.description["nsp_key_map"]
    assert "blocks.i = model.base_blocks.i for i<2, = model.mask_blocks.(i-2)" in fixture.description["mp_key_map"]
    assert [merged_name(f"blocks.{i}.ffn.fc1.bias", "nsp", config) for i in (0, 1, 2, 3)] == [
        "base_blocks.0.ffn.fc1.bias",
        "base_blocks.1.ffn.fc1.bias",
        "ns_blocks.0.ffn.fc1.bias",
        "ns_blocks.1.ffn.fc1.bias",
    ]
    assert merged_name("blocks.3.attn.q_bias", "mp", config) == "mask_blocks.1.attn.q_bias"
    assert merged_name("head_nm.ada_lin.1.bias", "mp", config) == "mask_head_nm.ada_lin.1.bias"
    assert merged_name("head.weight", "nsp", config) == "ns_head.weight"
    assert merged_name("word_embed.bias", "nsp", config) == "word_embed_bias"
    assert merged_name("lvl_embed.weight", "mp", config) == "lvl_embed.weight"


def test_checkpoints_of_two_trainings_are_refused(trained):
    config, _, stages = trained
    for name in ("blocks.1.ffn.fc1.weight", "class_emb.weight", "pos_1LC"):
        changed = dict(stages["mp"])
        changed[name] = changed[name] + 1e-6
        with pytest.raises(CheckpointError, match=f"not from one training: .*{merged_name(name, 'mp', config)}"):
            merge_stages(stages["nsp"], changed, config)
    own = dict(stages["mp"])
    own["blocks.2.ffn.fc1.weight"] = own["blocks.2.ffn.fc1.weight"] + 1

    merged = merge_stages(stages["nsp"], own, config)
    assert torch.equal(merged["mask_blocks.0.ffn.fc1.weight"], own["blocks.2.ffn.fc1.weight"])


@pytest.mark.parametrize(
    ("stage", "damage", "message"),
    [
        ("nsp", lambda t: t.pop("head.weight"), r"the NSP checkpoint does not fit: 1 missing \(head.weight\)"),
        ("nsp", lambda t: t.update(extra=torch.zeros(1)), r"NSP .* 1 unexpected \(extra\)"),
        ("mp", lambda t: t.pop("word_embed_bias"), r"the MP checkpoint .* missing \(word_embed_bias\)"),
        ("mp", lambda t: t.update({"head.bias": torch.zeros(3)}), r"MP .* of another shape \(head.bias \(3,\)"),
        ("nsp", lambda t: t["head.bias"].fill_(float("nan")), "NSP checkpoint has NaN or infinity in head.bias"),
        ("mp", lambda t: t.update({"base_blocks.0.x": torch.zeros(1)}), "MP checkpoint is a merged HMAR file already"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named(trained, stage, damage, message):
    config, _, stages = trained
    damage(stages[stage])
    with pytest.raises(CheckpointError, match=message):
        merge_stages(stages["nsp"], stages["mp"], config)


def test_swapped_checkpoints_are_recognised(trained):
    config, _, stages = trained
    with pytest.raises(MisfitError, match=r"the NSP checkpoint is one of masked prediction \(MP\): .* swapped"):
        merge_stages(stages["mp"], stages["nsp"], config)
    with pytest.raises(MisfitError, match="the MP checkpoint is one of next-scale prediction"):
        merge_stages(stages["nsp"], stages["nsp"], config)


@pytest.fixture
def folder(tmp_path):
    """Training checkpoints as the official code saves them, and a tokenizer."""
    spec = tiny_hmar(checkpoint=FILES)
    sampler = build_sampler(spec, weights="random:1")
    stages = stages_of(sampler.transformer.state_dict(), spec.transformer)
    for stage, tensors in stages.items():
        torch.save({"epoch": 3, "trainer": {"transformer_wo_ddp": tensors, "config": "x"}}, tmp_path / f"{stage}.pth")
    torch.save(sampler.tokenizer.state_dict(), tmp_path / "vae.pth")
    return tmp_path


@pytest.fixture
def tiny(monkeypatch):
    """The tiny model under a name of the table: tiny(spec)."""

    def install(spec):
        monkeypatch.setitem(globals(), "SPEC", spec)
        return spec

    with MODELS.scoped("tiny-hmar", f"{__name__}:SPEC"):
        yield install


def convert(folder, *more, out="merged.safetensors"):
    files = ("--nsp", str(folder / "nsp.pth"), "--mp", str(folder / "mp.pth"), "--out", str(folder / out))
    return main(["convert", "tiny-hmar", *files, *more])


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("nsp.pth", r"a VAR or, under the same names, an HMAR training checkpoint of next-scale prediction \(NSP\)"),
        ("mp.pth", r"an HMAR training checkpoint of masked prediction \(MP\)"),
    ],
)
def test_a_training_checkpoint_as_weights_is_named_with_the_conversion(folder, file, what):
    with pytest.raises(CheckpointError, match=f"this file is {what}.*arvbench convert tiny-hmar --nsp FILE --mp FILE"):
        build_sampler(tiny_hmar(checkpoint=FILES), weights=str(folder / file))


def test_a_file_of_another_family_is_not_taken_for_a_training_checkpoint(folder):
    mvar = torch.load(folder / "nsp.pth")["trainer"]["transformer_wo_ddp"] | {"blocks.0.mamba.A_log": torch.zeros(1)}
    torch.save(mvar, folder / "tiny.pth")
    with pytest.raises(MisfitError, match=r"does not fit: .* It looks"):
        build_sampler(tiny_hmar(checkpoint=FILES), weights=str(folder))


def test_the_converted_file_is_loaded_with_the_tokenizer_beside_it(folder, tiny, capsys):
    spec = tiny(tiny_hmar(checkpoint=FILES))
    assert convert(folder) == 0
    assert "with vae.pth beside it" in capsys.readouterr().out
    loaded = build_sampler(spec, weights=str(folder / "merged.safetensors"))
    expected = build_sampler(spec, weights="random:1").transformer.state_dict()
    state = loaded.transformer.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    with safe_open(folder / "merged.safetensors", "pt") as file:
        assert file.metadata().keys() == {"model", "nsp_sha256", "mp_sha256"}


def test_a_model_without_official_files_takes_its_tokenizer_into_the_file(folder, tiny):
    spec = tiny(tiny_hmar())
    assert convert(folder, "--tokenizer", str(folder / "vae.pth")) == 0
    loaded = build_sampler(spec, weights=str(folder / "merged.safetensors"))
    expected = build_sampler(spec, weights="random:1")
    for part, module in expected.modules().items():
        state = loaded.modules()[part].state_dict()
        assert all(torch.equal(state[name], t) for name, t in module.state_dict().items())


def test_a_failed_conversion_is_exit_code_2_and_leaves_no_file(folder, tiny, capsys):
    tiny(tiny_hmar(checkpoint=FILES))
    assert convert(folder, out="merged.pth") == 2
    assert "is a .safetensors file, so give it that ending" in capsys.readouterr().err
    assert convert(folder, "--tokenizer", str(folder / "vae.pth")) == 2
    assert "no --tokenizer" in capsys.readouterr().err
    shutil.copy(folder / "nsp.pth", folder / "mp.pth")
    assert convert(folder) == 2
    assert "swapped" in capsys.readouterr().err
    assert main(["convert", "var-d16", "--nsp", "a", "--mp", "b", "--out", "c.safetensors"]) == 2
    assert "var-d16 is not an HMAR" in capsys.readouterr().err
    assert main(["convert", "hmar-d24-512", "--nsp", "a", "--mp", "b", "--out", "c.safetensors"]) == 2
    assert "give its file with --tokenizer" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["mp.pth", "nsp.pth", "vae.pth"]


def test_convert_has_help_with_examples(capsys):
    assert main(["convert", "--help"]) == 0
    out = capsys.readouterr().out
    assert "Examples:" in out
    assert "arvbench convert hmar-d16" in out
