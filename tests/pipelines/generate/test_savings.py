"""Work that is not done twice changes no bit; work that is left out does what its papers say."""

from __future__ import annotations

import threading

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import accel
from accel.core import ConfigError
from accel.models import stable_diffusion as sd
from accel.pipelines.generate import load, network
from accel.pipelines.generate.options import Options
from accel.pipelines.generate.passes import gate_phase
from tests.pipelines.generate import tiny

FAST = {"steps": 6, "cfg": 3.0, "output": "latent"}
OFF = {"deepcache": 1, "tgate": 1.0, "token_merging": 0.0}


@pytest.fixture(autouse=True)
def members(monkeypatch):
    monkeypatch.setattr(sd, "CONFIGS", {"sd1": tiny.CONFIG})


@pytest.fixture
def small(tmp_path):
    return load(tiny.write_checkpoint(tmp_path / "tiny.safetensors"))


@pytest.fixture(scope="module")
def control(tmp_path_factory):
    folder = tmp_path_factory.mktemp("control")
    picture = Image.new("RGB", (64, 64), (200, 30, 90))
    return tiny.write_control(folder / "control.safetensors"), picture


def error(got, exact) -> float:
    return float((got - exact).norm() / exact.norm())


class PlainControls:
    """In place of network.Known."""

    def control(self, net):
        def whole(x, seen, t, prompts, levels, scale):
            embedding = net.embed(torch.full((len(x),), t), prompts.vector, x.dtype)
            seen = seen.expand(len(x), -1, -1, -1)
            return net.steer(x, seen, embedding, prompts.context, scale)

        return whole, None


class Plain(network.Network):
    """The networks without anything looked up."""

    def _call(self, x, t, told):
        context, vector = network.batched(self.model, self.dtype, told)
        prompts = network.Prompts(context, vector)
        added = self._steered(x.to(self.dtype), float(t[0]), prompts, told, PlainControls())
        return self.model.unet(x.to(self.dtype), t, context, vector, *added)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sampler": "heun", "steps": 3},
        {"sampler": "euler_a", "skip_early": 0.3},
        {"sampler": "dpmpp_2m_cfg_pp", "cfg": 0.8},
        {"prompt": "a [red:green:0.5] apple AND a [big|small] tree :0.4"},
        {"prompt": "apple, " * 20},
        {"hires_scale": 1.5, "steps": 3},
    ],
    ids=lambda o: " ".join(o) or "plain",
)
def test_what_is_looked_up_gives_the_same_bits(nano, monkeypatch, options):
    options = FAST | options
    prompt = options.pop("prompt", "a red apple")
    got = nano.sample(prompt, **options)
    monkeypatch.setattr("accel.pipelines.generate.passes.Network", Plain)
    assert torch.equal(got, nano.sample(prompt, **options))


def test_controls_are_as_without(small, control, monkeypatch):
    options = FAST | {"controls": (control,)}
    got = small.sample("a", **options)
    monkeypatch.setattr("accel.pipelines.generate.passes.Network", Plain)
    assert torch.equal(got, small.sample("a", **options))


def test_what_a_control_makes_of_prompt_and_picture_is_computed_once(small, control):
    small.sample("a", steps=1, controls=(control,), output="latent")
    (net,) = small.controls.values()
    calls = []
    layers = net.middle_block[1].transformer_blocks[0].attn2.to_k, net.input_hint_block[0]
    hooks = [layer.register_forward_hook(lambda m, a, o: calls.append(m)) for layer in layers]
    small.sample("a", controls=(control,), **FAST)
    for hook in hooks:
        hook.remove()
    assert sorted(map(layers.index, calls)) == [0, 1]


def test_keys_of_a_prompt_are_computed_once_for_all_pictures(nano):
    layer = nano.loaded.model.unet.middle_block[1].transformer_blocks[0].attn2.to_k
    calls = []
    hook = layer.register_forward_hook(lambda m, a, o: calls.append(len(a[0])))
    try:
        nano.sample("a red apple", count=3, **FAST)
    finally:
        hook.remove()
    assert calls == [2]


def test_approximations_that_are_off_change_nothing(nano):
    assert torch.equal(nano.sample("a tree", **FAST), nano.sample("a tree", **FAST, **OFF))
    assert not Options(**OFF).approximates


APPROXIMATE = [
    {"deepcache": 3},
    {"deepcache": 2, "deepcache_branch": 2},
    {"tgate": 0.5},
    {"token_merging": 0.5},
    {"deepcache": 2, "tgate": 0.5, "token_merging": 0.4},
]
COMBINED = [
    {},
    {"sampler": "heun"},
    {"sampler": "dpmpp_2m_sde"},
    {"prompt": "[red:green:0.5] apple"},
    {"prompt": "apple, " * 20, "negative": "blue"},
    {"s_min_uncond": 5.0},
    {"cfg": 1.0},
    {"hires_scale": 1.5},
    {"init": True, "strength": 0.8},
    {"init": True, "mask": True},
    {"tiling": True},
    {"cfg_rescale": 0.5},
]


