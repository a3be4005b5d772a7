#!/bin/sh
# Installs what the demo and the tests need on Debian 12, if it is missing and
# we are root. Nothing is started: a policy that refuses services stands while
# apt works, since keepalived's and conntrackd's packages would start theirs.
set -eu
need=""
for pair in keepalived:keepalived conntrackd:conntrackd conntrack:conntrack nft:nftables ip:iproute2 sysctl:procps ping:iputils-ping gcc:gcc gobgpd:gobgpd; do
	tool=${pair%%:*}
	command -v "$tool" >/dev/null 2>&1 || [ -x "/usr/sbin/$tool" ] || need="$need ${pair##*:}"
done
# Tests read conntrackd's example files, which small images leave out.
examples=/usr/share/doc/conntrackd/examples/sync/primary-backup.sh
[ -e $examples ] || need="$need conntrackd"
[ -n "$need" ] || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "missing, and not root to install it:$need" >&2
	exit 0
fi
echo "installing:$need"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
	trap 'rm -f "$policy"' EXIT INT TERM
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # one word a package
apt-get install -y -qq --no-install-recommends $need >/dev/null
[ -e $examples ] || apt-get install -y -qq --reinstall -o DPkg::Options::="--path-include=/usr/share/doc/conntrackd/*" conntrackd >/dev/null
