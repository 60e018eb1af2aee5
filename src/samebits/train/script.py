"""Runs a script as it is, in the pinned training process: `fit` takes over its calls of `Model.fit`.

The script is the module `__main__`, with its own arguments and working directory. What it prints goes to the terminal.
`notices` tells what it sets itself.
"""

import logging
import os
import pathlib
import sys
import traceback
import types
from typing import IO, Any

from samebits.core import files
from samebits.core.config import Config
from samebits.core.digest import arrays_digest
from samebits.core.errors import SamebitsError, StopRequestedError, TrainingError
from samebits.core.notebooks import NOTEBOOK, code_path, read_code
from samebits.runs.folder import FILES
from samebits.train.notices import Notices, ReadFiles
from samebits.train.stop import StopRequests
from samebits.train.worker import Run, check_code

logger = logging.getLogger(__name__)

# Seed points that a script need not use.
UNUSED = ("data/load", "data/split", "data/folds", "data/oversample", "data/bootstrap", "data/order", "data/augment")


class ScriptRun(Run):
    """One run of a script: its calls of `fit` are the stages.

    Args:
        config: The configuration, which names the script.
        attempt: The run's folder.
        root: The project's folder, or the one with the runs.
        stop: Knows whether a stop was requested.
        terminal: Gets what the script writes to its standard error.
    """

    def __init__(
        self, config: Config, attempt: pathlib.Path, root: pathlib.Path, stop: StopRequests, terminal: IO[str]
    ) -> None:
        super().__init__(config, attempt, root, stop)
        self.terminal = terminal

    def train(self) -> tuple[list[dict[str, Any]], str]:
        """Run the script, and save its last model. Returns the outcome of each call of `fit`, and their data's digest.

        Raises:
            SamebitsError: A call of `fit` failed, also if the script caught the error.
        """
        from samebits.train.fit import Fits, take_over  # noqa: PLC0415  after the pins

        for point in UNUSED:
            self.seeds.mark_unused(point, because="the script does not use it in a call of fit")
        check_code(self.config, self.attempt, self.root)
        fits = Fits(self.config, self.seeds, self.attempt, self.stop, self.seeding)
        options, read = self.config.script, ReadFiles(self.root / self.config.paths.runs)
        with self.timed("training_s"), take_over(fits), Notices(pathlib.Path(options.path), self.config), read:
            names = self.execute()
        if fits.error is not None:
            raise fits.error
        files.write_json(self.attempt / FILES, read.digests(pathlib.Path(options.folder)))
        fits.finish(names)
        self.seeds.check_consumed()
        self.stages = fits.stages
        return fits.outcomes, arrays_digest(fits.data)

    def execute(self) -> dict[str, Any]:
        """Run the code of the script as the module `__main__`, and return its names.

        Raises:
            StopRequestedError: A stop was requested in a call of `fit`.
            TrainingError: The script ended with an exit code that is not 0.
        """
        from samebits.train.fit import FitStoppedError  # noqa: PLC0415  after the pins

        options = self.config.script
        path, where = pathlib.Path(options.path), code_path(options)
        text, left_out = read_code(where)
        for line in left_out:
            logger.warning("%s is left out: %s", path.name, line)
        code = compile(text, str(path), "exec", dont_inherit=True)
        module = types.ModuleType("__main__")
        module.__dict__["__file__"] = str(path)
        if path.suffix == NOTEBOOK:
            module.__dict__["display"] = print
        os.chdir(options.folder)
        sys.dont_write_bytecode = True  # beside what the script imports
        sys.argv, sys.path[:0] = [str(path), *options.arguments], [str(where.parent)]
        worker, errors = sys.modules["__main__"], sys.stderr
        sys.modules["__main__"], sys.stderr = module, self.terminal
        try:
            exec(code, module.__dict__)  # noqa: S102  running it is the purpose
        except FitStoppedError as stopped:
            raise StopRequestedError from stopped
        except SystemExit as end:
            if end.code not in (None, 0):
                raise TrainingError(
                    "the script ended with an exit code.", expected="0 or none", received=repr(end.code),
                    fix="see what it printed",
                ) from end  # fmt: skip
        except Exception as error:
            show_traceback(error, path, self.terminal)
            raise
        finally:
            sys.stdout.flush()
            sys.modules["__main__"], sys.stderr = worker, errors
        return module.__dict__


def show_traceback(error: Exception, script: pathlib.Path, terminal: IO[str]) -> None:
    """Print the traceback of an error from the line of the script on; of an error of samebits, that line alone."""
    below: Any = error.__traceback__
    while below is not None and below.tb_frame.f_code.co_filename != str(script):
        below = below.tb_next
    if isinstance(error, SamebitsError):
        traceback.print_tb(below, limit=1, file=terminal)
        return
    traceback.print_exception(type(error), error, below or error.__traceback__, file=terminal)
