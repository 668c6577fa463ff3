"""The command line, ``cfdg-jax``: subcommands over the public functions, one-line errors, honest exit codes.

0 done; 2 wrong usage or bad input; 130 interrupted after a checkpoint; 1 anything else.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

import click

from cfdg_jax.commands import completion, data, jobs, runs, train  # noqa: F401
from cfdg_jax.errors import DISK_ERRORS, PATH_ERRORS, UserError, nearest
from cfdg_jax.training.progress import Interrupted

PROGRAM = "cfdg-jax"


AGAIN = "run the same command again to continue"

COMPLETION = 'Completion: eval "$(_CFDG_JAX_COMPLETE=bash_source cfdg-jax)", also with zsh_source and fish_source.'


@click.group(cls=data.Choices, context_settings={"max_content_width": 110}, epilog=COMPLETION)
@click.version_option(package_name="cfdg-jax", prog_name=PROGRAM, message="%(prog)s %(version)s")
def cli() -> None:
    """Offline-to-online reinforcement learning with diffusion generation."""


for command in (
    jobs.demo, train.train, jobs.sweep, runs.report, runs.evaluate, runs.export, jobs.sample, data.data,
    data.list_names, jobs.bench,
):  # fmt: skip
    cli.add_command(command)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    if "_CFDG_JAX_COMPLETE" in os.environ:  # a shell asks for completions
        with contextlib.suppress(UserError):  # of a word that is wrong already, nothing can be said
            cli.main(prog_name=PROGRAM)
        return 0
    try:
        with cli.make_context(PROGRAM, list(sys.argv[1:] if argv is None else argv)) as context:
            return cli.invoke(context) or 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        print(_usage(error), file=sys.stderr)
        return 2
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"interrupted; {str(stop) or AGAIN}", file=sys.stderr)
        return 130
    except KeyboardInterrupt as stop:
        print(f"interrupted; {stop}; {AGAIN}" if str(stop) else "interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        return _os_error(error)


def _usage(error: click.ClickException) -> str:
    """One line for wrong usage, with the command that says what is right."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error.format_message()
    context = getattr(error, "ctx", None)
    path = context.command_path if context else PROGRAM
    if isinstance(error, click.NoSuchOption) and context:
        known = [name for each in context.command.params for name in each.opts if name.startswith("--")]
        remedy = nearest(error.option_name, known, f"{path} --help")
        return f"error: {error.option_name}: is no option of {path}; {remedy}"
    message = " ".join(error.format_message().split()).rstrip(".")
    return f"error: {path}: {message[:1].lower()}{message[1:]}; see {path} --help"


def _os_error(error: OSError) -> int:
    """One line for a file that cannot be read or written."""
    reason, name = error.strerror or " ".join(str(error).split()), error.filename
    if error.errno in DISK_ERRORS:
        place = f" while writing {name}" if name else ""
        print(f"error: disk full{place} ({reason}); free some space, what was complete is kept", file=sys.stderr)
        return 1
    print(f"error: {name}: {reason}" if name else f"error: {reason}", file=sys.stderr)
    return 2 if error.errno in PATH_ERRORS else 1


if __name__ == "__main__":
    sys.exit(main())
