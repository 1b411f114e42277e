"""`medical-vqa app`: starts one of the apps for the browser."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from processing.command_line import CommandParser
from processing.errors import UserError

PROG = "medical-vqa app"
EXAMPLES = """examples:
  {prog} out
  {prog} user/name --compare out
      shows the answers of two models side by side
  {prog} out --gradio
      the app in Gradio, which also has an API for programs

Without MODEL, the app uses the model that the variable MODEL_ID names, or else the one that `make demo` trained.
Ctrl-C ends it.
"""


def make_parser(prog: str = PROG) -> CommandParser:
    """The parser of the command line; `prog` is what its help calls the program."""
    parser = CommandParser(
        prog, description="Opens a page in the browser where you can ask a model.", epilog=EXAMPLES.format(prog=prog)
    )
    parser.add_argument("model", nargs="?", help="folder or Hub id (user/name) of a trained model")
    parser.add_argument("--compare", metavar="MODEL", help="second model, which gets the same questions")
    parser.add_argument("--gradio", action="store_true", help="use Gradio instead of Streamlit")
    parser.add_argument("--port", type=int, metavar="N", help="port of the page")
    parser.add_argument(
        "--host",
        metavar="ADDRESS",
        help="address to listen on; 0.0.0.0 lets the network in (default: this machine)",
    )
    return parser


def main(argv: list[str], prog: str = PROG) -> None:
    """The command line.

    Raises:
        UserError: the app's package is not installed, or as the app.
    """
    options = make_parser(prog).parse(argv)
    if options.gradio and options.compare:
        raise UserError("--compare is for the Streamlit app; leave --gradio out.")
    package = "gradio" if options.gradio else "streamlit"
    if find_spec(package) is None:
        raise UserError(f"The app needs {package}, which is not installed: pip install 'medical-vqa[apps]'.")
    for variable, value in (("MODEL_ID", options.model), ("COMPARE_MODEL_ID", options.compare)):
        if value is not None:
            os.environ[variable] = value
    if options.gradio:
        if options.port is not None:
            os.environ["GRADIO_SERVER_PORT"] = str(options.port)
        if options.host is not None:
            os.environ["GRADIO_SERVER_NAME"] = options.host
        from spaces_app import gradio_app

        gradio_app.main()
    else:
        from streamlit.web import cli

        place = [] if options.port is None else ["--server.port", str(options.port)]
        place += [] if options.host is None else ["--server.address", options.host]
        sys.argv = ["streamlit", "run", str(Path(__file__).with_name("app.py")), *place]
        cli.main(prog_name="streamlit")
