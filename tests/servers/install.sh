#!/usr/bin/env bash
# Installs what the integration tests run against; what is there already stays as it is.
# On Debian as root: packages by apt-get, and a second Debian in a folder for the other RabbitMQ.
# Anywhere: Elasticsearch from Maven Central, if there are Maven and a JDK 23 or newer; Toxiproxy from
# the Go module proxy, if there is Go.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kombu-aggregator-servers}
java_wanted=23
toxiproxy_version=v2.12.0

say() { printf 'servers: %s\n' "$*"; }

is_debian_root() { [ "$(id -u)" = 0 ] && command -v apt-get dpkg-query >/dev/null; }

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# The home of the newest JDK (with a compiler) that is new enough; nothing if there is none.
newest_jdk() {
  local home version best=$((java_wanted - 1)) found=
  for home in ${JAVA_HOME:+"$JAVA_HOME"} /usr/lib/jvm/*/; do
    [ -x "$home/bin/javac" ] && [ -r "$home/release" ] || continue
    version=$(sed -n 's/^JAVA_VERSION="\([0-9]*\).*/\1/p' "$home/release")
    if [ "${version:-0}" -gt "$best" ]; then best=$version found=$home; fi
  done
  printf '%s' "$found"
}

# The package of the newest JDK that this Debian has, if it is new enough.
jdk_package() {
  apt-cache search --names-only '^openjdk-[0-9]+-jdk-headless$' | sed 's/ .*//' | sort -t- -k2n | tail -n 1 |
    awk -F- -v wanted="$java_wanted" '$2 >= wanted'
}

# apt-get install without the services that the packages would start on their default ports.
install_packages() {
  local policy=/usr/sbin/policy-rc.d
  say "apt-get install $*"
  if [ ! -e "$policy" ]; then
    # shellcheck disable=SC2064  # the path is meant as it is now
    trap "rm -f $policy" EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

packages() {
  local package missing=()
  for package in rabbitmq-server redis-server prometheus tarantool chromium chromium-driver mmdebstrap; do
    installed "$package" || missing+=("$package")
  done
  command -v mvn >/dev/null || missing+=(maven)
  docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null || missing+=(docker-compose)
  if [ "${#missing[@]}" -gt 0 ] || [ -z "$(newest_jdk)" ]; then
    # a foreign source that does not answer must not keep Debian's own from being used
    [ "${#missing[@]}" = 0 ] || apt-get update -qq || say "apt-get update failed; going on with what is known"
    [ -n "$(newest_jdk)" ] || missing+=($(jdk_package))
    [ "${#missing[@]}" = 0 ] || install_packages "${missing[@]}"
  fi
}

# The other Debian: RabbitMQ 4.0 is trixie's, 3.10 is bookworm's.
other_debian() {
  local suite mirror root
  if compgen -G '/usr/lib/rabbitmq/lib/rabbitmq_server-3.10.*' >/dev/null; then suite=trixie; else suite=bookworm; fi
  root=$cache/$suite
  [ -d "$root" ] && return
  # the mirror that this machine itself uses
  mirror=$(apt-get indextargets --format '$(CREATED_BY)|$(ORIGIN)|$(COMPONENT)|$(REPO_URI)' |
    sed -n 's/^Packages|Debian|main|//p' | grep -v security | head -n 1)
  if [ -z "$mirror" ]; then say "no Debian mirror in apt's sources: no second RabbitMQ"; return; fi
  say "mmdebstrap of $suite with rabbitmq-server into $root (240 MB)"
  mkdir -p "$cache"
  rm -rf "$root.new"
  if mmdebstrap --quiet --variant=minbase --include=rabbitmq-server "$suite" "$root.new" "$mirror"; then
    # the node's name ends in @localhost, and not every folder comes with that name known
    grep -qsw localhost "$root.new/etc/hosts" || echo '127.0.0.1 localhost' >>"$root.new/etc/hosts"
    mv "$root.new" "$root"
  else
    rm -rf "$root.new"
    say "mmdebstrap failed: no second RabbitMQ"
  fi
}

maven_server() { # folder, name, size
  local project=$here/$1 jdk
  if [ -e "$project/target/launcher.jar" ] &&
    [ -z "$(find "$project/pom.xml" "$project/src" -newer "$project/target/launcher.jar" -print -quit)" ]; then
    return
  fi
  jdk=$(newest_jdk)
  if [ -z "$jdk" ]; then say "no JDK $java_wanted or newer: no $2; set JAVA_HOME to one"; return; fi
  if ! command -v mvn >/dev/null; then say "Maven is not installed: no $2"; return; fi
  say "$2 from Maven Central ($3)"
  rm -rf "$project/target"
  JAVA_HOME=$jdk mvn -B -q -f "$project/pom.xml" package 2>&1 | { grep '^\[ERROR\]' || true; } ||
    say "Maven failed: no $2"
}

toxiproxy() {
  local binary=$cache/toxiproxy module=github.com/Shopify/toxiproxy/v2/cmd/server
  [ -e "$binary" ] && [ "$(cat "$binary.version" 2>/dev/null)" = "$toxiproxy_version" ] && return
  if ! command -v go >/dev/null; then say "Go is not installed: no Toxiproxy"; return; fi
  say "Toxiproxy $toxiproxy_version from the Go module proxy"
  # the module's checksum is looked up by go itself
  if GOBIN=$cache/toxiproxy.new GOFLAGS= go install "$module@$toxiproxy_version" 2>/dev/null; then
    mv "$cache/toxiproxy.new/server" "$binary"
    echo "$toxiproxy_version" >"$binary.version"
  else
    say "go install failed: no Toxiproxy"
  fi
  rm -rf "$cache/toxiproxy.new"
}

mkdir -p "$cache"
exec 9>"$cache/install.lock"
flock 9 # two runs side by side would get into each other's way
if is_debian_root; then
  packages
  other_debian &
else
  say "not root on Debian: no packages are installed"
fi
maven_server elasticsearch Elasticsearch '44 MB'
maven_server opensearch OpenSearch '71 MB'
toxiproxy
wait
say "ready"
