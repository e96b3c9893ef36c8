#!/bin/sh
# Installs wg_monitor: its two modules, the wg-monitor command, the units, the default file, the logrotate file, the
# manual page and the completion for bash. Then starts the service and shows its status. See `./install.sh --help`.
#
# The installer replaces a file only if its content, owner or mode differs, and by renaming. A second run changes nothing.

set -eu
umask 022

PROGRAM_DIR=/opt/wg-monitor
COMMAND=/usr/local/bin/wg-monitor
UNIT_DIR=/etc/systemd/system
DEFAULTS=/etc/default/wg-monitor
ROTATION=/etc/logrotate.d/wg-monitor
MANUAL=/usr/local/share/man/man8/wg-monitor.8
CATALOG=/usr/local/lib/systemd/catalog/wg-monitor.catalog
COMPLETION=/usr/local/share/bash-completion/completions/wg-monitor
TRAIL=/var/log/wg_monitor.log
STATE_DIR=/var/lib/wg-monitor
HOOK_SETTINGS=/etc/wg-monitor
PYTHON=/usr/bin/python3
SERVICE=wg-monitor.service
INSTANCES='wg-monitor@*.service'
TIMERS='wg-monitor-metrics*.timer'
METRICS=/var/lib/prometheus/node-exporter/wg-monitor.prom
SYSTEM_PATH=/usr/bin:/usr/sbin:/bin:/sbin
# Every signal that ends a process and can be caught; the real-time signals follow below. 16 has no portable name.
SIGNALS="HUP INT QUIT ILL TRAP ABRT BUS FPE USR1 SEGV USR2 PIPE ALRM TERM 16 XCPU XFSZ VTALRM PROF IO PWR SYS"

DESTDIR=${DESTDIR:-}
action=install
dry_run=
start=yes
dependencies=yes
purge=
program_changed=
units_changed=
metrics_changed=
first_time=
missing=
by_root=
scratch=
temporary=

usage() {
    cat <<END
usage: [DESTDIR=DIR] ./install.sh [--dry-run] [--no-start] [--no-deps]
       [DESTDIR=DIR] ./install.sh --uninstall [--purge] [--dry-run]

  --no-start    only install the files; do not start, restart or enable the service
  --no-deps     install no packages; only print which are missing
  --uninstall   stop the service and its instances, and remove the installed files;
                keep the logs (/var/log/wg_monitor*), the store (/var/lib/wg-monitor)
                and the settings (/etc/default/wg-monitor*, /etc/wg-monitor,
                drop-ins)
  --purge       with --uninstall: remove these as well
  --dry-run     print what would be done, and do nothing
  DESTDIR       install the files under DIR, to build a package; start nothing and
                install no packages
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

# Every command that changes the system goes through one of these two functions.
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
        die "this needs root: run sudo ./install.sh, or use --dry-run or DESTDIR=" 4
    fi
    # Without root, the files of a package belong to whoever builds it. The tool that packs them makes root their owner.
    if [ -z "$DESTDIR" ] || [ "$(id -u)" -eq 0 ]; then
        by_root=yes
    fi
}

# --- What this machine has -----------------------------------------------------------------------------------------

systemd_runs() {
    [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]
}

# In a chroot or an image, systemd is not running yet, but it will be.
systemd_wanted() {
    [ -n "$DESTDIR" ] || systemd_runs || command -v systemctl >/dev/null 2>&1
}

# Searches where the daemon will search, not in this shell's PATH.
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

