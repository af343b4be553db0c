/* Cast between all types through the widest one of the source's kind. Invariant, as the reference's: no conversion is
 * undefined: a float that an integer type cannot hold becomes that type's most negative value (0 if unsigned), halves
 * round to nearest even, and what is not 0 is true. */
#include "backend/cuda/map.cuh"

struct Wide {
  enum { FLOAT, SIGNED, UNSIGNED } kind;
  double f;
  int64_t i;
  uint64_t u;
};

/* As graph/narrow.c. */
DEVICE double from_narrow(const NarrowLayout &l, uint32_t bits) {
  uint32_t magnitude = bits & (l.sign - 1), exponent = magnitude >> l.digits, whole = 1u << l.digits;
  double number;
  if (bits == l.nan || magnitude > l.largest)
    number = l.infinity && magnitude == l.infinity ? INFINITY : NAN;
  else
    number = exponent ? ldexp((double)(magnitude % whole + whole), (int)exponent - 1 + l.least - l.digits)
                      : ldexp((double)magnitude, l.least - l.digits);
  return bits & l.sign ? -number : number;
}

DEVICE uint32_t to_narrow(const NarrowLayout &l, double x, bool saturate) {
  bool one_zero = l.nan == l.sign; /* then -0 is NaN's place */
  uint32_t sign = signbit(x) ? l.sign : 0, nan = one_zero ? l.nan : sign | l.nan;
  if (isnan(x))
    return nan;
  x = fabs(x);
  double bits = INFINITY;
  if (!isinf(x)) {
    int exponent;
    frexp(x, &exponent);
    exponent = x == 0 || exponent - 1 < l.least ? l.least : exponent - 1;
    /* steps of the last digit, hidden one included: a carry runs into the exponent as it should */
    bits = nearbyint(ldexp(x, l.digits - exponent)) + ldexp((double)(exponent - l.least), l.digits);
  }
  if (bits > l.largest)
    return saturate && l.sign == 0x80 ? sign | l.largest : l.infinity ? sign | l.infinity : nan;
  return bits == 0 && one_zero ? 0 : sign | (uint32_t)bits;
}

/* A type, and where its bits stand. */
struct Form {
  DType type;
  NarrowLayout narrow;
};

static Form form_of(DType type) {
  return Form{type, narrow_layout(type)};
}

DEVICE Wide wide_float(double f) {
  return Wide{Wide::FLOAT, f, 0, 0};
}

DEVICE Wide wide_signed(int64_t i) {
  return Wide{Wide::SIGNED, 0, i, 0};
}

DEVICE Wide load_wide(const Form &form, const void *from, int64_t i) {
  switch (form.type) {
  case F32:
    return wide_float((double)((const float *)from)[i]);
  case F64:
    return wide_float(((const double *)from)[i]);
  case F16:
  case BF16:
    return wide_float(from_narrow(form.narrow, ((const uint16_t *)from)[i]));
  case F8E4M3FN:
  case F8E4M3FNUZ:
  case F8E5M2:
  case F8E5M2FNUZ:
    return wide_float(from_narrow(form.narrow, ((const uint8_t *)from)[i]));
  case I64:
    return wide_signed(((const int64_t *)from)[i]);
  case I32:
    return wide_signed(((const int32_t *)from)[i]);
  case I16:
    return wide_signed(((const int16_t *)from)[i]);
  case I8:
    return wide_signed(((const int8_t *)from)[i]);
  case U8:
    return wide_signed(((const uint8_t *)from)[i]);
  case U16:
    return wide_signed(((const uint16_t *)from)[i]);
  case U32:
    return wide_signed(((const uint32_t *)from)[i]);
  case U64:
    return Wide{Wide::UNSIGNED, 0, 0, ((const uint64_t *)from)[i]};
  default: /* BOOL */
    return wide_signed(((const uint8_t *)from)[i] != 0);
  }
}

DEVICE double as_double(const Wide &w) {
  return w.kind == Wide::FLOAT ? w.f : w.kind == Wide::SIGNED ? (double)w.i : (double)w.u;
}

/* Integers wrap. Floats that do not fit become the most negative number, which is 0 where there are none. */
template <class T> DEVICE T as_integer(const Wide &w) {
  if (w.kind != Wide::FLOAT)
    return w.kind == Wide::SIGNED ? (T)w.i : (T)w.u;
  constexpr bool is_signed = (T)-1 < 0;
  constexpr T most = (T)(is_signed ? ((uint64_t)1 << (8 * sizeof(T) - 1)) - 1 : ~(uint64_t)0);
  constexpr T least = is_signed ? (T)~most : 0;
  double end = ((double)(most / 2) + (sizeof(T) < 8)) * 2; /* most + 1: halves of 64 bits round up by themselves */
  bool fits = w.f < end && (sizeof(T) == 8 && is_signed ? w.f >= (double)least : w.f > (double)least - 1);
  return fits ? (T)w.f : least;
}

