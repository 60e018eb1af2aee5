"""Say what the caches take, and remove them with --yes: python scripts/clean.py [--yes]. Runs are never touched."""

import pathlib
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHES = (".cache", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".import_linter_cache", ".hypothesis")

if __name__ == "__main__":
    if sys.argv[1:2] == ["--help"]:
        print(__doc__)
        sys.exit(0)
    for folder in (ROOT / name for name in CACHES if (ROOT / name).is_dir()):
        size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{'removed' if '--yes' in sys.argv[1:] else 'would remove'} {folder.name}: {size_bytes / 1e6:.1f} MB")
        if "--yes" in sys.argv[1:]:
            shutil.rmtree(folder)
