"""``python -m fastfc``: what this build is, whether it computes rightly, and how fast it is."""

from __future__ import annotations

import argparse
import sys


def _info(options: argparse.Namespace) -> int:
    import fastfc

    print(fastfc.show_config())
    return 0


def _selftest(options: argparse.Namespace) -> int:
    import fastfc

    report = fastfc.selftest()
    print(report)
    return 0 if report else 1


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    from fastfc.bench import cli

    parser = argparse.ArgumentParser(
        prog="python -m fastfc",
        description="Fully connected layers on CPUs for numpy arrays: what this build is, whether it computes rightly, "
        "and how fast.",
        epilog="In Python: import fastfc; y = fastfc.linear(x, weight, bias). Each command has its own --help.",
    )
    commands = parser.add_subparsers(title="commands", metavar="{info,selftest,bench}")
    info = commands.add_parser("info", help="show version, kernels in use, threads and build of this fastfc")
    info.set_defaults(run=_info)
    check = commands.add_parser("selftest", help="check every kernel on this machine; status 0 if all is well, else 1")
    check.set_defaults(run=_selftest)
    cli.add_arguments(commands.add_parser("bench", help="train, infer, and measure against rivals and the machine"))
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):
        parser.print_help()
        return 0
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())
