"""The event path in C: bits counted, found, sorted and turned."""

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

/* how many bits are set in `size` bytes */
int64_t count(const uint8_t *bits, int64_t size) {
    int64_t total = 0, at = 0;
    uint64_t w;
    for (; at + 8 <= size; at += 8) memcpy(&w, bits + at, 8), total += __builtin_popcountll(w);
    return at < size ? total + __builtin_popcountll(word(bits, 8 * at, 8 * size)) : total;
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

/* rows of 64 bits turned into columns, by swapping ever smaller squares */
static void turn_square(uint64_t *w) {
    uint64_t mask = UINT64_C(0xffffffff);
    for (int half = 32; half; half >>= 1, mask ^= mask << half)
        for (int block = 0; block < 64; block += 2 * half)
            for (int i = block; i < block + half; i++) {
                uint64_t swap = ((w[i] >> half) ^ w[i + half]) & mask;
                w[i] ^= swap << half, w[i + half] ^= swap;
            }
}

/* bits [samples, channels, plane] as [samples, plane, channels]: channels in whole bytes */
void flip(const uint8_t *bits, int64_t samples, int64_t channels, int64_t plane, uint8_t *out) {
    for (int64_t s = 0; s < samples; s++)
        for (int64_t p = 0; p < plane; p += 64)
            for (int64_t c = 0; c < channels; c += 64) {
                int64_t wide = plane - p < 64 ? plane - p : 64;
                int64_t high = channels - c < 64 ? channels - c : 64;
                uint64_t w[64] = {0};
                for (int64_t i = 0; i < high; i++) {
                    int64_t at = (s * channels + c + i) * plane + p;
                    if (at % 8 || wide < 64) w[i] = bits_at(bits, at, wide);
                    else memcpy(w + i, bits + at / 8, 8);
                }
                turn_square(w);
                for (int64_t i = 0; i < wide; i++)
                    memcpy(out + ((s * plane + p + i) * channels + c) / 8, w + i, high / 8);
            }
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
