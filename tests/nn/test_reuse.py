"""A UNet that looks things up gives the same bits; its short cuts do what they say."""

from __future__ import annotations

import pytest
import torch

from accel.nn.merge import MergingBlock, matching
from accel.nn.perturb import perturbed
from accel.nn.reuse import Answers, Levels, Prompts, ReusingUnet
from accel.nn.unet import Cut, Unet, UnetConfig

SMALL = UnetConfig(
    channels=32, channel_mult=(1, 2), res_blocks=2, transformer_depth=(1, 2), context_width=24,
    heads=2,
)  # fmt: skip
KINDS = {
    "sd1": SMALL,
    "sdxl": UnetConfig(
        channels=32, channel_mult=(1, 2), res_blocks=1, transformer_depth=(0, 2), context_width=24,
        heads=0, head_width=16, linear_projection=True, vector_width=20,
    ),
}  # fmt: skip


def network(config: UnetConfig = SMALL) -> Unet:
    torch.manual_seed(0)
    return Unet(config).eval().requires_grad_(False)


def told(config: UnetConfig, rows: int = 2) -> Prompts:
    vector = torch.randn(rows, config.vector_width) if config.vector_width else None
    return Prompts(torch.randn(rows, 7, config.context_width), vector)


def plainly(unet: Unet, x, t: float, prompts: Prompts, **rest):
    return unet(x, torch.full((len(x),), t), prompts.context, prompts.vector, **rest)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_as_without(kind):
    config = KINDS[kind]
    unet, first, second = network(config), told(config), told(config)
    reusing, levels = ReusingUnet(unet), Levels(unet, torch.float32)
    levels.add([999.0, 500.25, 20.0])
    for t in (999.0, 500.25, 20.0, 333.3):  # the last one was not announced
        x = torch.randn(2, 4, 8, 12)
        for prompts in (first, second, first):
            assert torch.equal(reusing(x, t, prompts, levels), plainly(unet, x, t, prompts))


def test_a_schedule_of_any_length_gives_the_same_bits():
    unet, prompts, x = network(), told(SMALL), torch.randn(2, 4, 8, 8)
    reusing, expected = ReusingUnet(unet), plainly(unet, x, 77.0, prompts)
    for count in (1, 2, 5, 16, 50):
        levels = Levels(unet, torch.float32)
        levels.add([77.0 + 3 * i for i in range(count)])
        assert torch.equal(reusing(x, 77.0, prompts, levels), expected)


def test_keys_and_projections_are_made_once(monkeypatch):
    unet, prompts = network(), told(SMALL)
    levels, reusing = Levels(unet, torch.float32), ReusingUnet(unet)
    levels.add([900.0, 500.0, 100.0])
    calls = []
    for name, module in unet.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_v", "emb_layers.1", "time_embed.0")):
            module.register_forward_hook(lambda m, a, o, name=name: calls.append(name))
    for t in (900.0, 500.0, 100.0):
        reusing(torch.randn(2, 4, 8, 8), t, prompts, levels)
    assert len(calls) == len(set(calls)) > 20


def test_the_network_is_left_as_it_is():
    unet = network()
    before = [(name, id(module)) for name, module in unet.named_modules()]
    ReusingUnet(unet, 0.5)
    assert [(name, id(module)) for name, module in unet.named_modules()] == before


def test_a_perturbed_network_can_look_up_too():
    unet, prompts, x = perturbed(network()), told(SMALL), torch.randn(2, 4, 8, 8)
    got = ReusingUnet(unet)(x, 20.0, prompts, Levels(unet, torch.float32))
    assert torch.equal(got, plainly(unet, x, 20.0, prompts))


# ------------------------------------------------------------------ step caching


@pytest.mark.parametrize("branch", range(6))
def test_the_shallow_part_with_its_own_deep_part_is_the_whole(branch):
    unet, prompts, x = network(), told(SMALL), torch.randn(2, 4, 8, 8)
    reusing, levels, cut = ReusingUnet(unet), Levels(unet, torch.float32), Cut(branch)
    sizes = [8, 8, 8, 4, 4, 4]
    control = [torch.randn(2, w, s, s) for w, s in zip(unet.skip_widths, sizes)]
    control.append(torch.randn(2, 64, 4, 4))
    expected = plainly(unet, x, 20.0, prompts, control=control)
    whole = reusing(x, 20.0, prompts, levels, control, cut=cut)
    assert torch.equal(whole, expected)
    assert cut.deep is not None
    again = reusing(x, 20.0, prompts, levels, control[: branch + 1], cut=cut)
    assert torch.equal(again, expected)


