"""The event path in C: find the spikes, add rows of a table, walk along convolutions.

Sums are taken in the order of the spikes, in vectors as wide as the machine has; there is no
multiplication on the way of a value (but for what `_native_masked` adds: the gradient by spikes).
"""

from spike_ops._native_masked import MASKED

INDEX = r"""
#include <stdint.h>
#include <string.h>

static uint64_t word(const uint8_t *bits, int64_t at, int64_t size) {
    uint64_t w = 0;
    int64_t left = (size - at + 7) / 8;
    memcpy(&w, bits + at / 8, left < 8 ? left : 8);
    return w;
}

/* `many` bits from any place on, 64 at most */
static uint64_t bits_at(const uint8_t *bits, int64_t at, int64_t many) {
    uint8_t near[9] = {0};
    uint64_t w;
    int64_t lead = at % 8;
    memcpy(near, bits + at / 8, (lead + many + 7) / 8);
    memcpy(&w, near, 8);
    w >>= lead;
    if (lead) w |= (uint64_t)near[8] << (64 - lead);
    return many < 64 ? w & ((UINT64_C(1) << many) - 1) : w;
}

/* columns that fired, row after row, and where each row begins: starts[rows + 1] */
void decode(const uint8_t *bits, int64_t rows, int64_t columns, int32_t *entries,
            int32_t *starts) {
    int64_t size = rows * columns, row = 0, begin = 0, count = 0;
    starts[0] = 0;
    for (int64_t at = 0; at < size; at += 64) {
        for (uint64_t w = word(bits, at, size); w; w &= w - 1) {
            int64_t place = at + __builtin_ctzll(w);
            for (; place >= begin + columns; begin += columns) starts[++row] = count;
            entries[count++] = place - begin;
        }
    }
    while (row < rows) starts[++row] = count;
}

/* rows that fired, column after column, out of the columns row after row */
void turn(const int32_t *entries, const int32_t *starts, int64_t rows, int64_t columns,
          int32_t *turned, int32_t *begins, int32_t *next) {
    memset(begins, 0, (columns + 1) * sizeof(int32_t));
    for (int32_t j = 0; j < starts[rows]; j++) begins[entries[j] + 1]++;
    for (int64_t k = 0; k < columns; k++) begins[k + 1] += begins[k];
    memcpy(next, begins, columns * sizeof(int32_t));
    for (int64_t m = 0; m < rows; m++)
        for (int32_t j = starts[m]; j < starts[m + 1]; j++) turned[next[entries[j]]++] = m;
}

/* spikes [samples, channels, plane] in the order of samples, groups and places: an entry is
   shift[p] + channel in the group, its place key[p] within sample and group, of `places` */
void order(const uint8_t *bits, const int64_t *sizes, const int32_t *key, const int32_t *shift,
           int32_t *entries, int32_t *starts, int32_t *at_key, int32_t *value) {
    int64_t samples = sizes[0], groups = sizes[1], each = sizes[2], plane = sizes[3];
    int64_t places = sizes[4], size = samples * groups * each * plane, n = 0;
    int64_t begin = 0, channel = 0, base = 0, total = samples * groups * places;
    memset(starts, 0, (total + 1) * sizeof(int32_t));
    for (int64_t at = 0; at < size; at += 64) {
        for (uint64_t w = word(bits, at, size); w; w &= w - 1) {
            int64_t place = at + __builtin_ctzll(w);
            for (; place >= begin + plane; begin += plane)
                if (++channel == each) channel = 0, base += places;
            at_key[n] = base + key[place - begin];
            value[n] = shift[place - begin] + channel;
            starts[at_key[n++] + 1]++;
        }
    }
    for (int64_t k = 0; k < total; k++) starts[k + 1] += starts[k];
    for (int64_t j = 0; j < n; j++) entries[starts[at_key[j]]++] = value[j];
    memmove(starts + 1, starts, total * sizeof(int32_t));
    starts[0] = 0;
}
"""

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

#define ADD(many)                                                                              \
    for (; j + many <= count; j += many) {                                                     \
        const R *row[many];                                                                    \
        for (int i = 0; i < many; i++) row[i] = table + entries[j + i] * step;                 \
        int64_t n = 0;                                                                         \
        for (; n + (int64_t)(64 / sizeof(R)) <= width; n += 64 / sizeof(R)) {                  \
            V sum = *(V *)(sums + n);                                                          \
            for (int i = 0; i < many; i++) sum += *(const V *)(row[i] + n);                    \
            *(V *)(sums + n) = sum;                                                            \
        }                                                                                      \
        for (; n < width; n++)                                                                 \
            for (int i = 0; i < many; i++) sums[n] += row[i][n];                               \
    }

/* the same of few rows straight from their bits: one call, no list that is kept, and whole rows
   of the table one after the other, as memory likes to be read */
void NAME(add)(const uint8_t *bits, int64_t rows, int64_t columns, const R *table, int64_t step,
               int64_t width, R *out, int32_t *entries) {
    for (int64_t m = 0; m < rows; m++) {
        R *sums = out + m * width;
        int64_t count = 0, j = 0;
        for (int64_t at = 0; at < columns; at += 64) {
            uint64_t w = bits_at(bits, m * columns + at, columns - at < 64 ? columns - at : 64);
            for (; w; w &= w - 1) entries[count++] = at + __builtin_ctzll(w);
        }
        memset(sums, 0, width * sizeof(R));
        ADD(8)
        ADD(1)
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
#undef ADD
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
        f"{head}\n{SUMS}\n{MASKED}\n#undef V\n#undef R\n#undef I\n#undef NAME" for head in heads
    ]
    return "\n".join([INDEX, *parts])
