"""Draw films of people, index them, and open the search page in a browser: no real face.

    python scripts/tools/demo_search.py [--out demo-search] [--port 0] [--no-serve]

OUT has films/, photos/ to search with, and index/. If you run it again, finished parts are kept.
"""

import argparse
import subprocess
import sys
import threading
import webbrowser
from pathlib import Path

FACEREEL = (sys.executable, "-m", "facereel")
DRAW = Path(__file__).with_name("drawn_films.py")
# Drawn people are more alike than real ones, so the default threshold would put several into one group.
THRESHOLD = 0.05


def prepare(out: Path) -> Path:
    """Draw the films and photos, index the films, and group the people.

    Args:
        out: folder for the results.

    Returns:
        The folder of the index.
    """
    films, photos, index = (out / name for name in ("films", "photos", "index"))
    if not photos.is_dir():  # which are drawn last
        call(sys.executable, DRAW, "--out", films, "--photos", photos)
    call(*FACEREEL, "index", films, "--out", index)
    call(*FACEREEL, "people", "cluster", "--index", index, "--threshold", THRESHOLD)
    return index


def call(*command: object) -> None:
    """Print a command and run it; ends this process if it fails."""
    words = [str(word) for word in command]
    shown = " ".join(words).replace(" ".join(FACEREEL), "facereel").replace(sys.executable, "python")
    print(f"$ {shown}", flush=True)
    if code := subprocess.run(words, check=False).returncode:
        sys.exit(code)


def serve(index: Path, port: int) -> int:
    """Serve the page until Ctrl-C, and open its address in a browser, if there is one.

    Args:
        index: folder of the index.
        port: port of the page; 0 chooses a free one.

    Returns:
        The exit code of the server.
    """
    command = [*FACEREEL, "serve", "--index", str(index), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                if (address := line.rpartition(" ")[2].strip()).startswith("http"):
                    print(f"choose a photo from {index.parent / 'photos'}; press Ctrl-C to end", flush=True)
                    # In a thread: some browsers of a terminal do not return.
                    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        except KeyboardInterrupt:  # the server receives it too
            pass
        return process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo-search"), help="folder for films, photos and index")
    parser.add_argument("--port", type=int, default=0, help="port of the page; 0 chooses a free one")
    parser.add_argument("--no-serve", action="store_true", help="do not open the page")
    options = parser.parse_args()
    index = prepare(options.out)
    if not options.no_serve:
        sys.exit(serve(index, options.port))


if __name__ == "__main__":
    main()