DEVICE void store_wide(const Form &form, const Wide &w, void *to, int64_t i) {
  switch (form.type) {
  case F32:
    ((float *)to)[i] = w.kind == Wide::FLOAT ? (float)w.f : w.kind == Wide::SIGNED ? (float)w.i : (float)w.u;
    break;
  case F64:
    ((double *)to)[i] = as_double(w);
    break;
  case F16:
  case BF16:
    ((uint16_t *)to)[i] = (uint16_t)to_narrow(form.narrow, as_double(w), true);
    break;
  case F8E4M3FN:
  case F8E4M3FNUZ:
  case F8E5M2:
  case F8E5M2FNUZ:
    ((uint8_t *)to)[i] = (uint8_t)to_narrow(form.narrow, as_double(w), true);
    break;
  case I64:
    ((int64_t *)to)[i] = as_integer<int64_t>(w);
    break;
  case I32:
    ((int32_t *)to)[i] = as_integer<int32_t>(w);
    break;
  case I16:
    ((int16_t *)to)[i] = as_integer<int16_t>(w);
    break;
  case I8:
    ((int8_t *)to)[i] = as_integer<int8_t>(w);
    break;
  case U8:
    ((uint8_t *)to)[i] = as_integer<uint8_t>(w);
    break;
  case U16:
    ((uint16_t *)to)[i] = as_integer<uint16_t>(w);
    break;
  case U32:
    ((uint32_t *)to)[i] = as_integer<uint32_t>(w);
    break;
  case U64:
    ((uint64_t *)to)[i] = as_integer<uint64_t>(w);
    break;
  default: /* BOOL */
    ((uint8_t *)to)[i] = w.kind == Wide::FLOAT ? w.f != 0 : w.kind == Wide::SIGNED ? w.i != 0 : w.u != 0;
  }
}

static GLOBAL void cast(Form from, Form to, int64_t n, const void *x, void *y) {
  for (int64_t i = global_thread(); i < n; i += global_threads())
    store_wide(to, load_wide(from, x, i), y, i);
}

void launch_cast(cudaStream_t s, DType from, DType to, int64_t n, const void *x, void *y) {
  if ((from == F32 && to == BF16) || (from == BF16 && to == F32))
    return launch_convert(s, from, to, n, x, y);
  launch(cast, blocks_for(n), BLOCK_THREADS, s, form_of(from), form_of(to), n, x, y);
}

template <class T> struct Nearest {
  NarrowLayout to;
  bool saturate;
  DEVICE T operator()(T x) const { return (T)from_narrow(to, to_narrow(to, (double)x, saturate)); }
};

void launch_narrow(cudaStream_t s, DType type, DType to, bool saturate, int64_t n, const void *x, void *y) {
  FOR_FLOATS(type, run1(s, Nearest<T>{narrow_layout(to), saturate}, n, (const T *)x, (T *)y))
}

struct Same {
  DEVICE float operator()(float x) const { return x; }
};

struct Rounded {
  DEVICE float operator()(float x) const { return Bfloat(x); }
};

void launch_convert(cudaStream_t s, DType from, DType to, int64_t n, const void *x, void *y) {
  if (from == BF16)
    run1(s, Same(), n, (const Bfloat *)x, (float *)y);
  else if (to == BF16)
    run1(s, Same(), n, (const float *)x, (Bfloat *)y);
  else
    run1(s, Rounded(), n, (const float *)x, (float *)y);
}

DEVICE void round_eight(int64_t n, int64_t at, const float *x, Bfloat *y) {
  if (at + 8 <= n) {
    Many<float, 8> from = load_many<8>(x + at);
    Many<Bfloat, 8> to;
    UNROLL
    for (int k = 0; k < 8; k++)
      to.at[k] = Bfloat(from.at[k]);
    store_many(y + at, to);
  } else {
    for (int64_t i = at; i < n; i++)
      y[i] = Bfloat(x[i]);
  }
}

static GLOBAL void round_two(int64_t n, const float *x, Bfloat *y, int64_t row, const float *u, Bfloat *v) {
  for (int64_t at = 8 * global_thread(); at < n; at += 8 * global_threads()) {
    round_eight(n, at, x, y);
    if (at < row)
      round_eight(row, at, u, v);
  }
}

void launch_round_two(cudaStream_t s, int64_t n, const void *x, void *y, int64_t row, const void *u, void *v) {
  launch(round_two, blocks_for((n + 7) / 8), BLOCK_THREADS, s, n, (const float *)x, (Bfloat *)y, row, (const float *)u,
         (Bfloat *)v);
}
