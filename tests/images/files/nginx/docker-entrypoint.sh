#!/bin/sh
set -e
if [ "$1" = nginx ]; then
  for script in $(find /docker-entrypoint.d -follow -type f -name '*.sh' | sort); do
    if [ -x "$script" ]; then "$script"; fi
  done
fi
exec "$@"
