#!/usr/bin/env bash
# Builds a replacement for the base image, for machines that cannot reach an image registry: bash tools/stand_in_base.sh [NAME]
# It has Debian 12, installed by debootstrap from the mirror of this machine's apt, and this machine's Python 3.12 in /usr/local, as in
# the image python:3.12-slim-bookworm. Without a Python 3.12 it has Debian's python3. Needs buildah and root. A second call does nothing.
set -euo pipefail
name=${1:-localhost/samebits-stand-in}
suite=bookworm
for program in buildah debootstrap; do
  command -v "$program" >/dev/null || { echo "stand-in: $program is not installed; fix: apt-get install $program" >&2; exit 2; }
done
mark="$(sha256sum "$0" | cut -c1-12)"
if [ "$(buildah inspect --type=image --format '{{index .OCIv1.Config.Labels "stand-in"}}' "$name" 2>/dev/null)" = "$mark" ]; then
  echo "stand-in: $name already exists"
  exit 0
fi

mirror=$(apt-get indextargets --format '$(SITE) $(COMPONENT) $(TARGET_OF) $(RELEASE)' 'Created-By: Packages' |
  sed -n "s/ main deb $suite\$//p" | head -1)
[ -n "$mirror" ] || { echo "stand-in: no mirror of Debian $suite in apt's configuration; fix: run this on Debian 12" >&2; exit 2; }

python=""  # a Python 3.12 in its own folder, so that it can be copied
for candidate in "$(command -v python3.12 || true)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python3.12; do
  [ -x "$candidate" ] || continue
  prefix=$("$candidate" -c 'import sys; print(sys.base_prefix if sys.version_info[:2] == (3, 12) else "/usr")' 2>/dev/null || echo /usr)
  [ "$prefix" = /usr ] || { python=$prefix; break; }
done
libraries=ca-certificates,libssl3,libffi8,libsqlite3-0,libreadline8,zlib1g,libbz2-1.0,liblzma5,libncursesw6,libuuid1,libexpat1
[ -n "$python" ] || libraries=$libraries,python3,python3-venv

work=$(mktemp -d)
container=""
trap 'rm -rf "$work"; [ -z "$container" ] || buildah rm "$container" >/dev/null' EXIT
debootstrap --variant=minbase --include="$libraries" "$suite" "$work/root" "$mirror" >"$work/log" 2>&1 || { tail -5 "$work/log" >&2; exit 1; }
if [ -n "$python" ]; then
  mkdir -p "$work/root/usr/local/lib/python3.12/site-packages"
  cp -a "$python/bin/python3.12" "$work/root/usr/local/bin/"
  ln -s python3.12 "$work/root/usr/local/bin/python3"
  find "$python/lib" -maxdepth 1 -name 'libpython3*.so*' -exec cp -a {} "$work/root/usr/local/lib/" \;
  tar -C "$python/lib" -c --exclude=site-packages --exclude=test --exclude=__pycache__ --exclude='config-*' python3.12 |
    tar -C "$work/root/usr/local/lib" -x --no-same-owner
  chroot "$work/root" ldconfig
fi
# Debian's slim images have no manuals and no translations either.
find "$work/root/usr/share/doc" -mindepth 2 ! -name copyright ! -type d -delete
rm -rf "$work"/root/usr/share/locale/* "$work"/root/usr/share/man/* "$work"/root/usr/share/info/*
rm -rf "$work"/root/var/cache/apt/* "$work"/root/var/cache/ldconfig/aux-cache "$work"/root/var/lib/apt/lists/* "$work"/root/var/log/*
container=$(buildah from scratch)
cp -a "$work/root/." "$(buildah mount "$container")/"
buildah config --label "stand-in=$mark" "$container"
buildah commit --quiet "$container" "$name" >/dev/null
if [ -n "$python" ]; then from="this machine's 3.12"; else from="Debian's (found no Python 3.12 to copy)"; fi
echo "stand-in: created $name with $from Python"
