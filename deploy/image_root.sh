#!/usr/bin/env bash
# Completes the image's root around the programs in ROOT/opt/tauserve/bin: the shared libraries that they and what they
# load name, the records and licences of the Debian packages that these are from, where scanners for vulnerabilities look
# for them, and the user. The Dockerfile runs it on Debian 12.
#   deploy/image_root.sh ROOT
set -euo pipefail
root=$1
bin=$root/opt/tauserve/bin

# Paths of all that the loader would load, the loader itself among them; what lies beside the programs is there already.
needed_libraries() {
  local listed
  listed=$(ldd "$bin"/*)
  if grep 'not found' <<<"$listed" >&2; then return 1; fi
  awk '$2 == "=>" { print $3 } $2 != "=>" && $1 ~ /^\/.*[^:]$/ { print $1 }' <<<"$listed" | grep -v "^$bin/" | sort -u
}

# package_of FILE: dpkg knows some files by their place before /usr was merged.
package_of() {
  local owner
  owner=$(dpkg-query -S "$1" 2>/dev/null) || owner=$(dpkg-query -S "${1#/usr}")
  owner=${owner%%: *}
  echo "${owner%%:*}"
}

mkdir -p "$root"/{etc,proc,sys,dev,usr/lib,usr/lib64,var/lib/dpkg/status.d}
ln -s usr/lib "$root/lib"
ln -s usr/lib64 "$root/lib64"
libraries=$(needed_libraries)
for library in $libraries; do
  place=$(realpath "$(dirname "$library")")/$(basename "$library")
  install -D --mode=755 "$library" "$root$place"
  package_of "$(realpath "$library")"
done | sort -u >"$root/etc/packages"
# What names the distribution is from this one.
echo base-files >>"$root/etc/packages"
while read -r package; do
  dpkg-query -s "$package" >"$root/var/lib/dpkg/status.d/$package"
  install -D --mode=644 {,"$root"}"/usr/share/doc/$package/copyright"
done <"$root/etc/packages"
rm "$root/etc/packages"
# Container runtimes with GPUs look at these to place the driver's libraries.
cp -r /etc/debian_version /etc/ld.so.conf /etc/ld.so.conf.d "$root/etc/"
cp /usr/lib/os-release "$root/usr/lib/os-release"
ln -s ../usr/lib/os-release "$root/etc/os-release"

echo "tauserve:x:10001:10001:Tauserve:/:/usr/sbin/nologin" >"$root/etc/passwd"
echo "tauserve:x:10001:" >"$root/etc/group"