# Without recommended packages: on Debian, they would install a kernel if there is none. The package lists are
# updated only if the first attempt fails.
install_packages() {
    say "Installing $*"
    if has_program apt-get; then
        set -- env DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes --no-install-recommends install "$@"
        try "$@" || {
            try apt-get --quiet update || warn "apt-get update failed; continuing"
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
        die "no known package manager; install these packages yourself: $*"
    fi
}

provide_dependencies() {
    if [ "$DESTDIR" ]; then
        return
    fi
    missing=$(missing_packages)
    if [ "$missing" ] && [ "$dependencies" ]; then
        # shellcheck disable=SC2086 # one word per package
        install_packages $missing
        [ "$dry_run" ] || missing=$(missing_packages)
        [ "$dry_run" ] || [ -z "$missing" ] || die "still missing: $missing"
    elif [ "$missing" ]; then
        # shellcheck disable=SC2086
        say "missing, and not installed because of --no-deps:" $missing
    fi
    if [ -x $PYTHON ] && ! $PYTHON -I -c 'import sys; sys.exit(sys.version_info < (3, 7))'; then
        die "$PYTHON is $($PYTHON --version 2>&1), but wg_monitor needs 3.7 or newer"
    fi
    has_program logrotate || warn "logrotate is not installed: the trail will grow without limit"
}

# --- Installing files ----------------------------------------------------------------------------------------------

make_directory() {
    if [ ! -d "$DESTDIR$1" ]; then
        run mkdir -p "$DESTDIR$1"
    fi
}

owned_by_root() {
    if [ "$(id -u)" -eq 0 ]; then
        run chown -h "root:$2" "$1"
    fi
}

# fits PATH TEST...: whether these tests of find(1) are true of the path itself.
fits() {
    path=$1
    shift
    [ -n "$(find "$path" -prune "$@" 2>/dev/null)" ]
}

# correct PATH COMMAND...: runs a command that corrects the owner and mode of the path, and says so.
correct() {
    corrected=${1%/}
    # shellcheck disable=SC2012 # the path is known, and find has no portable way to print an owner
    was=$(ls -ld "$1" | { read -r mode _ owner group _ && printf '%s %s:%s' "$mode" "$owner" "$group"; })
    shift
    if [ "$dry_run" ]; then
        say "would correct the owner and mode of $corrected: $was"
    else
        "$@"
        say "corrected the owner and mode of $corrected: it was $was"
    fi
}

# own PATH GROUP MODE
own() {
    owned_by_root "$1" "$2"
    run chmod "$3" "$1"
}

# A directory of the program: whoever can write to it can replace the program.
own_directory() {
    make_directory "$1"
    # The slash follows a link that root put in place of the directory.
    set -- "$DESTDIR$1/"
    if [ -d "$1" ] && ! fits "$1" -perm -0755 ! -perm -0020 ! -perm -0002 ${by_root:+-user root -group root}; then
        correct "$1" own "$1" root 0755
    fi
}

# replace SOURCE PATH MODE: in one step, so that the path always has a whole file. A new file also shuts out whoever has
# the former one open. The temporary file has a suffix that logrotate ignores.
replace() {
    make_directory "${2%/*}"
    temporary=$DESTDIR$2.dpkg-new
    run rm -f "$temporary"
    run cp "$1" "$temporary"
    own "$temporary" root "$3"
    run mv -f "$temporary" "$DESTDIR$2"
    temporary=
}

# put SOURCE PATH MODE: succeeds if it changed something.
put() {
    if ! cmp -s "$1" "$DESTDIR$2"; then
        if [ "$dry_run" ]; then
            say "would install $DESTDIR$2"
            return
        fi
        replace "$@"
        say "installed $DESTDIR$2"
    elif fits "$DESTDIR$2" -type f -perm "$3" ${by_root:+-user root -group root}; then
        return 1
    else
        correct "$DESTDIR$2" replace "$@"
    fi
}

# put_settings SOURCE PATH: installs a file that belongs to the administrator from then on. A copy of the shipped file
# stays beside the program. If the next version ships another one, it is installed beside the administrator's file, with
# a suffix that logrotate ignores.
put_settings() {
    shipped=$PROGRAM_DIR/shipped/${1##*/}
    if [ -L "$DESTDIR$2" ] && [ ! -e "$DESTDIR$2" ]; then
        warn "left $DESTDIR$2 as it is: it is a link, and the file that it names does not exist"
    elif [ ! -e "$DESTDIR$2" ]; then
        put "$1" "$2" 0644
    else
        own_settings "$2"
        if ! cmp -s "$1" "$DESTDIR$2" && ! cmp -s "$1" "$DESTDIR$shipped" && put "$1" "$2.dpkg-dist" 0644; then
            say "kept $DESTDIR$2 as it is; the new default is beside it"
        fi
    fi
    put "$1" "$shipped" 0644 || :
}

# Only root may be able to change the settings. Content, links and a narrower mode are the administrator's choice.
own_settings() {
    if fits "$DESTDIR$1" -type f \( -perm -0020 -o -perm -0002 ${by_root:+-o ! -user root} \); then
        correct "$DESTDIR$1" replace "$DESTDIR$1" "$1" a-x,go-w
    fi
}

install_program() {
    own_directory $PROGRAM_DIR
    own_directory $PROGRAM_DIR/shipped
    # Python runs what it finds here instead of the module.
    compiled=$DESTDIR$PROGRAM_DIR/__pycache__
    if [ -n "$(find "$compiled" \( -perm -0020 -o -perm -0002 ${by_root:+-o ! -user root} \) 2>/dev/null)" ]; then
        program_changed=yes
        run rm -rf "$compiled"
        [ "$dry_run" ] || say "removed $compiled: others than root could change it"
    fi
    if put wg_monitor.py $PROGRAM_DIR/wg_monitor.py 0755; then
        program_changed=yes
    fi
    # The reports, which the daemon never imports: it needs no restart. They have the same owner.
    put wg_report.py $PROGRAM_DIR/wg_report.py 0644 || :
    # A few lines that import the module: Python compiles a script at each start, but a module only once. Imports create
    # no garbage, so the collector is off: it would take a twentieth of the startup time. Ctrl-C during the imports ends
    # the program without a traceback: _signal is a part of the interpreter, and its import takes no time.
    cat >"$scratch/command" <<END
#!$PYTHON -IS
import _signal, gc, sys
_signal.signal(_signal.SIGINT, _signal.SIG_DFL)
gc.disable()
sys.path.append("$PROGRAM_DIR")
from wg_monitor import main
sys.exit(main())
END
    if put "$scratch/command" $COMMAND 0755; then
        program_changed=yes
    fi
    if [ -z "$DESTDIR" ] && [ -x $PYTHON ]; then
        try $PYTHON -IS -m compileall -q $PROGRAM_DIR/wg_monitor.py $PROGRAM_DIR/wg_report.py ||
            warn "the modules are not compiled: the daemon starts more slowly"
    fi
    if [ -e wg-monitor.8 ]; then
        put wg-monitor.8 $MANUAL 0644 || :
    fi
    if [ -e contrib/completion/wg-monitor ]; then
        put contrib/completion/wg-monitor $COMPLETION 0644 || :
    fi
}

install_units() {
    [ -e "$DESTDIR$UNIT_DIR/$SERVICE" ] || first_time=yes
    for unit in wg-monitor.service wg-monitor@.service; do
        sed "s/^Group=adm\$/Group=$(log_group)/" $unit >"$scratch/$unit"
        if put "$scratch/$unit" $UNIT_DIR/$unit 0644; then
            units_changed=yes
        fi
    done
    # The service needs no restart for these.
    for unit in wg-monitor-metrics*.service wg-monitor-metrics*.timer; do
        if put "$unit" "$UNIT_DIR/$unit" 0644; then
            metrics_changed=yes
        fi
    done
    if put wg-monitor.catalog $CATALOG 0644; then
        update_catalog
    fi
}

# The explanations of the journal's lines, for `journalctl -x`.
update_catalog() {
    if systemd_runs; then
        try journalctl --update-catalog || warn "journalctl -x will not explain the lines of wg_monitor"
    fi
}

install_settings() {
    put_settings wg-monitor.default $DEFAULTS
    sed "s/root adm\$/root $(log_group)/" wg-monitor.logrotate >"$scratch/wg-monitor.logrotate"
    put_settings "$scratch/wg-monitor.logrotate" $ROTATION
}

# Under the units, the daemon creates its trail like this itself. Otherwise, only root's group could read it.
create_trail() {
    if grep -qs '^LOG_PATH=.' "$DESTDIR$DEFAULTS"; then
        return
    fi
    set -- "$DESTDIR$TRAIL"
    if [ ! -e "$1" ] && [ ! -L "$1" ]; then
        make_directory "${TRAIL%/*}"
        run touch "$1"
        own "$1" "$(log_group)" 0640
    # The administrator may have chosen another group, or a narrower mode.
    elif fits "$1" -type f -links 1 \( ! -perm 0640 ! -perm 0600 ${by_root:+-o ! -user root} \); then
        correct "$1" own "$1" "$(log_group)" 0640
    fi
}

# Hooks may be beside the program. Python prefers a package of the program's name to the program.
report_strangers() {
    if [ "$by_root" ] && [ -z "$dry_run" ]; then
        find "$DESTDIR$PROGRAM_DIR/" ! -user root -prune -print | while IFS= read -r path; do
            warn "left $path as it is: it does not belong to root; remove it, or make root its owner"
        done
    fi
}

# --- The service ---------------------------------------------------------------------------------------------------

running_instances() {
    systemctl list-units --plain --no-legend --state=active,activating,reloading "$INSTANCES" | cut -d ' ' -f 1
}

start_service() {
    instances=$(running_instances)
    if [ "$program_changed$units_changed" ] && [ "$instances" ]; then
        # shellcheck disable=SC2086 # one word per instance
        try systemctl restart $instances || warn "not all instances are running: systemctl status '$INSTANCES'"
    fi
    case $(systemctl is-enabled $SERVICE 2>/dev/null || :) in
        masked*)
            say "$SERVICE is masked and stays masked"
            return
            ;;
        disabled)
            # The administrator watches single interfaces and disabled the service for all of them.
            if [ -z "$first_time" ] && [ "$instances" ] && ! systemctl --quiet is-active $SERVICE; then
                say "$SERVICE stays disabled, because instances are running"
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
        say "$SERVICE is already running, and nothing has changed"
    fi
    [ "$dry_run" ] || show_service
}

