#!/bin/sh
# trim-modules.sh FOLDER LIST: keep in FOLDER (/lib/modules/VERSION) only the modules that LIST
# names, one path pattern a line, and those that they need.
set -eu
folder=$1 list=$2
grep -v '^#' "$list" >"$folder/wanted"
# modules.dep has "module: needed needed ..." with every module that it needs, however indirectly.
awk '
    NR == FNR { if ($0 != "") wanted[++count] = $0; next }
    {
        sub(":", "", $1)
        for (i = 1; i <= count; i++)
            if ($1 ~ wanted[i]) { for (f = 1; f <= NF; f++) keep[$f] = 1; break }
    }
    END { for (module in keep) print module }
' "$folder/wanted" "$folder/modules.dep" | sort >"$folder/kept"
(cd "$folder" && find kernel -name '*.ko*' | sort | comm -23 - kept | xargs -r rm)
find "$folder/kernel" -type d -empty -delete
rm "$folder/wanted" "$folder/kept"
