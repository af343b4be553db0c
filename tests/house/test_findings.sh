#!/bin/sh
# Every finding is explained: the ids of onnx/remarks/remarks.c are those of docs/findings.md.
set -eu
cd "$(dirname "$0")/../.."
ids=$(sed -n 's/^    {"\([a-z_]*\)", \(true\|false\)},$/\1/p' onnx/remarks/remarks.c | sort)
told=$(grep '^|' docs/findings.md | cut -d'|' -f2 | grep -o '`[a-z_]*`' | tr -d '`' | sort)
[ -n "$ids" ] && [ "$ids" = "$told" ] && exit 0
echo "test_findings.sh: the ids of the code and of docs/findings.md differ:" >&2
printf '%s\n' "$ids" "$told" | sort | uniq -u >&2
exit 1
