#!/bin/sh
# Valkey with the users of users.conf, whose passwords are in the environment: only their hashes reach the server.
# The arguments are the server's own options. Without REDIS_DASHBOARD_PASSWORD there is no user for the dashboard.
set -eu

hash_of() { printf %s "$1" | sha256sum | cut -d ' ' -f 1; }

if [ -n "${REDIS_DASHBOARD_PASSWORD:-}" ]; then
  dashboard="s/#HASH_OF_DASHBOARD_PASSWORD/#$(hash_of "$REDIS_DASHBOARD_PASSWORD")/"
else
  dashboard="/^user dashboard /d"
fi
users=$(sed \
  -e "s/#HASH_OF_API_PASSWORD/#$(hash_of "${REDIS_API_PASSWORD:?}")/" \
  -e "s/#HASH_OF_WORKER_PASSWORD/#$(hash_of "${REDIS_WORKER_PASSWORD:?}")/" \
  -e "s/#HASH_OF_DISPATCHER_PASSWORD/#$(hash_of "${REDIS_DISPATCHER_PASSWORD:?}")/" \
  -e "$dashboard" \
  -e "s/#HASH_OF_ADMIN_PASSWORD/#$(hash_of "${REDIS_ADMIN_PASSWORD:?}")/" \
  "$(dirname "$0")/users.conf")
unset REDIS_API_PASSWORD REDIS_WORKER_PASSWORD REDIS_DISPATCHER_PASSWORD REDIS_DASHBOARD_PASSWORD REDIS_ADMIN_PASSWORD

exec valkey-server - "$@" <<END
$users
END
