"""The command line: `python -m processing.phantom FOLDER`."""

from pathlib import Path

from processing.command_line import CommandParser
from processing.errors import run_command
from processing.phantom.files import write_phantoms


def main(arguments: list[str]) -> None:
    """Writes a phantom data set and prints its folder.

    Raises:
        UserError: as `write_phantoms`.
    """
    parser = CommandParser(
        "python -m processing.phantom", description="Writes generated images and questions in SLAKE's format."
    )
    parser.add_argument("folder", type=Path, help="where the data set goes")
    parser.add_argument("--num_images", type=int, default=60, help="images in all splits, at least 12")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other patients")
    parser.add_argument("--image_size", type=int, default=224, help="pixels along a side")
    parser.add_argument("--slices", type=int, help="images of each patient, 2 to 8; without it, one")
    folder = write_phantoms(**vars(parser.parse(arguments)))
    print(f"Phantom data set in {folder}")


if __name__ == "__main__":
    run_command(main)
