# The script in the first page of a universal file (builder/llamapack/formats/universal.py packs it
# there: comments, blank lines and indentation go, @SLICES@ becomes a line per system). It unpacks the
# runtime for this machine into the user's cache, once, and becomes it.
#
# POSIX sh only, and less: no local, no test -a, no $'', no here-documents; `exec` leaves the shell
# when it fails, so everything is tried out before. What it calls: dd, uname, cksum, and the first
# time mkdir, mktemp, chmod, mv, rm; find only where there is something to remove. Nothing reads
# standard input, and umask and directory stay.
#
# SPDX-License-Identifier: Apache-2.0

lp_e() { echo "error: $2" >&2; exit "$1"; }

# 1. Where this file lies. A shell that was given a bare name may have found it in PATH.
o=$0
case $o in
    */*) ;;
    *) if [ -f "./$o" ]; then o=./$o; else o=$(command -v "$o"); fi ;;
esac
# With `sh < chat` the name is the shell's.
case $(dd bs=4 count=1 2>/dev/null <"$o") in
    MZa=) ;;
    *) lp_e 127 "cannot read this program; start it as sh ./NAME (it needs dd and uname)" ;;
esac

# 2. Which runtime: n its name in the cache, b and c its place in blocks of 4096 bytes, k its
# POSIX checksum.
s=$(uname -s)
m=$(uname -m)
# evbarm: NetBSD's name for boards of every ARM.
case $m in
    amd64) m=x86_64 ;;
    arm64) m=aarch64 ;;
    evbarm) m=$(uname -p) ;;
esac
# A shell that Rosetta translates sees an Intel processor.
if [ "$s-$m" = Darwin-x86_64 ] && [ "$(sysctl -n hw.optional.arm64 2>/dev/null)" = 1 ]; then m=aarch64; fi
case $s-$m in
    @SLICES@
    *) lp_e 126 "this file holds no program for $s on $m" ;;
esac
z=$((c*4096))

# Is this file whole, and does it start here? Without cksum (Debian's busybox) its size must do.
lp_v() {
    case $(cksum <"$1") in
        "$k $z"*) ;;
        '') [ $(( $(wc -c <"$1") + 0 )) -eq $z ] || return 1 ;;
        *) return 1 ;;
    esac
    "$1" --lp-probe
} </dev/null >/dev/null 2>&1

# Is it ours? posh cannot tell: there nothing is ever kept.
lp_o() { [ -O "$1" ]; } 2>/dev/null

# Unpacks into $u.
lp_x() {
    dd bs=4096 skip=$b count=$c <"$o" >"$u" && chmod 700 "$u" && lp_v "$u"
} 2>/dev/null

# Removes what starts left in $d that were killed while they unpacked: files a day old and more, for
# another start may be at work on a newer one at this moment. (find's +1 are whole days, which BSD
# rounds up, others down.) A look at the directory is all that it costs a start. zsh ends a script
# whose pattern finds nothing, unless told otherwise.
lp_c() {
    [ -z "$ZSH_VERSION" ] || setopt nonomatch
    for u in "$d"/*-????????????????.*; do
        [ ! -f "$u" ] || find "$u" -type f -mtime +1 -exec rm -f {} \;
    done
    :
} </dev/null 2>/dev/null

# 3. The cache, which must be ours: a file that another user put there is never started.
for d in "$LLAMAPACK_CACHE" "$XDG_CACHE_HOME" "${HOME:+$HOME/.cache}"; do
    case $d in /*) ;; *) continue ;; esac
    d=$d/llamapack
    t=$d/$n
    if lp_o "$d" && lp_c && lp_o "$t" && lp_v "$t"; then exec "$t" --lp-archive "$o" "$@"; fi
    # A new name each, and then its final one at once: others may start at the same time, in
    # containers with the same process number.
    u=$(exec 2>/dev/null; umask 077; mkdir -p "$d" && lp_o "$d" && { mktemp "$t.XXXXXXXX" || echo "$t.$$"; }) || continue
    if lp_x && [ ! -d "$t" ] && mv -f "$u" "$t" 2>/dev/null; then exec "$t" --lp-archive "$o" "$@"; fi
    rm -f "$u" 2>/dev/null
done

# 4. No cache: a private directory, which the runtime removes as soon as it runs.
for d in "$TMPDIR" /tmp /var/tmp /dev/shm "$XDG_RUNTIME_DIR"; do
    case $d in /*) ;; *) continue ;; esac
    d=$d/llamapack.
    d=$(exec 2>/dev/null; umask 077; mktemp -d "${d}XXXXXXXX" || { mkdir "$d$$" && echo "$d$$"; }) || continue
    u=$d/$n
    if lp_x; then exec "$u" --lp-unlink "$u" --lp-archive "$o" "$@"; fi
    rm -f "$u" 2>/dev/null
    rmdir "$d"
done
lp_e 126 "no directory to unpack the program into; set LLAMAPACK_CACHE to one where files can be written and started"
