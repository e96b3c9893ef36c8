#!/bin/sh
# Makes the pictures in docs/images from the demo. Needs Debian's chromium.
set -eu
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# picture NAME PAGE WIDTH HEIGHT OPTION...
picture() {
    name=$1 page=$2 size=$3,$4
    shift 4
    # As root, chromium runs only without its sandbox. The page is our own and requests nothing.
    chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --user-data-dir="$scratch/chromium" \
        --window-size="$size" --screenshot="docs/images/$name" "$@" "file://$page" 2>"$scratch/errors" ||
        { cat "$scratch/errors" >&2; exit 1; }
    bytes=$(wc -c <"docs/images/$name")
    echo "docs/images/$name: $bytes bytes"
    [ "$bytes" -le 200000 ]
}

mkdir -p docs/images
WG_COLOR_MODE=always COLUMNS=120 python3 contrib/demo.py "$scratch/demo" >"$scratch/tour"

# A terminal: the colours of the output become those of a page.
{
    cat <<'PAGE'
<!doctype html><meta charset="utf-8"><style>
body { margin: 0; padding: 20px 26px; background: #16191d; color: #d6dade; font: 13.5px/1.45 "DejaVu Sans Mono", monospace }
pre { margin: 0; font: inherit } .p { color: #8b949e } .b { font-weight: bold }
.c32 { color: #7ec98f } .c33 { color: #e0c06c } .c36 { color: #6cb6d9 } .c2 { color: #8b949e }
</style><pre>
PAGE
    # Everything from `status` to `sessions --present`, without the long list between them.
    sed -n '/^\$ wg-monitor status/,/^# Who came from/p' "$scratch/tour" |
        sed -e '/^# Who was connected in/,/^$/d' -e '/^# Who came from/d' |
        sed -e 's/&/\&amp;/g; s/</\&lt;/g; s/>/\&gt;/g' -e 's/^\([$#] .*\)/<span class="p">\1<\/span>/' \
            -e "s/$(printf '\033')\[0m/<\/span>/g" \
            -e "s/$(printf '\033')\[\([0-9]*\)m$(printf '\033')\[1m/<span class=\"c\1 b\">/g" \
            -e "s/$(printf '\033')\[\([0-9]*\)m/<span class=\"c\1\">/g"
    echo '</pre>'
} >"$scratch/terminal.html"

picture page-light.png "$scratch/demo/report.html" 1200 1030
picture page-dark.png "$scratch/demo/report.html" 1200 1030 --force-dark-mode
picture terminal.png "$scratch/terminal.html" 1010 620
