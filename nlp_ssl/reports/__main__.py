"""Write the report of a run, or one that compares the runs in a folder, as one HTML file.

    nlp-ssl report runs/mlm          # runs/mlm/report.html, which a run also writes itself
    nlp-ssl report runs              # runs/report.html: curves over each other, in what the runs differ

Any browser opens it, without a network; it holds no script.
"""

from pathlib import Path

from nlp_ssl.core import console, program
from nlp_ssl.core.errors import UserError


def parse() -> Path:
    """The folder that was given."""
    parser = program.Parser(__doc__)
    parser.add_argument("folder", type=Path, help="of a run, or of several")
    return Path(parser.parse_args().folder)


def main(folder: Path) -> None:
    """Write the page, and say where."""
    from nlp_ssl.reports.comparison import write_comparison
    from nlp_ssl.reports.record import find_runs
    from nlp_ssl.reports.run_report import write_report

    found = find_runs(folder)
    if not found:
        raise UserError(f"there is no run in {folder}; give the --output_dir of one, or the folder of several")
    console.say(f"report: {write_report(folder) if found == [folder] else write_comparison(found, folder)}")


if __name__ == "__main__":
    program.run(main, parse)
