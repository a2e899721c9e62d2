"""The event path in C: add rows of a table, walk along convolutions.

Sums are taken in the order of the spikes, in vectors as wide as the machine has; there is no
multiplication on the way of a value (but for what `_native_masked` adds: the gradient by spikes).
"""

from spike_ops._native_adding import ADDING
from spike_ops._native_index import INDEX
from spike_ops._native_masked import MASKED
from spike_ops._native_tables import TABLES

# R is the type, I the integer of its size, V a vector of it; a tile of `wide` vectors stays in
# registers
SUMS = r"""
typedef R NAME(vector) __attribute__((vector_size(64), aligned(sizeof(R)), may_alias));
#define V NAME(vector)
#define EACH(wide) for (int v = 0; v < wide; v++)
#define TILES(wide) for (int64_t tile = wide * 64 / sizeof(R); n + tile <= width; n += tile)

#define GATHER(wide)                                                                           \
    TILES(wide) {                                                                              \
        V sum[wide] = {{0}};                                                                   \
        for (int32_t j = starts[m]; j < starts[m + 1]; j++) {                                  \
            const V *row = (const V *)(table + entries[j] * step + n);                         \
            EACH(wide) sum[v] += row[v];                                                       \
        }                                                                                      \
        EACH(wide) ((V *)(sums + n))[v] = sum[v];                                              \
    }

/* out[m] = sum of the rows of the table that bag m names, for bags from `first` to `last` */
void NAME(gather)(const int32_t *entries, const int32_t *starts, int64_t first, int64_t last,
                  const R *table, int64_t step, int64_t width, R *out, int64_t out_step) {
    for (int64_t m = first; m < last; m++) {
        R *sums = out + m * out_step;
        int64_t n = 0;
        GATHER(8)
        GATHER(4)
        if (n == width) continue;
        for (int64_t l = n; l < width; l++) sums[l] = 0;
        for (int32_t j = starts[m]; j < starts[m + 1]; j++) {
            const R *row = table + entries[j] * step;
            for (int64_t l = n; l < width; l++) sums[l] += row[l];
        }
    }
}

/* ones and zeros of bits */
void NAME(unpack)(const uint8_t *bits, int64_t size, R *out) {
    typedef I lanes __attribute__((vector_size(64)));
    const int64_t many = 64 / sizeof(R);
    int64_t at = 0;
    lanes place;
    for (int64_t l = 0; l < many; l++) place[l] = l;
    for (; at + many <= size; at += many) {
        uint16_t w = 0;
        memcpy(&w, bits + at / 8, many / 8);
        *(V *)(out + at) = __builtin_convertvector((((lanes){0} + (I)w) >> place) & 1, V);
    }
    for (; at < size; at++) out[at] = (bits[at / 8] >> at % 8) & 1;
}

/* walks along a convolution: sizes are lines of outputs, outputs in a line, offsets, runs, their
   length, their distance, stride, places of a line, channels of a group, width, table rows of a
   group, lines of a group, groups; `from` names the line of each output line and offset, or -1 */
#define WALK(TILED, REST)                                                                      \
    int64_t along = sizes[1], offsets = sizes[2], runs = sizes[3], length = sizes[4];          \
    int64_t apart = sizes[5], stride = sizes[6], row = sizes[7], each = sizes[8];              \
    int64_t width = sizes[9], rows = sizes[10], lines = sizes[11], groups = sizes[12];         \
    int64_t per = sizes[0];                                                                    \
    for (int64_t line = first; line < last; line++) {                                          \
        int64_t block = line / per, base = block * lines;                                      \
        R *mine = table + (block % groups) * rows * width;                                     \
        for (int64_t x = 0; x < along; x++) {                                                  \
            R *result = out + (line * along + x) * width;                                      \
            int64_t n = 0;                                                                     \
            TILES(8) { TILED(8) }                                                              \
            TILES(4) { TILED(4) }                                                              \
            if (n < width) { REST }                                                            \
        }                                                                                      \
    }

#define SPIKES(...)                                                                            \
    for (int64_t o = 0; o < offsets; o++) {                                                    \
        int64_t source = from[(line % per) * offsets + o];                                     \
        if (source < 0) continue;                                                              \
        const int32_t *begin = starts + (base + source) * row;                                 \
        for (int64_t r = 0; r < runs; r++) {                                                   \
            int64_t place = x * stride + r * apart;                                            \
            int64_t shift = (o * runs * length + r - place) * each;                            \
            for (int32_t j = begin[place]; j < begin[place + length]; j++) {                   \
                R *term = mine + (shift + entries[j]) * width;                                 \
                __VA_ARGS__                                                                    \
            }                                                                                  \
        }                                                                                      \
    }

#define CONVOLVE(wide)                                                                         \
    V sum[wide] = {{0}};                                                                       \
    SPIKES(EACH(wide) sum[v] += ((V *)(term + n))[v];)                                         \
    EACH(wide) ((V *)(result + n))[v] = sum[v];

void NAME(convolve)(const int32_t *entries, const int32_t *starts, const int32_t *from,
                    const int64_t *sizes, int64_t first, int64_t last, R *table, R *out) {
    WALK(CONVOLVE, for (int64_t l = n; l < width; l++) result[l] = 0;
         SPIKES(for (int64_t l = n; l < width; l++) result[l] += term[l];))
}

#define COLLECT(wide)                                                                          \
    V given[wide];                                                                             \
    EACH(wide) given[v] = ((V *)(result + n))[v];                                              \
    SPIKES(EACH(wide) ((V *)(term + n))[v] += given[v];)

/* the same walk backwards: each row of the table adds what its spikes gave to */
void NAME(collect)(const int32_t *entries, const int32_t *starts, const int32_t *from,
                   const int64_t *sizes, int64_t first, int64_t last, R *table, R *out) {
    WALK(COLLECT, SPIKES(for (int64_t l = n; l < width; l++) term[l] += result[l];))
}
#undef WALK
#undef SPIKES
#undef GATHER
#undef CONVOLVE
#undef COLLECT
#undef TILES
#undef EACH
"""


def source() -> str:
    """Return the C source, the sums once for each floating-point type."""
    kinds = (("float", "int32_t", "f32"), ("double", "int64_t", "f64"))
    heads = [
        f"#define R {kind}\n#define I {whole}\n#define NAME(what) what##_{mark}"
        for kind, whole, mark in kinds
    ]
    parts = [
        f"{head}\n{SUMS}\n{ADDING}\n{TABLES}\n{MASKED}\n#undef V\n#undef R\n#undef I\n#undef NAME"
        for head in heads
    ]
    return "\n".join([INDEX, *parts])
