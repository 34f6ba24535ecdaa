"""`accel bench`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from accel.cli.shared import BAD_INPUT, check_target, command, deliver, with_progress
from accel.core import ConfigError, write_text


def add(commands: Any) -> None:
    parser = command(
        commands,
        "bench",
        "measure this machine and what the engine makes of it, each figure as a share of the limit",
        "  accel bench\n  accel bench kernels swap --quick\n"
        "  accel bench --json mine.json --html mine.html\n"
        "  accel bench --compare before.json after.json\n"
        "  accel bench --gate before.json after.json\n"
        "  accel bench --predict rtx4090",
    )
    parser.add_argument(
        "groups", nargs="*", metavar="GROUP", help="kernels, networks, swap, generate; default all"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots")
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar=("BEFORE", "AFTER"),
        help="compare two JSON reports and measure nothing",
    )  # fmt: skip
    parser.add_argument(
        "--gate", nargs=2, type=Path, metavar=("BEFORE", "AFTER"),
        help="fail when a lead over a peer shrank by more than a quarter",
    )  # fmt: skip
    parser.add_argument(
        "--predict", metavar="GPU",
        help="what a GPU could reach at best, by arithmetic alone: h100, a100, l4, rtx4090, rtx3090"
        " (with -fp16sum for sums in float16); measure nothing",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int | None:
    from accel.pipelines.bench.compare import compare, slower, told
    from accel.pipelines.bench.page import page
    from accel.pipelines.bench.run import GROUPS, describe, read_report, run_bench

    _check(args)
    if args.compare or args.gate:
        before, after = (read_report(path) for path in args.compare or args.gate)
        if args.compare:
            rows = compare(before, after)
            machines = {"before": describe(before), "after": describe(after)}
            lines = [f"{name:6} {machine}" for name, machine in machines.items()]
            text = "\n".join([*lines, *map(_describe_pair, rows)])
            deliver({"machines": machines, "rows": rows}, args.json, text)
            return None
        worse = slower(before, after)
        text = "\n".join(map(told, worse)) or "no lead shrank"
        deliver({"slower": worse}, args.json, text)
        return BAD_INPUT if worse else None
    if args.predict:
        _predict(args)
        return None
    quiet = args.json == "-"
    report = with_progress(
        lambda progress, cancel: run_bench(
            tuple(args.groups) or GROUPS,
            device=args.device, quick=args.quick, progress=progress, cancel=cancel,
            found=None if quiet else lambda row: print(_describe(row.json()), flush=True),
        )
    )  # fmt: skip
    if args.html:
        write_text(args.html, page(report))
        print(f"look at {args.html}", file=sys.stderr)
    deliver(report, args.json, _summary(report))
    return None


def _check(args: argparse.Namespace) -> None:
    """Refuse what would be passed over, and find out before the work that it cannot be kept."""
    instead = [name for name in ("compare", "gate", "predict") if getattr(args, name)]
    if len(instead) > 1:
        raise ConfigError(f"bench: --{instead[0]} and --{instead[1]} do not go together")
    if instead and (args.groups or args.html or args.quick):
        raise ConfigError(
            f"bench: --{instead[0]} takes no groups, no --quick and no --html: it measures nothing"
        )
    if args.html:
        check_target(args.html)


def _predict(args: argparse.Namespace) -> None:
    from accel.pipelines.bench.roofline import predict

    report = predict(args.predict)
    lines = [
        f"{row['name']:18} {row['case']:34} {row['seconds'] * 1e3:10.3f} ms {row['rate']:12.1f} "
        f"{row['unit']:11} predicted, bound by {row['bound']}"
        for row in report["rows"]
    ]
    lines.append(f"{report['gpu']['name']}: all predicted, at best; nothing was measured")
    deliver(report, args.json, "\n".join(lines))


def _describe(row: dict[str, Any]) -> str:
    share = f"{row['share']:7.0%} of {row['limit']}" if row["share"] is not None else ""
    share += f" ({row['note']})" if row["note"] else ""
    spread = f"±{row['spread']:4.0%}" if row["spread"] else " once"
    peers = ", ".join(f"{ratio:.2f} x {name}" for name, ratio in row["peers"].items())
    return (
        f"{row['name']:22} {row['case']:28} {row['seconds'] * 1e3:10.3f} ms {spread}"
        f" {_digits(row['rate'])} {row['unit']:9}{share}  {peers}"
    )


def _digits(rate: float) -> str:
    return f"{rate:10.2f}" if rate >= 1 else f"{rate:10.4f}"


def _describe_pair(row: dict[str, Any]) -> str:
    return (
        f"{row['name']:22} {row['case']:28} {_digits(row['before'])} -> {_digits(row['after'])}"
        f" {row['unit']:9} {row['ratio'] or 0:6.2f} x"
    )


def _summary(report: dict[str, Any]) -> str:
    ceilings, score = report["ceilings"], report["score"]
    lines = [f"{report['conditions']['device']}, {ceilings['threads']} threads"]
    if ceilings["gflops"]:
        lines.append(f"multiply-adds {ceilings['gflops']:.0f} GFLOP/s")
    if ceilings["by_instructions"]:
        each = ", ".join(f"{k} {v:.0f}" for k, v in ceilings["by_instructions"].items())
        lines.append(f"multiply-adds of one thread: {each} GFLOP/s")
    if ceilings["tiles"]:
        one, both = ceilings["tiles_one"], ceilings["tiles"]
        lines.append(
            f"tile registers {one:.0f} GFLOP/s of bfloat16 by one thread, {both:.0f} by all"
        )
    every = f", {ceilings['gbytes_all']:.1f} by all" if ceilings["gbytes_all"] else ""
    lines.append(f"memory copied {ceilings['gbytes']:.1f} GB/s by one thread{every}")
    if ceilings["transcode_fps"]:
        lines.append(f"bare transcode at 1080p {ceilings['transcode_fps']:.1f} frames/s")
    if score["all"]:
        groups = ", ".join(f"{name} {value:.0f}" for name, value in score["groups"].items())
        lines.append(f"score {score['all']:.0f} ({groups}); the reference machine has 100")
    return "\n".join(lines)