@pytest.mark.slow
@pytest.mark.parametrize("extra", COMBINED, ids=lambda o: " ".join(o) or "plain")
def test_approximations_go_with_everything_else(nano, extra):
    options = FAST | {"steps": 4} | extra
    prompt = options.pop("prompt", "a red apple")
    picture = Image.new("RGB", (64, 64), (200, 30, 90))
    mask = torch.zeros(64, 64)
    mask[16:48, 16:48] = 1
    for name, value in (("init", picture), ("mask", mask)):
        if name in options:
            options[name] = value
    exact = nano.sample(prompt, **options)
    for approximate in APPROXIMATE:
        got = nano.sample(prompt, **options, **approximate)
        if approximate != {"tgate": 0.5} or "cfg" not in extra:
            assert 0 < error(got, exact) < 10, approximate  # four steps are far apart


def test_step_caching_and_merging_go_with_perturbed_attention_and_cfg_pp(nano):
    for extra in ({"pag": 2.0}, {"sampler": "euler_cfg_pp", "cfg": 0.8}):
        exact = nano.sample("a tree", **(FAST | extra))
        for approximate in ({"deepcache": 2}, {"token_merging": 0.5}):
            assert 0 < error(nano.sample("a tree", **(FAST | extra | approximate)), exact) < 1


def test_more_calls_in_whole_are_nearer(nano):
    options = FAST | {"steps": 10}
    exact = nano.sample("a red apple", **options)
    errors = [error(nano.sample("a red apple", **options, deepcache=n), exact) for n in (2, 5)]
    assert 0 < errors[0] < errors[1]
    errors = [
        error(nano.sample("a red apple", **options, tgate=share), exact) for share in (0.8, 0.2)
    ]
    assert 0 < errors[0] < errors[1]


def test_a_step_between_runs_the_outermost_blocks_alone(nano):
    unet, ran = nano.loaded.model.unet, []
    convolutions = {"first": unet.input_blocks[0][0], "middle": unet.middle_block[0].in_layers[2]}
    hooks = [
        module.register_forward_hook(lambda m, a, o, name=name: ran.append(name))
        for name, module in convolutions.items()
    ]
    try:
        nano.sample("a red apple", **(FAST | {"steps": 7}), deepcache=3)
    finally:
        for hook in hooks:
            hook.remove()
    assert ran == ["first", "middle", "first", "first"] * 2 + ["first", "middle"]


def test_beyond_the_gate_one_prompt_goes_through_and_none_is_attended_to(nano):
    unet, rows, attended = nano.loaded.model.unet, [], []
    first, query = unet.input_blocks[0][0], unet.middle_block[1].transformer_blocks[0].attn2.to_q
    hooks = [
        first.register_forward_hook(lambda m, a, o: rows.append(len(o))),
        query.register_forward_hook(lambda m, a, o: attended.append(len(o))),
    ]
    try:
        nano.sample("a red apple", **FAST, tgate=0.5)
    finally:
        for hook in hooks:
            hook.remove()
    assert rows == [2, 2, 2, 1, 1, 1]
    assert attended == [2, 2, 2]


def test_phases_of_the_gate():
    assert [gate_phase(0.5, call, 6) for call in range(6)] == ["", "", "last"] + ["after"] * 3
    assert [gate_phase(0.0, call, 3) for call in range(3)] == ["last", "after", "after"]
    assert [gate_phase(1.0, call, 3) for call in range(3)] == [""] * 3


def test_controls_and_step_caching(small, control):
    options = FAST | {"controls": ((*control, 1.0, 0.0, 0.7),)}
    exact = small.sample("a", **options)
    for approximate in APPROXIMATE:
        assert 0 < error(small.sample("a", **options, **approximate), exact) < 1, approximate


def test_models_that_inpaint_and_edit(tmp_path):
    picture = Image.new("RGB", (64, 64), (200, 30, 90))
    mask = torch.zeros(64, 64)
    mask[16:48, 16:48] = 1
    for channels, extra in ((9, {"mask": mask}), (8, {"image_cfg": 1.2})):
        model = load(tiny.write_checkpoint(tmp_path / f"{channels}.safetensors", channels))
        options = FAST | {"init": picture} | extra
        exact = model.sample("a", **options)
        for approximate in ({"deepcache": 2}, {"token_merging": 0.5}):
            assert 0 < error(model.sample("a", **options, **approximate), exact) < 1


def test_nothing_is_kept_from_one_prompt_to_the_next(nano):
    options = FAST | {"deepcache": 3, "tgate": 0.6}
    alone = nano.sample("a tree", **options)
    nano.sample("a red apple", **options)
    assert torch.equal(nano.sample("a tree", **options), alone)