trouble() {
    systemctl --no-pager --lines=10 status $SERVICE >&2 || :
    die "$SERVICE does not start; see the status above, and run: sudo wg-monitor check"
}

show_service() {
    say
    systemctl --no-pager --lines=5 status $SERVICE || trouble
    say
    say "The trail:   sudo tail -f $TRAIL"
    say "Settings:    $DEFAULTS, then: sudo systemctl restart wg-monitor"
}

without_systemd() {
    say
    say "systemd is not running, so nothing was started. Run one of these as root, or from your service manager:"
    say "  wg-monitor                                                      (settings as flags: wg-monitor --help)"
    say "  set -a; . $DEFAULTS; exec wg-monitor --from-environment   (settings from $DEFAULTS)"
}

# --- Install and uninstall -----------------------------------------------------------------------------------------

install_all() {
    provide_dependencies
    install_program
    if systemd_wanted; then
        install_units
    fi
    install_settings
    create_trail
    report_strangers
    if ! systemd_runs; then
        [ "$DESTDIR" ] || without_systemd
        return
    fi
    if [ "$units_changed$metrics_changed" ]; then
        run systemctl daemon-reload
    fi
    if [ "$metrics_changed" ]; then
        try systemctl try-restart "$TIMERS" || :
    fi
    if [ "$start" ] && { [ -z "$missing" ] || [ "$dry_run" ]; }; then
        start_service
    else
        say "The service was not started. To start it: sudo systemctl enable --now wg-monitor"
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
        # Disabling the template removes the links of all its instances.
        try systemctl --quiet disable $SERVICE wg-monitor@.service 2>/dev/null || :
        try systemctl --quiet disable wg-monitor-metrics.timer wg-monitor-metrics@.timer 2>/dev/null || :
        set -- $SERVICE "$INSTANCES" "$TIMERS" 'wg-monitor-metrics*.service'
        try systemctl --quiet stop "$@" 2>/dev/null || :
        try systemctl --quiet reset-failed "$@" 2>/dev/null || :
    fi
    # An edited rotation belongs to the administrator. It stays with the files that it rotates.
    if [ -z "$purge" ] && ! cmp -s "$DESTDIR$ROTATION" "$DESTDIR$PROGRAM_DIR/shipped/wg-monitor.logrotate"; then
        edited=$ROTATION
    else
        edited=
        remove "$DESTDIR$ROTATION"
    fi
    # Without its writer, the file with the metrics would be read forever.
    remove "$DESTDIR$UNIT_DIR/wg-monitor.service" "$DESTDIR$UNIT_DIR/wg-monitor@.service" "$DESTDIR$COMMAND" \
        "$DESTDIR$UNIT_DIR"/wg-monitor-metrics*.service "$DESTDIR$UNIT_DIR"/wg-monitor-metrics*.timer \
        "$DESTDIR$METRICS" "$DESTDIR${METRICS%.prom}"-*.prom \
        "$DESTDIR$MANUAL" "$DESTDIR$CATALOG" "$DESTDIR$COMPLETION" "$DESTDIR$ROTATION.dpkg-dist" \
        "$DESTDIR$DEFAULTS.dpkg-dist" "$DESTDIR$PROGRAM_DIR/wg_monitor.py" "$DESTDIR$PROGRAM_DIR/wg_report.py" \
        "$DESTDIR$PROGRAM_DIR/__pycache__" \
        "$DESTDIR$PROGRAM_DIR/shipped"
    # Hooks beside the program stay.
    for directory in $PROGRAM_DIR "${MANUAL%/*}" "${CATALOG%/*}" "${CATALOG%/*/*}" "${COMPLETION%/*}" \
        "${COMPLETION%/*/*}"; do
        [ ! -d "$DESTDIR$directory" ] || try rmdir "$DESTDIR$directory" 2>/dev/null || :
    done
    set -- "$DESTDIR$DEFAULTS" "$DESTDIR$DEFAULTS"-* "$DESTDIR$HOOK_SETTINGS" "$DESTDIR$UNIT_DIR"/wg-monitor.service.d \
        "$DESTDIR$UNIT_DIR"/wg-monitor@*.service.d "$DESTDIR$UNIT_DIR"/wg-monitor-metrics*.d \
        "$DESTDIR$TRAIL"* "$DESTDIR${TRAIL%.log}"-*.log* \
        "$DESTDIR${TRAIL%/*}/.${TRAIL##*/}.lock" "$DESTDIR${TRAIL%/*}/.wg_monitor"-*.log.lock "$DESTDIR$STATE_DIR" \
        ${edited:+"$DESTDIR$edited"}
    if [ "$purge" ]; then
        remove "$@"
    fi
    if systemd_runs; then
        run systemctl daemon-reload
        update_catalog
    fi
    for path in "$@" "$DESTDIR$PROGRAM_DIR"; do
        if [ -e "$path" ]; then
            say "left $path"
        fi
    done
}

main() {
    parse_arguments "$@"
    # su without - keeps the user's PATH.
    PATH=$PATH:$SYSTEM_PATH
    CDPATH='' cd -- "$(dirname "$0")"
    trap 'rm -rf ${scratch:+"$scratch"} ${temporary:+"$temporary"}' EXIT
    for signal in $SIGNALS $(seq 34 64); do
        trap 'exit 1' "$signal" 2>/dev/null || : "this machine has no such signal"
    done
    scratch=$(mktemp -d)
    if [ $action = install ]; then
        install_all
    else
        uninstall_all
    fi
}

main "$@"
