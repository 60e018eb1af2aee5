"""Say what the caches take, and remove them with --yes. Runs are never touched."""

import argparse
import pathlib
import shutil

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHES = (".cache", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".import_linter_cache", ".hypothesis")

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--yes", action="store_true", help="remove them")
    agreed = parser.parse_args().yes
    for folder in (ROOT / name for name in CACHES if (ROOT / name).is_dir()):
        size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{'removed' if agreed else 'would remove'} {folder.name}: {size_bytes / 1e6:.1f} MB")
        if agreed:
            shutil.rmtree(folder)
