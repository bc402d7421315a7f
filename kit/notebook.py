"""`python -m kit.notebook NOTEBOOK OUT -p NAME VALUE …`: papermill, strict about parameters, whole in its results."""

import argparse
import logging
import os
import signal
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

from kit import cpu_allocator
from kit.files import put, temporary_folder
from kit.parameters import check_values, read_parameters, read_texts
from kit.settings import Count, typed


class NotebookFailed(RuntimeError):
    """A cell raised or ran too long, or the kernel died."""


@typed
def run_notebook(
    notebook: str | os.PathLike, out: str | os.PathLike, parameters: Mapping[str, object] | None = None,
    html: bool = False, timeout: Count | None = None,
) -> Path:  # fmt: skip
    """Run `notebook` in the current folder and put it, executed, at `out`; return `out`.

    Nothing is put there unless every cell succeeded; as far as it got, a failed run is kept as `NAME.failed.ipynb`.
    `timeout` is in seconds, for one cell. `html` writes a page beside `out`. Raises ValueError before anything runs if
    a parameter is unknown or of another type, and NotebookFailed if a cell fails.
    """
    import nbformat

    notebook, out = Path(notebook), Path(out)
    values = check_values(parameters or {}, read_parameters(notebook))
    if out.suffix != ".ipynb":
        raise ValueError(f"the executed notebook cannot be {str(out)!r}: its name must end in .ipynb")
    if out.resolve() == notebook.resolve():
        raise ValueError(f"{out} is the notebook itself; write the executed one elsewhere, such as runs/{out.name}")
    failed = out.with_suffix(".failed.ipynb")
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(".kit-notebook", out.parent) as folder:  # hidden; for drafts, and for the kernel's own files
        draft = folder / out.name
        try:
            executed = _execute(notebook, draft, values, timeout)
            executed.metadata.papermill.output_path = str(out)
            nbformat.write(executed, draft)
        except BaseException as error:  # interrupted runs are kept too
            if draft.exists():
                draft.replace(failed)
                error.add_note(f"the notebook as far as it got: {failed}")
            raise
        put(draft, out)
        failed.unlink(missing_ok=True)
        if html:
            from nbconvert import HTMLExporter

            text, _ = HTMLExporter().from_notebook_node(executed, {"metadata": {"name": out.stem}})
            page = draft.with_suffix(".html")
            page.write_text(text, encoding="utf-8")
            put(page, out.with_suffix(".html"))
    return out


def _execute(notebook: Path, draft: Path, values: dict[str, object], timeout: int | None):
    import papermill
    from nbformat.warnings import MissingIDFieldWarning
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it warns of is checked here, or raised below
    source, target = (str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, draft))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MissingIDFieldWarning)
        try:
            manager = _this_python(draft.parent)
            kernel = {"kernel_name": "python3", "language": "python", "kernel_manager_class": manager}
            limits = {"execution_timeout": timeout, "interrupt_on_timeout": True}
            shown = {"progress_bar": False, "stdout_file": sys.stdout, "stderr_file": sys.stderr}
            return papermill.execute_notebook(source, target, values, **kernel, **limits, **shown)
        except PapermillExecutionError as error:
            late = timeout and error.ename == "KeyboardInterrupt"
            reason = f"ran for more than {timeout} s" if late else f"raised {error.ename}: {error.evalue}"
            raise NotebookFailed(f"In [{error.exec_count}] {reason}") from error
        except RuntimeError as error:
            raise NotebookFailed(f"the kernel died, for want of memory perhaps ({error})") from error


def _this_python(folder: Path) -> type:
    """Return a manager of kernels that run this interpreter, whatever `python3` is to Jupyter on this machine.

    What a kernel writes for itself goes into `folder`.
    """
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    variables = {
        "IPYTHONDIR": str(folder),  # runs side by side must not share one history database
        "KIT_HEADLESS": "1",  # no widgets
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # no debugger warning at every start
    }
    quiet = ["--log-level=CRITICAL"]  # a shutdown begins with an interrupt, which a kernel may call an error

    class ThisPython(AsyncKernelManager):
        connection_file = str(folder / "kernel.json")
        transport_encryption = "auto"  # nobody else on the machine reads along
        kernel_spec = KernelSpec(**get_kernel_dict(quiet), env=cpu_allocator.environment() | variables)

    return ThisPython


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m kit.notebook", description="Run a notebook headless.")
    parser.add_argument("notebook", metavar="NOTEBOOK", type=Path)
    parser.add_argument("out", metavar="OUT", type=Path, nargs="?", help="where the executed notebook goes")
    parser.add_argument("-p", nargs=2, metavar=("NAME", "VALUE"), action="append", default=[], help="set a parameter")
    parser.add_argument("--html", action="store_true", help="write an HTML page beside OUT")
    parser.add_argument("--timeout", type=int, metavar="SECONDS", help="the longest one cell may run")
    parser.add_argument("--list", action="store_true", help="list the parameters of NOTEBOOK, and run nothing")
    given = parser.parse_args(arguments)
    if not (given.out or given.list):
        parser.error("say where the executed notebook goes: NOTEBOOK OUT")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where a script starts this in its background
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # both end with the kernel shut down
    try:
        declared = read_parameters(given.notebook)
        if given.list:
            for name, parameter in declared.items():
                print(f"{name}: {parameter.written} = {parameter.default!r}".ljust(40), parameter.help)
        else:
            values = read_texts(dict(given.p), declared)
            run_notebook(given.notebook, given.out, values, given.html, given.timeout)
            _print_results(given, values.get("output", declared["output"].default if "output" in declared else None))
    except (ValueError, OSError, NotebookFailed, KeyboardInterrupt) as error:
        print(f"error: {str(error) or 'interrupted'}", *getattr(error, "__notes__", []), sep="\n", file=sys.stderr)
        return {NotebookFailed: 1, KeyboardInterrupt: 130}.get(type(error), 2)
    return 0


def _print_results(given: argparse.Namespace, output: str | None) -> None:
    """Say where everything is: the notebook, the page, and the figures and tables in the folder named `output`."""
    print(f"notebook  {given.out}")
    if given.html:
        print(f"page      {given.out.with_suffix('.html')}")
    for kind, pattern in (("figure", "*.png"), ("figure", "*.svg"), ("table", "*.parquet")):
        for path in sorted(Path(output).glob(pattern)) if output else ():
            print(f"{kind:<8}  {path}")


if __name__ == "__main__":
    sys.exit(main())
