#!/bin/sh
# Installs wg_monitor: the module, the wg-monitor command, the units, the default file, the logrotate file and the
# manual page; starts the service and shows that it works. `./install.sh --help` tells the rest.
#
# Every file is replaced by renaming, and only where it differs: a second run changes nothing.

set -eu
umask 022

PROGRAM_DIR=/opt/wg-monitor
COMMAND=/usr/local/bin/wg-monitor
UNIT_DIR=/etc/systemd/system
DEFAULTS=/etc/default/wg-monitor
ROTATION=/etc/logrotate.d/wg-monitor
MANUAL=/usr/local/share/man/man8/wg-monitor.8
TRAIL=/var/log/wg_monitor.log
STATE_DIR=/var/lib/wg-monitor
PYTHON=/usr/bin/python3
SERVICE=wg-monitor.service
INSTANCES='wg-monitor@*.service'
SYSTEM_PATH=/usr/bin:/usr/sbin:/bin:/sbin

DESTDIR=${DESTDIR:-}
action=install
dry_run=
start=yes
dependencies=yes
purge=
program_changed=
units_changed=
first_time=
missing=

usage() {
    cat <<END
usage: [DESTDIR=DIR] ./install.sh [--dry-run] [--no-start] [--no-deps]
       [DESTDIR=DIR] ./install.sh --uninstall [--purge] [--dry-run]

  --no-start    lay the files only; start, restart and enable nothing
  --no-deps     install no packages, only say what is missing
  --uninstall   stop the service and its instances and remove what was installed;
                logs (/var/log/wg_monitor*), the store (/var/lib/wg-monitor) and
                settings (/etc/default/wg-monitor*, drop-ins) stay
  --purge       with --uninstall: remove those, too
  --dry-run     say what would be done and do nothing
  DESTDIR       lay the files under DIR, for building packages; nothing is
                started, and no package is installed
END
}

say() {
    printf '%s\n' "$*"
}

warn() {
    printf 'install.sh: %s\n' "$*" >&2
}

die() {
    warn "$1"
    exit "${2:-1}"
}

# Whatever changes the system goes through these two.
try() {
    if [ "$dry_run" ]; then
        say "would run: $*"
    else
        "$@"
    fi
}

run() {
    try "$@" || die "failed: $*"
}

parse_arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
            --dry-run) dry_run=yes ;;
            --no-start) start= ;;
            --no-deps) dependencies= ;;
            --uninstall) action=uninstall ;;
            --purge) purge=yes ;;
            --help | -h)
                usage
                exit 0
                ;;
            *)
                usage >&2
                die "unknown argument: $1" 2
                ;;
        esac
        shift
    done
    if [ "$purge" ] && [ $action = install ]; then
        die "--purge goes with --uninstall" 2
    fi
    case $DESTDIR in
        '' | /*) ;;
        *) die "DESTDIR must be an absolute path: $DESTDIR" 2 ;;
    esac
    if [ -z "$DESTDIR" ] && [ -z "$dry_run" ] && [ "$(id -u)" -ne 0 ]; then
        die "this needs root: sudo ./install.sh (or --dry-run, or DESTDIR=)" 4
    fi
}

# --- What this machine has -----------------------------------------------------------------------------------------

systemd_runs() {
    [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]
}

# In a chroot or an image systemd does not run while the system is being made, but will.
systemd_wanted() {
    [ -n "$DESTDIR" ] || systemd_runs || command -v systemctl >/dev/null 2>&1
}

# Where the daemon will look, not where this shell does.
has_program() {
    [ -n "$(PATH=$SYSTEM_PATH command -v "$1" 2>/dev/null)" ]
}

log_group() {
    if grep -q '^adm:' /etc/group; then
        echo adm
    else
        echo root
    fi
}

missing_packages() {
    [ -x $PYTHON ] || if has_program pacman; then echo python; else echo python3; fi
    has_program wg || echo wireguard-tools
}

# Only what wg itself needs: Debian's recommended packages would bring in a kernel where none is installed.
# A package list that is missing or old is fetched when the first try fails, not before.
install_packages() {
    say "Installing $*"
    if has_program apt-get; then
        set -- env DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes --no-install-recommends install "$@"
        try "$@" || {
            try apt-get --quiet update || warn "apt-get update had errors; going on"
            run "$@"
        }
    elif has_program dnf; then
        run dnf --assumeyes install "$@"
    elif has_program yum; then
        run yum --assumeyes install "$@"
    elif has_program zypper; then
        run zypper --non-interactive install "$@"
    elif has_program pacman; then
        run pacman --sync --refresh --needed --noconfirm "$@"
    elif has_program apk; then
        run apk add "$@"
    else
        die "no package manager known here; install by hand: $*"
    fi
}

provide_dependencies() {
    if [ "$DESTDIR" ]; then
        return
    fi
    missing=$(missing_packages)
    if [ "$missing" ] && [ "$dependencies" ]; then
        # shellcheck disable=SC2086 # one word a package
        install_packages $missing
        [ "$dry_run" ] || missing=$(missing_packages)
        [ "$dry_run" ] || [ -z "$missing" ] || die "still missing: $missing"
    elif [ "$missing" ]; then
        # shellcheck disable=SC2086
        say "missing, and not installed because of --no-deps:" $missing
    fi
    if [ -x $PYTHON ] && ! $PYTHON -I -c 'import sys; sys.exit(sys.version_info < (3, 7))'; then
        die "$PYTHON is $($PYTHON --version 2>&1), but 3.7 or newer is needed"
    fi
    has_program logrotate || warn "logrotate is not installed: the trail will grow without end"
}

# --- Laying files --------------------------------------------------------------------------------------------------

make_directory() {
    if [ ! -d "$DESTDIR$1" ]; then
        run mkdir -p "$DESTDIR$1"
    fi
}

owned_by_root() {
    if [ "$(id -u)" -eq 0 ]; then
        run chown "root:${2:-root}" "$1"
    fi
}

# put SOURCE PATH MODE: true if something had to be changed.
put() {
    if cmp -s "$1" "$DESTDIR$2" && [ -n "$(find "$DESTDIR$2" -prune -type f -perm "$3")" ]; then
        return 1
    fi
    if [ "$dry_run" ]; then
        say "would lay $DESTDIR$2"
        return
    fi
    make_directory "${2%/*}"
    run cp "$1" "$DESTDIR$2.tmp.$$"
    run chmod "$3" "$DESTDIR$2.tmp.$$"
    owned_by_root "$DESTDIR$2.tmp.$$"
    run mv -f "$DESTDIR$2.tmp.$$" "$DESTDIR$2"
    say "laid $DESTDIR$2"
}

# put_settings SOURCE PATH: a file that belongs to the administrator once it is there. What was shipped last is
# remembered beside the program: only a default that has changed since is laid beside the administrator's file, under
# a suffix that logrotate passes over.
put_settings() {
    shipped=$PROGRAM_DIR/shipped/${1##*/}
    if [ ! -e "$DESTDIR$2" ]; then
        put "$1" "$2" 0644
    elif ! cmp -s "$1" "$DESTDIR$2" && ! cmp -s "$1" "$DESTDIR$shipped"; then
        if put "$1" "$2.dpkg-dist" 0644; then
            say "kept $DESTDIR$2 as it is; the new default lies beside it"
        fi
    fi
    put "$1" "$shipped" 0644 || :
}

