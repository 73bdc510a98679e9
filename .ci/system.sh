#!/usr/bin/env bash
# OpenCV's wheel needs two system libraries that a bare Debian lacks: install them as root, else name them.
set -euo pipefail
packages="libgl1 libglib2.0-0"
.venv/bin/python -c "import cv2" 2>/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -y -qq $packages >/dev/null
else
    echo "OpenCV cannot load; install its system libraries: sudo apt-get install $packages" >&2
    exit 1
fi
.venv/bin/python -c "import cv2"
