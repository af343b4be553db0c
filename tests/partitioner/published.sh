# `sh published.sh PARTITION_BENCH DIR`: the largest loads of the published problems in DIR are the authors' optima, to
# 0.1 %.
bench=$1
cd "$2" || exit 1
"$bench" layer_bert24_training.json layer_resnet50_training.json operator_bert_l-3_training.json \
  operator_bert_l-12_training.json | awk '
  BEGIN { split("41.7458 78.6318 65.3031 437.998", best, " ") }
  { print; n++; if ($2 > best[n] * 1.001 || $2 < best[n] * 0.999) bad = 1 }
  END { exit bad || n != 4 }'
