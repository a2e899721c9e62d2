"""Products by tables in C: of every four rows of the weight, the sum of those that fired.

Of four neighbouring rows of a weight there are sixteen sums. Once they are in a table, four bits of
spikes take one addition, however many of them are set: for more than a few rows of spikes fewer
than a dense product's multiply-adds, at any density. Of few rows, tables of pairs take less.
"""

from torch import Tensor

from spike_ops import _native

# columns of the weight in a tile, sums of rows of spikes that are kept at a time
TILE, ROWS = 64, 512
LEAST = 4  # rows of spikes for which tables are filled

# BITS of spikes are looked up at a time, in tables for pairs of rows of the weight where no more
# than PAIRED rows read them; VECTORS of a tile stay in registers
PAIRED = 20
TABLES = (
    f"#define PAIRED {PAIRED}\n"
    r"""
#define LANES ((int64_t)(64 / sizeof(R)))
#define VECTORS 4
#define WIDE (VECTORS * LANES)
#define BITS 32
typedef R NAME(tile)[VECTORS * 64 / sizeof(R)] __attribute__((aligned(64)));

/* the sums of any of two rows, or of four: bit i of an entry's number says if row i is in it */
static inline void NAME(fill)(NAME(tile) *sums, const R *const *row, int each) {
    for (int v = 0; v < VECTORS; v++) {
        V *at = (V *)sums + v;
        V a = ((const V *)row[0])[v], b = ((const V *)row[1])[v], ab = a + b;
        V pairs[4] = {{0}, a, b, ab};
        for (int i = 0; i < 4; i++) at[i * VECTORS] = pairs[i];
        if (each == 2) continue;
        V c = ((const V *)row[2])[v], d = ((const V *)row[3])[v], cd = c + d;
        V more[12] = {c, a + c, b + c, ab + c, d, a + d, b + d, ab + d,
                      cd, a + cd, b + cd, ab + cd};
        for (int i = 0; i < 12; i++) at[(4 + i) * VECTORS] = more[i];
    }
}

/* the same sums at any density, by tables for `each` rows of the weight; `sums` is memory for WIDE
   of each of `rows`. Two pairs are added first, so that the result is that of tables for four */
static inline __attribute__((always_inline)) void NAME(look)(
    const uint8_t *bits, int64_t rows, int64_t columns, const R *weight, int64_t step,
    int64_t width, int64_t first, int64_t last, R *out, R *sums, const int each) {
    NAME(tile) table[BITS / 4 * 16], copy[4], none = {0};
    const int many = 1 << each;
    for (int64_t n = first; n < last; n += WIDE) {
        int64_t have = last - n < WIDE ? last - n : WIDE;
        memset(sums, 0, rows * sizeof(none));
        for (int64_t low = 0; low < columns; low += BITS) {
            for (int g = 0; g < BITS / each; g++) {
                const R *row[4];
                for (int i = 0; i < each; i++) {
                    int64_t k = low + each * g + i;
                    row[i] = k < columns ? weight + k * step + n : none;
                    if (have == WIDE || k >= columns) continue;
                    memset(copy[i], 0, sizeof(none));
                    row[i] = memcpy(copy[i], row[i], have * sizeof(R));
                }
                NAME(fill)(table + g * many, row, each);
            }
            int64_t left = columns - low < BITS ? columns - low : BITS;
            for (int64_t m = 0; m < rows; m++) {
                int64_t at = m * columns + low;
                uint32_t w;
                if (at % 8 || left < BITS) w = bits_at(bits, at, left);
                else memcpy(&w, bits + at / 8, sizeof(w));
                V *total = (V *)(sums + m * WIDE), sum[VECTORS];
                for (int v = 0; v < VECTORS; v++) sum[v] = total[v];
                for (int i = 0; i < BITS; i += 4, w >>= 4) {
                    const V *term = (const V *)table[i / each * many + (w & (many - 1))];
                    const V *other = (const V *)table[(i / 2 + 1) * 4 + (w >> 2 & 3)];
                    for (int v = 0; v < VECTORS; v++)
                        if (each == 4) sum[v] += term[v];
                        else sum[v] += term[v] + other[v];
                }
                for (int v = 0; v < VECTORS; v++) total[v] = sum[v];
            }
        }
        for (int64_t m = 0; m < rows; m++)
            memcpy(out + m * width + n, sums + m * WIDE, have * sizeof(R));
    }
}

void NAME(table)(const uint8_t *bits, int64_t rows, int64_t columns, const R *weight, int64_t step,
                 int64_t width, int64_t first, int64_t last, R *out, R *sums) {
    if (rows > PAIRED)
        NAME(look)(bits, rows, columns, weight, step, width, first, last, out, sums, 4);
    else
        NAME(look)(bits, rows, columns, weight, step, width, first, last, out, sums, 2);
}
#undef LANES
#undef PAIRED
#undef VECTORS
#undef WIDE
#undef BITS
"""
)


def look_up(packed: Tensor, rows: int, weight: Tensor) -> Tensor:
    """Return S @ W by tables: bits [rows, columns], W [columns, N] whose rows are contiguous."""
    columns, width = weight.shape
    out, run = weight.new_empty(rows, width), _native.kernel(TABLE[weight.dtype])
    table, line = (weight.data_ptr(), weight.stride(0), width), width * weight.element_size()
    bits, begin = packed.data_ptr(), out.data_ptr()

    def part(first: int, last: int) -> None:
        scratch = weight.new_empty(min(rows, ROWS), TILE)
        span = (first * TILE, min(last * TILE, width))
        for row in range(0, rows, ROWS):  # which begins at a byte
            place = (bits + row * columns // 8, min(ROWS, rows - row), columns)
            run(*place, *table, *span, begin + row * line, scratch.data_ptr())

    _native.in_parts(-(-width // TILE), rows * columns * width // 4, part)
    return out


TABLE = {dtype: f"table_{mark}" for dtype, mark in _native.MARKS.items()}
