"""The product of two dense matrices in C, where a bit is set and nowhere else."""

from torch import Tensor

from spike_ops import _native

# of a core's second-level cache, for the rows of the second matrix that a pass goes over
BLOCK_BYTES, WORD = 1 << 19, 64

# a dot product goes along vectors; its elements are added by halves at the end
MASKED = r"""
#define HALF NAME(half)
#define QUARTER NAME(quarter)
typedef R HALF __attribute__((vector_size(32), aligned(sizeof(R)), may_alias));
typedef R QUARTER __attribute__((vector_size(16), aligned(sizeof(R)), may_alias));

static R NAME(total)(const V *v) {
    const HALF *h = (const HALF *)v;
    HALF sum = h[0] + h[1];
    const QUARTER *q = (const QUARTER *)&sum;
    QUARTER rest = q[0] + q[1];
    R total = 0;
    for (unsigned l = 0; l < 16 / sizeof(R); l++) total += rest[l];
    return total;
}

#define DOTS(many)                                                                             \
    for (; j + many <= count; j += many) {                                                     \
        const R *row[many];                                                                    \
        V sum[many];                                                                           \
        for (int i = 0; i < many; i++) row[i] = table + place[j + i] * width, sum[i] = (V){0}; \
        int64_t n = 0;                                                                         \
        for (; n + lanes <= width; n += lanes)                                                 \
            for (int i = 0; i < many; i++)                                                     \
                sum[i] += *(const V *)(given + n) * *(const V *)(row[i] + n);                  \
        for (int i = 0; i < many; i++) {                                                       \
            R whole = NAME(total)(&sum[i]);                                                    \
            for (int64_t l = n; l < width; l++) whole += given[l] * row[i][l];                 \
            result[place[j + i]] = whole;                                                      \
        }                                                                                      \
    }

/* out[m][k] = sum over n of left[m][n] table[k][n] where bit m columns + k is one, else 0, for
   rows from `first` to `last`, `block` rows of the table at a time */
void NAME(masked)(const uint8_t *bits, int64_t first, int64_t last, int64_t columns,
                  int64_t width, int64_t block, const R *left, const R *table, R *out) {
    const int64_t lanes = 64 / sizeof(R);
    memset(out + first * columns, 0, (last - first) * columns * sizeof(R));
    for (int64_t from = 0; from < columns; from += block) {
        int64_t till = from + block < columns ? from + block : columns;
        for (int64_t m = first; m < last; m++) {
            const R *given = left + m * width;
            R *result = out + m * columns;
            for (int64_t low = from; low < till; low += 64) {
                int64_t place[64], count = 0, j = 0;
                uint64_t w = bits_at(bits, m * columns + low, till - low < 64 ? till - low : 64);
                for (; w; w &= w - 1) place[count++] = low + __builtin_ctzll(w);
                DOTS(4)
                DOTS(1)
            }
        }
    }
}
#undef DOTS
#undef HALF
#undef QUARTER
"""


def masked_product(packed: Tensor, left: Tensor, table: Tensor) -> Tensor:
    """Return left @ tableᵀ [rows, columns] where the bits are set, zero elsewhere.

    left [rows, width] and table [columns, width] are contiguous and of one type that kernels know.
    """
    (rows, width), columns = left.shape, table.shape[0]
    out = left.new_empty(rows, columns)
    room = BLOCK_BYTES // (max(width, 1) * left.element_size())
    sizes = (columns, width, max(room // WORD, 1) * WORD)

    def part(first: int, last: int) -> None:
        _native.call(
            f"masked_{_native.MARKS[left.dtype]}", packed, first, last, *sizes, left, table, out
        )

    _native.in_parts(rows, out.numel() * width // 8, part)
    return out
