#!/bin/sh
# Options alone, or a configuration file, are for redis-server; root becomes
# redis; without a configuration of its own the server listens to everybody.
set -e
case "$1" in
  -* | *.conf) set -- redis-server "$@" ;;
esac
if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
  find . \! -user redis -exec chown redis '{}' +
  exec setpriv --reuid=redis --regid=redis --init-groups "$0" "$@"
fi
if [ "$1" = redis-server ]; then
  case " $* " in
    *" --bind "* | *" --protected-mode "* | *.conf*) ;;
    *) set -- "$@" --protected-mode no --bind '* -::*' ;;
  esac
fi
exec "$@"