lay_program() {
    if put wg_monitor.py $PROGRAM_DIR/wg_monitor.py 0755; then
        program_changed=yes
    fi
    # Not the module itself: Python compiles a script at each start, which takes longer than all else, but a module once.
    # What imports make is never garbage: looking for some among it takes a twentieth of the start.
    cat >"$scratch/command" <<END
#!$PYTHON -IS
import gc, sys
gc.disable()
sys.path.append("$PROGRAM_DIR")
from wg_monitor import main
sys.exit(main())
END
    put "$scratch/command" $COMMAND 0755 || :
    if [ -z "$DESTDIR" ] && [ -x $PYTHON ]; then
        try $PYTHON -IS -m compileall -q $PROGRAM_DIR/wg_monitor.py || warn "not compiled: it starts more slowly"
    fi
    if [ -e wg-monitor.8 ]; then
        put wg-monitor.8 $MANUAL 0644 || :
    fi
}

lay_units() {
    [ -e "$DESTDIR$UNIT_DIR/$SERVICE" ] || first_time=yes
    for unit in wg-monitor.service wg-monitor@.service; do
        if put $unit $UNIT_DIR/$unit 0644; then
            units_changed=yes
        fi
    done
}

lay_settings() {
    put_settings wg-monitor.default $DEFAULTS
    sed "s/root adm\$/root $(log_group)/" wg-monitor.logrotate >"$scratch/wg-monitor.logrotate"
    put_settings "$scratch/wg-monitor.logrotate" $ROTATION
}

# The daemon would make its trail itself, but for root alone.
lay_trail() {
    if [ -e "$DESTDIR$TRAIL" ] || grep -qs '^LOG_PATH=.' "$DESTDIR$DEFAULTS"; then
        return
    fi
    make_directory "${TRAIL%/*}"
    run touch "$DESTDIR$TRAIL"
    owned_by_root "$DESTDIR$TRAIL" "$(log_group)"
    run chmod 0640 "$DESTDIR$TRAIL"
}

# --- The service ---------------------------------------------------------------------------------------------------

running_instances() {
    systemctl list-units --plain --no-legend --state=active,activating,reloading "$INSTANCES" | cut -d ' ' -f 1
}

