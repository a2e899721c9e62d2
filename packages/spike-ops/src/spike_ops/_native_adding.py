"""Products by additions straight from the bits in C: no list of positions is made."""

from torch import Tensor

from spike_ops import _native

# columns of the weight that a thread takes at least
TILE = 64

ADDING = r"""
#define LANES ((int64_t)(64 / sizeof(R)))
#define ADD(many)                                                                              \
    for (; j + many <= count; j += many) {                                                     \
        const R *row[many];                                                                    \
        for (int i = 0; i < many; i++) row[i] = table + place[j + i] * step;                   \
        int64_t n = first;                                                                     \
        for (; n + LANES <= last; n += LANES) {                                                \
            V sum = *(V *)(sums + n);                                                          \
            for (int i = 0; i < many; i++) sum += *(const V *)(row[i] + n);                    \
            *(V *)(sums + n) = sum;                                                            \
        }                                                                                      \
        for (; n < last; n++)                                                                  \
            for (int i = 0; i < many; i++) sums[n] += row[i][n];                               \
    }

/* out[m] = sum of the rows of the table whose bit is set in row m, for columns from `first` to
   `last`: 64 rows of the table at a time, as memory likes to be read, for all of a few m */
void NAME(add)(const uint8_t *bits, int64_t rows, int64_t columns, const R *table, int64_t step,
               int64_t width, int64_t first, int64_t last, R *out) {
    for (int64_t m = 0; m < rows; m++)
        memset(out + m * width + first, 0, (last - first) * sizeof(R));
    for (int64_t low = 0; low < columns; low += 64) {
        int64_t many = columns - low < 64 ? columns - low : 64;
        for (int64_t m = 0; m < rows; m++) {
            int64_t place[64], count = 0, j = 0;
            R *sums = out + m * width;
            uint64_t w = bits_at(bits, m * columns + low, many);
            for (; w; w &= w - 1) place[count++] = low + __builtin_ctzll(w);
            ADD(8)
            ADD(1)
        }
    }
}

#define SHORT(wide)                                                                            \
    for (; n + wide * LANES <= width; n += wide * LANES) {                                     \
        V sum[wide] = {{0}};                                                                   \
        for (int64_t low = 0; low < columns; low += 64) {                                      \
            int64_t many = columns - low < 64 ? columns - low : 64, at = m * columns + low;    \
            uint64_t w;                                                                        \
            if (at % 8 || many < 64) w = bits_at(bits, at, many);                              \
            else memcpy(&w, bits + at / 8, 8);                                                 \
            for (; w; w &= w - 1) {                                                            \
                const V *row = (const V *)(table + (low + __builtin_ctzll(w)) * width + n);    \
                for (int v = 0; v < wide; v++) sum[v] += row[v];                               \
            }                                                                                  \
        }                                                                                      \
        for (int v = 0; v < wide; v++) ((V *)(out + m * width + n))[v] = sum[v];               \
    }

/* the same sums of many short m: of those from `first` to `last`, for a table that stays in the
   cache and whose width is that of whole vectors */
void NAME(short)(const uint8_t *bits, int64_t first, int64_t last, int64_t columns,
                 const R *table, int64_t width, R *out) {
    for (int64_t m = first; m < last; m++) {
        int64_t n = 0;
        SHORT(8)
        SHORT(4)
        SHORT(1)
    }
}
#undef ADD
#undef SHORT
#undef LANES
"""


def add_rows(packed: Tensor, rows: int, weight: Tensor) -> Tensor:
    """Return S @ W by additions: bits [rows, columns], W [columns, N] whose rows are contiguous."""
    columns, width = weight.shape
    out, run = weight.new_empty(rows, width), _native.kernel(ADD[weight.dtype])
    given = (packed.data_ptr(), rows, columns, weight.data_ptr(), weight.stride(0), width)
    work, sums = rows * columns * width // 4, out.data_ptr()
    if work <= _native.PER_THREAD:
        run(*given, 0, width, sums)
        return out

    def part(first: int, last: int) -> None:
        run(*given, first * TILE, min(last * TILE, width), sums)

    _native.in_parts(-(-width // TILE), work, part)
    return out


def add_short_rows(packed: Tensor, rows: int, table: Tensor) -> Tensor:
    """Return S @ W by additions, of many rows: a small W [columns, N], contiguous, N % 16 = 0."""
    columns, width = table.shape
    out, run = table.new_empty(rows, width), _native.kernel(f"short_{_native.MARKS[table.dtype]}")

    def part(first: int, last: int) -> None:
        run(packed.data_ptr(), first, last, columns, table.data_ptr(), width, out.data_ptr())

    _native.in_parts(rows, rows * columns * width // 16, part)
    return out


ADD = {dtype: f"add_{mark}" for dtype, mark in _native.MARKS.items()}