def test_the_shallow_part_is_little():
    unet, prompts = network(), told(SMALL)
    reusing, levels, cut, ran = ReusingUnet(unet), Levels(unet, torch.float32), Cut(0), []
    for block in [*unet.input_blocks, unet.middle_block, *unet.output_blocks]:
        for module in block.modules():
            module.register_forward_hook(lambda m, a, o: ran.append(m))
    reusing(torch.randn(2, 4, 8, 8), 500.0, prompts, levels, cut=cut)
    whole = len(ran)
    ran.clear()
    deep = cut.deep
    out = reusing(torch.randn(2, 4, 8, 8), 400.0, prompts, levels, cut=cut)
    assert len(ran) < whole / 5
    assert cut.deep is deep
    assert torch.isfinite(out).all()


# ------------------------------------------------------------------ frozen cross attention


def test_gathering_answers_changes_nothing_and_frozen_ones_are_their_mean():
    unet, prompts, x = network(), told(SMALL), torch.randn(2, 4, 8, 8)
    reusing, levels, answers = ReusingUnet(unet), Levels(unet, torch.float32), Answers()
    got = reusing(x, 20.0, prompts, levels, answers=answers)
    torch.testing.assert_close(got, plainly(unet, x, 20.0, prompts))
    answers.freeze()
    layer = next(iter(prompts.keys))
    assert answers.of(layer).shape[0] == 1
    one_by_one = Answers()
    for row in range(2):
        alone = Prompts(prompts.context[row : row + 1])
        reusing(x[row : row + 1], 20.0, alone, levels, answers=one_by_one)
    one_by_one.freeze()
    torch.testing.assert_close(one_by_one.of(layer), answers.of(layer))


def test_frozen_answers_of_one_prompt_at_the_same_point_are_exact():
    unet, prompts, x = network(), told(SMALL, rows=1), torch.randn(1, 4, 8, 8)
    reusing, levels, answers = ReusingUnet(unet), Levels(unet, torch.float32), Answers()
    reusing(x, 20.0, prompts, levels, answers=answers)
    answers.freeze()
    other = told(SMALL, rows=1)  # what it says is of no effect any more
    got = reusing(x, 20.0, other, levels, answers=answers)
    torch.testing.assert_close(got, plainly(unet, x, 20.0, prompts))
    assert not other.keys


def test_answers_must_be_gathered_first():
    with pytest.raises(ValueError, match="a call must have been made"):
        Answers().freeze()


# ------------------------------------------------------------------ token merging


def by_the_paper(x, height, width, count):
    """Merged tokens and where each position went, one row, written with loops."""
    unit = x / x.norm(dim=1, keepdim=True)
    targets = [
        r * width + c for r in range(0, height // 2 * 2, 2) for c in range(0, width // 2 * 2, 2)
    ]
    others = [i for i in range(height * width) if i not in targets]
    best = {}
    for i in others:
        scores = [float(unit[i] @ unit[j]) for j in targets]
        best[i] = (max(scores), targets[scores.index(max(scores))])
    ranked = sorted(others, key=lambda i: -best[i][0])
    into = {i: best[i][1] for i in ranked[:count]}
    merged = {j: x[[j, *[i for i, t in into.items() if t == j]]].mean(0) for j in targets}
    return merged, into


@pytest.mark.parametrize(
    ("height", "width", "count"), [(4, 6, 9), (5, 7, 12), (4, 4, 99), (4, 4, 0)]
)
def test_merging_is_what_the_paper_says(height, width, count):
    x = torch.randn(2, height * width, 5, generator=torch.Generator().manual_seed(height))
    found = matching(x, (height, width), count)
    tokens = found.merge(x)
    for row in range(2):
        merged, into = by_the_paper(x[row], height, width, count)
        stands = tokens[row, found.place[row]]  # for each position
        for i in range(height * width):
            expected = merged[into[i]] if i in into else merged.get(i, x[row, i])
            torch.testing.assert_close(stands[i], expected)
    assert tokens.shape[1] == height * width - len(into)
    torch.testing.assert_close(found.undo(tokens, x) - x, torch.stack(
        [tokens[row, found.place[row]] for row in range(2)]))  # fmt: skip


def test_a_matching_of_one_picture_does_not_depend_on_the_batch_nor_on_threads():
    x = torch.randn(3, 256, 32)
    whole = matching(x, (16, 16), 120)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            alone = matching(x[1:2], (16, 16), 120)
            assert torch.equal(alone.place[0], whole.place[1])
            assert torch.equal(alone.merge(x[1:2])[0], whole.merge(x)[1])
    finally:
        torch.set_num_threads(before)


def test_merging_is_done_at_the_first_level_with_transformers():
    for config, merges in ((SMALL, 5), (KINDS["sdxl"], 6)):
        unet = network(config)
        reusing = ReusingUnet(unet, 0.5)
        assert sum(isinstance(m, MergingBlock) for m in reusing.unet.modules()) == merges
        prompts, x = told(config), torch.randn(2, 4, 8, 12)
        got = reusing(x, 20.0, prompts, Levels(unet, torch.float32))
        exact = plainly(unet, x, 20.0, prompts)
        assert 0 < (got - exact).abs().max() < exact.abs().max()