start_service() {
    instances=$(running_instances)
    if [ "$program_changed$units_changed" ] && [ "$instances" ]; then
        # shellcheck disable=SC2086 # one word an instance
        try systemctl restart $instances || warn "not all instances run: systemctl status '$INSTANCES'"
    fi
    case $(systemctl is-enabled $SERVICE 2>/dev/null || :) in
        masked*)
            say "$SERVICE is masked and left so"
            return
            ;;
        disabled)
            # Somebody who watches single interfaces has switched the service for all of them off.
            if [ -z "$first_time" ] && [ "$instances" ] && ! systemctl --quiet is-active $SERVICE; then
                say "$SERVICE is disabled and left so, for instances of it run"
                return
            fi
            ;;
    esac
    systemctl --quiet is-enabled $SERVICE 2>/dev/null || run systemctl --quiet enable $SERVICE
    if ! systemctl --quiet is-active $SERVICE; then
        try systemctl start $SERVICE || trouble
    elif [ "$program_changed$units_changed" ]; then
        try systemctl restart $SERVICE || trouble
    else
        say "$SERVICE runs already, and nothing has changed"
    fi
    [ "$dry_run" ] || show_service
}

trouble() {
    systemctl --no-pager --lines=10 status $SERVICE >&2 || :
    die "$SERVICE does not start; see above, and: sudo wg-monitor check"
}

show_service() {
    say
    systemctl --no-pager --lines=5 status $SERVICE || trouble
    say
    say "Who comes and goes:   tail -f $TRAIL"
    say "Settings:             $DEFAULTS, then: systemctl restart wg-monitor"
}

without_systemd() {
    say
    say "systemd does not run here, so nothing was started. By hand, as root, or from this system's own service manager:"
    say "  wg-monitor                                                      (settings as flags: wg-monitor --help)"
    say "  set -a; . $DEFAULTS; exec wg-monitor --from-environment   (settings from $DEFAULTS)"
}

# --- The two ways --------------------------------------------------------------------------------------------------

install_all() {
    provide_dependencies
    lay_program
    if systemd_wanted; then
        lay_units
    fi
    lay_settings
    lay_trail
    if ! systemd_runs; then
        [ "$DESTDIR" ] || without_systemd
        return
    fi
    if [ "$units_changed" ]; then
        run systemctl daemon-reload
    fi
    if [ "$start" ] && { [ -z "$missing" ] || [ "$dry_run" ]; }; then
        start_service
    else
        say "Not started; for that: systemctl enable --now wg-monitor"
    fi
}

remove() {
    for path in "$@"; do
        if [ -e "$path" ] || [ -L "$path" ]; then
            run rm -rf "$path"
            [ "$dry_run" ] || say "removed $path"
        fi
    done
}

uninstall_all() {
    if systemd_runs; then
        # `disable` with an instance of the template takes all of its links away.
        try systemctl --quiet disable $SERVICE wg-monitor@.service 2>/dev/null || :
        try systemctl --quiet stop $SERVICE "$INSTANCES" 2>/dev/null || :
        try systemctl --quiet reset-failed $SERVICE "$INSTANCES" 2>/dev/null || :
    fi
    # A rotation that was edited is the administrator's, and what it rotates stays, too.
    if [ -z "$purge" ] && ! cmp -s "$DESTDIR$ROTATION" "$DESTDIR$PROGRAM_DIR/shipped/wg-monitor.logrotate"; then
        edited=$ROTATION
    else
        edited=
        remove "$DESTDIR$ROTATION"
    fi
    remove "$DESTDIR$UNIT_DIR/wg-monitor.service" "$DESTDIR$UNIT_DIR/wg-monitor@.service" "$DESTDIR$COMMAND" \
        "$DESTDIR$MANUAL" "$DESTDIR$ROTATION.dpkg-dist" "$DESTDIR$DEFAULTS.dpkg-dist" \
        "$DESTDIR$PROGRAM_DIR/wg_monitor.py" "$DESTDIR$PROGRAM_DIR/__pycache__" "$DESTDIR$PROGRAM_DIR/shipped"
    # Hooks that somebody put beside the program stay.
    for directory in $PROGRAM_DIR "${MANUAL%/*}"; do
        [ ! -d "$DESTDIR$directory" ] || try rmdir "$DESTDIR$directory" 2>/dev/null || :
    done
    set -- "$DESTDIR$DEFAULTS" "$DESTDIR$DEFAULTS"-* "$DESTDIR$UNIT_DIR"/wg-monitor.service.d \
        "$DESTDIR$UNIT_DIR"/wg-monitor@*.service.d "$DESTDIR$TRAIL"* "$DESTDIR${TRAIL%.log}"-*.log* "$DESTDIR$STATE_DIR" \
        ${edited:+"$DESTDIR$edited"}
    if [ "$purge" ]; then
        remove "$@"
    fi
    if systemd_runs; then
        run systemctl daemon-reload
    fi
    for path in "$@" "$DESTDIR$PROGRAM_DIR"; do
        if [ -e "$path" ]; then
            say "left $path"
        fi
    done
}

main() {
    parse_arguments "$@"
    # An su without - leaves root with its user's PATH.
    PATH=$PATH:$SYSTEM_PATH
    CDPATH='' cd -- "$(dirname "$0")"
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    trap 'exit 1' HUP INT TERM
    if [ $action = install ]; then
        install_all
    else
        uninstall_all
    fi
}

main "$@"
