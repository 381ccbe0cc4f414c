# Runs a program as a container of the Helm chart would: its own mounts, a root file system that is read-only but for an empty
# /tmp, user 10001, no capabilities. Needs root: ROOT CLONE PYTHON PROGRAM..., ROOT an empty folder, CLONE and PYTHON
# folders that the program must see though /tmp or /root are others.
set -eu
root=$1 clone=$2 python=$3
shift 3
mount --make-rprivate /
mount --rbind / "$root"
mount -o remount,bind,ro "$root"
mount -t tmpfs -o mode=0755 tmpfs "$root/root"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
for folder in "$clone" "$python"; do
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
    mount -o remount,bind,ro "$root$folder"
done
exec chroot "$root" setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --inh-caps=-all \
    --bounding-set=-all -- "$@"