def test_nothing_is_shared_between_threads():
    samplers = [accel.Sampler("nano") for _ in range(2)]
    options = {"steps": 6, "deepcache": 2, "tgate": 0.5, "token_merging": 0.3}
    prompts = ["a red apple", "a tree"]
    wanted = [samplers[0](p, seed=1, **options)[0].rgb for p in prompts]
    got = {}

    def work(i):
        for turn in range(2):
            which = (i + turn) % 2
            got[i, turn] = samplers[i](prompts[which], seed=1, **options)[0].rgb, which

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4
    assert all((rgb == wanted[which]).all() for rgb, which in got.values())


def test_a_run_keeps_the_loras_that_it_began_with(small, tmp_path):
    name = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k"
    torch.manual_seed(3)
    weights = {"lora_up": torch.randn(64, 2), "lora_down": torch.randn(2, 16)}
    path = tmp_path / "lora.safetensors"
    save_file({f"{name}.{part}.weight": value for part, value in weights.items()}, path)
    sampler = accel.Sampler(small)
    options = {"steps": 3, "count": 2, "seed": 4}
    plain = [one.rgb for one in sampler.pictures("a", **options)]
    pictures = sampler.pictures("a", **options)
    first = next(pictures)
    small.load_lora(path, 3.0)
    try:
        between = sampler("a", **options | {"count": 1})[0]
        second = next(pictures)
    finally:
        small.unload_loras()
    assert (first.rgb == plain[0]).all()
    assert (second.rgb == plain[1]).all()
    assert "lora" not in second.infotext
    assert not (between.rgb == plain[0]).all()
    assert "<lora:lora:3>" in between.infotext
    assert (next(sampler.pictures("a", **options)).rgb == plain[0]).all()


def test_runs_that_take_turns_in_one_thread_do_not_share_their_loras(small, tmp_path):
    name = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    torch.manual_seed(3)
    weights = {"lora_up": torch.randn(64, 2), "lora_down": torch.randn(2, 16)}
    path = tmp_path / "lora.safetensors"
    save_file({f"{name}.{part}.weight": value for part, value in weights.items()}, path)
    options = {"steps": 2, "count": 2, "seed": 4}
    sampler = accel.Sampler(small)
    each = [options, options | {"loras": ((path, 2.0),)}]
    wanted = [[one.rgb for one in sampler.pictures("a", **one_run)] for one_run in each]
    turns = zip(*(sampler.pictures("a", **one_run) for one_run in each), strict=True)
    for i, pictures in enumerate(turns):
        for k, picture in enumerate(pictures):
            assert (picture.rgb == wanted[k][i]).all()
    assert not (wanted[0][0] == wanted[1][0]).all()


def test_a_picture_is_made_again_from_its_text(tmp_path):
    options = {
        "steps": 4,
        "deepcache": 2,
        "deepcache_branch": 1,
        "tgate": 0.5,
        "token_merging": 0.3,
    }
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    report = accel.generate("a tree", first, seed=3, **options)
    text = report["pictures"][0]["infotext"]
    for part in ("DeepCache: 2", "DeepCache branch: 1", "T-GATE: 0.5", "Token merging ratio: 0.3"):
        assert part in text
    again = accel.generate(None, second, from_picture=first)
    assert any("to the bit" in note for note in again["notes"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deepcache": 0}, r"deepcache must lie in 1\.\.100, got 0"),
        ({"deepcache": 2, "deepcache_branch": 9}, r"deepcache_branch must lie in 0\.\.5 for nano"),
        ({"tgate": 1.5}, r"tgate must lie in 0\.\.1"),
        ({"token_merging": 1.0}, r"token_merging must lie in 0\.\.0\.9"),
        ({"tgate": 0.5, "pag": 1.0}, "tgate ends guidance, so it cannot go with pag"),
        ({"tgate": 0.5, "sampler": "euler_cfg_pp"}, "cannot go with euler_cfg_pp"),
        ({"tgate": 0.5, "prompt": "a AND b"}, "tgate takes one prompt, got 2 joined by AND"),
    ],
)
def test_refusals_are_one_clear_line(nano, options, message):
    with pytest.raises(ConfigError, match=message):
        nano.sample(options.pop("prompt", "a"), **options)


def test_exported_networks_say_why_not(nano, monkeypatch):
    monkeypatch.setattr(type(nano), "has_weights", False)
    with pytest.raises(ConfigError, match="need the networks themselves"):
        nano.sample("a", steps=2, deepcache=2)


def test_the_options_are_on_the_command_line(capsys):
    from accel.cli import main

    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    text = capsys.readouterr().out
    for option in ("--deepcache", "--deepcache-branch", "--tgate", "--token-merging"):
        assert option in text
