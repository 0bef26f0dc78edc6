"""Write the report of a run, or one that compares the runs in a folder, as one HTML file.

    nlp-ssl report runs/mlm          # runs/mlm/report.html, which a run also writes itself
    nlp-ssl report runs              # runs/report.html: curves over each other, in what the runs differ

Any browser opens it, without a network; it holds no script.
"""

import functools
import operator
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
    from nlp_ssl.reports.comparison import comparison_page
    from nlp_ssl.reports.record import Run, find_runs
    from nlp_ssl.reports.run_report import PAGE_FILE, run_page

    found = find_runs(folder)
    if not found:
        raise UserError(f"there is no run in {folder}; give the --output_dir of one, or the folder of several")
    runs = [*map(Run.read, found)]
    page = run_page(runs[0]) if found == [folder] else comparison_page(runs, folder)
    mode = functools.reduce(operator.and_, (run.facts.mode for run in runs))
    console.say(f"report: {page.write(folder / PAGE_FILE, mode)}")


if __name__ == "__main__":
    program.run(main, parse)
