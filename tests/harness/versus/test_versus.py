"""`arvbench versus` with a checkout whose official code is made up; real ones are not part of the tests."""

from __future__ import annotations

import json
import subprocess

import pytest
from fake_upstream import make_upstream

from arvbench.errors import UserError
from arvbench.harness.cli import main
from arvbench.harness.versus.checkouts import upstream_of
from arvbench.harness.versus.launch import Times, VersusJob, run_launch
from arvbench.harness.versus.trial import SCOPES, Versus, ratios
from arvbench.kernels.backends import Backend
from arvbench.results.schema import CaseConfig

SMALL = ["--batch", "2", "--launches", "1", "--repeats", "1", "--threads", "1"]


def versus(folder, root, *options) -> tuple[int, Versus | None]:
    code = main(["versus", "demo/var", "--upstream-root", str(root), "--out", str(folder), *SMALL, *options])
    path = folder / "versus.json"
    return code, Versus.model_validate_json(path.read_bytes()) if path.exists() else None


def times(*images_ns: int) -> Times:
    scopes = dict.fromkeys(SCOPES, images_ns)
    return Times(scopes_ns=scopes, warmup_calls=3, steady=True, weights_bytes=1, peak_bytes=None)


def test_both_sides_draw_the_same_ids_and_every_scope_has_a_ratio(tmp_path, capsys, forked_helpers):
    code, done = versus(tmp_path / "out", make_upstream(tmp_path / "VAR", needs="iopath.common"))
    assert (code, done.status) == (0, "ok")
    assert done.parity.equal_reference == done.parity.equal_backend == done.parity.tokens == 260
    assert done.parity.images_max_diff < 1e-5
    assert [ratio.scope for ratio in done.ratios] == list(SCOPES)
    assert not list((tmp_path / "VAR").rglob("__pycache__")), "nothing is written into the checkout"
    assert all(ratio.official_ns > 0 and ratio.ours_ns > 0 for ratio in done.ratios)
    assert done.ratios[0].interval is None, "one launch per side has no interval"
    assert any("iopath" in shim for shim in done.shims), "a package for logs has a stand-in, which the result names"
    printed = capsys.readouterr().out
    assert "An interval needs at least 4 launches per side" in printed
    *lines, last = printed.splitlines()
    assert max(map(len, lines)) <= 80 and last.startswith("see "), "only a path may be longer"
    page = (tmp_path / "out" / "versus.md").read_text()
    assert page.count("| images |") == 1 and "260 of 260 ids" in page


def test_a_difference_of_ids_leaves_no_time(tmp_path, capsys, forked_helpers):
    code, done = versus(tmp_path / "out", make_upstream(tmp_path / "VAR", wrong=True), "--json")
    assert (code, done.status) == (1, "incorrect")
    assert done.parity.equal_reference < done.parity.tokens and not done.ratios and not done.official
    assert "no time is taken" in json.loads(capsys.readouterr().out)["reason"]


@pytest.mark.parametrize("half", [True, False])
def test_our_side_decodes_in_bfloat16_where_the_check_allows_it_and_says_so(tmp_path, monkeypatch, half):
    monkeypatch.setattr(Backend, "half_decode_on", lambda self, device_type: half and self.half_decode)
    case = CaseConfig(model="demo/var", weights="demo", dtype="bfloat16", repeats=1, max_warmup=1, threads=1)
    done = run_launch(VersusJob(side="ours", case=case, root=tmp_path)).times
    assert done is not None and done.decoder == ("bfloat16, channels last" if half else "")


def test_a_missing_package_is_named(tmp_path):
    code, done = versus(tmp_path / "out", make_upstream(tmp_path / "VAR", needs="mamba_ssm_of_nobody"))
    assert (code, done.status) == (3, "unsupported")
    assert "mamba_ssm_of_nobody" in done.reason


def test_the_checkout_of_another_repository_is_refused_with_both_commits(tmp_path):
    root = tmp_path / "FlexVAR"
    (root / "models").mkdir(parents=True)
    for name in ("flexvar.py", "vq_llama.py"):
        (root / "models" / name).write_text("")
    identity = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", "-C", str(root), *command], check=True)
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    with pytest.raises(UserError, match=f"FlexVAR at {head[:7]}; var needs FoundationVision/VAR at 78b9539"):
        upstream_of("var", root)
    there = upstream_of("flexvar", root)
    assert there.commit == head.strip() and f"{head[:7]}; our samplers were compared with 04462cb" in there.notice


@pytest.mark.parametrize("family, name", [("llamagen", "LlamaGen"), ("nar", "NAR")])
def test_a_repository_and_its_fork_are_told_apart(tmp_path, family, name):
    root = tmp_path / name
    top = root / "NAR-images" if family == "nar" else root
    for file in ("autoregressive/models/gpt.py", "tokenizer/tokenizer_image/vq_model.py"):
        (top / file).parent.mkdir(parents=True)
        (top / file).write_text("")
    if family == "llamagen":
        (top / "autoregressive/serve").mkdir()
    other = "nar" if family == "llamagen" else "llamagen"
    assert upstream_of(family, root).root == top
    with pytest.raises(UserError, match=name):
        upstream_of(other, root)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["par", "nothing"], "no demo weights"),
        (["demo/var", "nothing"], "is not a folder"),
        (["demo/par", "."], "no official code of the family par"),
        (["demo/var", "."], "has the code of no known model"),
        (["demo/none", "."], "no model 'demo/none'"),
        (["demo/var", ".", "--set", "settings.cfg=-1"], "cfg"),
        (["demo/var", ".", "--set", "cfg"], "settings.KEY=VALUE"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    model, root, *more = arguments
    model = "par-xl-4x-384" if model == "par" else model
    assert main(["versus", model, "--upstream-root", root, "--out", "out", *more]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out" / "versus.json").exists()


def test_the_ratio_is_of_the_medians_of_launches_and_has_an_exact_interval():
    official = [times(200, 210, 1000), times(220), times(190), times(230)]
    ours = [times(100), times(101, 99), times(105), times(95)]
    for ratio in ratios(official, ours):
        assert ratio.ratio == pytest.approx(215 / 100)
        low, high = ratio.interval
        assert 1.7 < low < ratio.ratio < high < 2.5
    few = ratios(official[:1], ours[:1])
    assert few[0].interval is None and few[0].detectable is None
