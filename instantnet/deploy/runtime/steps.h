/* The steps of an integer network, in C99: what instantnet.c calls. No allocation, no library.
 *
 * Values of one image: [channels][height][width], features [channels][1][1]. The steps and their numbers are those of
 * instantnet/deploy/program.py, and every result is bit for bit that of its NumPy form.
 */
#ifndef INSTANTNET_STEPS_H
#define INSTANTNET_STEPS_H

#include <stddef.h>
#include <stdint.h>

#if INSTANTNET_WIDEST <= 8
typedef uint8_t code_t;
#else
typedef uint16_t code_t;
#endif

/* Sizes of a layer. A linear layer is a 1x1 convolution of one pixel. */
typedef struct {
    int in_channels, in_height, in_width, out_channels, out_height, out_width;
    int groups, rows, columns;                            /* of the kernel */
    int stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
    const uint8_t *row_class, *column_class;              /* [out_height], [out_width] */
    int column_classes;
} layer_shape;

/* Numbers of a layer at one bit-width. A step_.. of 0 means one number for all channels. */
typedef struct {
    const void *weight;
    int weight_kind;                                      /* 4: two to a byte, 8: int8_t, 16: int16_t */
    int weight_drop;                                      /* bits to cut off: nested weights at a lower bit-width */
    const int32_t *multiplier, *second;                   /* second may be 0: no real offset */
    const int64_t *addend;                                /* [row classes][column classes][out_channels] */
    const uint8_t *shift;
    const int32_t *zero, *low, *high;
    int step_zero, step_clamp, is_long;
} layer_numbers;

typedef struct {
    const float *scale, *offset;
    const int32_t *zero;
    int step;
    int32_t top;
} quantize_numbers;

typedef struct {
    const int32_t *multiplier;
    const int64_t *addend;
    const uint8_t *shift;
    int step;
    int32_t high;
} requantize_numbers;

typedef struct {
    const float *gain, *bias;
} float_numbers;

typedef struct {
    int32_t low, high;
} clamp_numbers;

typedef struct {
    int channels, in_height, in_width, out_height, out_width, rows, columns, stride_h, stride_w, pad_h, pad_w;
} pool_shape;

/* Floor of value / 2^shift; >> of a negative number is not defined by C99. */
static inline int64_t shifted(int64_t value, int shift) {
    return value >= 0 ? value >> shift : ~(~value >> shift);
}

static inline int64_t clamped(int64_t value, int64_t low, int64_t high) {
    return value < low ? low : value > high ? high : value;
}

/* Round half to even, without a library. */
static inline float nearest(float x) {
    const float whole = 8388608.0f;                       /* from here on every float is a whole number */
    if (!(x < whole && x > -whole)) return x;
    return x >= 0 ? (x + whole) - whole : (x - whole) + whole;
}

/* Weights of output channel k as int16_t: nibbles and nested codes are taken apart once per channel. */
static inline void load_weights(const layer_numbers *n, size_t first, int count, int16_t *row) {
    for (int i = 0; i < count; ++i) {
        const size_t at = first + (size_t)i;
        int32_t w;
        if (n->weight_kind == 4) {
            const int32_t half = ((const uint8_t *)n->weight)[at / 2] >> (at % 2 ? 4 : 0) & 15;
            w = half > 7 ? half - 16 : half;
        } else if (n->weight_kind == 8) {
            w = ((const int8_t *)n->weight)[at];
        } else {
            w = ((const int16_t *)n->weight)[at];
        }
        if (n->weight_drop) w = (int32_t)shifted(w, n->weight_drop);
        row[i] = (int16_t)w;
    }
}

/* One output channel of a layer, from A and S of every pixel. SUM is the type that holds them. */
#define CHANNEL(NAME, SUM)                                                                                      \
    static inline void NAME(const layer_shape *s, const layer_numbers *n, const int16_t *row, const code_t *x, \
                            int k, int has_second, code_t *codes, int32_t *wide) {                              \
        const int inside = s->in_channels / s->groups, first = k / (s->out_channels / s->groups) * inside;      \
        for (int p = 0; p < s->out_height; ++p)                                                                 \
            for (int q = 0; q < s->out_width; ++q) {                                                            \
                SUM a = 0, sum = 0;                                                                             \
                for (int c = 0; c < inside; ++c) {                                                              \
                    const int32_t zero = n->zero[(first + c) * n->step_zero];                                   \
                    for (int r = 0; r < s->rows; ++r) {                                                         \
                        const int h = p * s->stride_h - s->pad_h + r * s->dilation_h;                           \
                        if (h < 0 || h >= s->in_height) continue;                                               \
                        for (int t = 0; t < s->columns; ++t) {                                                  \
                            const int w = q * s->stride_w - s->pad_w + t * s->dilation_w;                       \
                            if (w < 0 || w >= s->in_width) continue;                                            \
                            const int32_t v = x[((first + c) * s->in_height + h) * s->in_width + w] - zero;     \
                            a += (SUM)row[(c * s->rows + r) * s->columns + t] * v;                              \
                            if (has_second) sum += v;                                                           \
                        }                                                                                       \
                    }                                                                                           \
                }                                                                                               \
                finish(s, n, k, p, q, a, sum, codes, wide);                                                     \
            }                                                                                                   \
    }

/* The value of a pixel from A and S, as codes or wide. */
static inline void finish(const layer_shape *s, const layer_numbers *n, int k, int p, int q, int64_t a, int64_t sum,
                          code_t *codes, int32_t *wide) {
    const int place = s->row_class[p] * s->column_classes + s->column_class[q];
    int64_t value = a * n->multiplier[k] + n->addend[(size_t)place * (size_t)s->out_channels + (size_t)k];
    if (n->second) value += sum * n->second[k];
    value = clamped(shifted(value, n->shift[k]), n->low[k * n->step_clamp], n->high[k * n->step_clamp]);
    const int at = (k * s->out_height + p) * s->out_width + q;
    if (codes) codes[at] = (code_t)value;
    else wide[at] = (int32_t)value;
}

CHANNEL(channel_of_32, int32_t)
CHANNEL(channel_of_64, int64_t)

/* conv and linear: to codes, or where that is 0 to wide. row: room for the weights of one output channel. */
static inline void layer(const layer_shape *s, const layer_numbers *n, int16_t *row, const code_t *x, code_t *codes,
                         int32_t *wide) {
    const int taps = s->in_channels / s->groups * s->rows * s->columns;
    for (int k = 0; k < s->out_channels; ++k) {
        load_weights(n, (size_t)k * (size_t)taps, taps, row);
        if (n->is_long) channel_of_64(s, n, row, x, k, n->second != 0, codes, wide);
        else channel_of_32(s, n, row, x, k, n->second != 0, codes, wide);
    }
}

static inline void quantize(const quantize_numbers *n, int channels, int pixels, const float *x, code_t *codes) {
    for (int c = 0; c < channels; ++c) {
        const float scale = n->scale[c * n->step], offset = n->offset[c * n->step];
        for (int i = c * pixels; i < (c + 1) * pixels; ++i) {
            const float steps = (x[i] - offset) / (scale > 0 ? scale : 1.0f), limit = 1048576.0f;
            const float whole = steps > limit ? limit : steps > -limit ? nearest(steps) : -limit;
            codes[i] = (code_t)clamped((int64_t)whole + n->zero[c * n->step], 0, n->top);
        }
    }
}

static inline void requantize(const requantize_numbers *n, int channels, int pixels, const int32_t *x, code_t *codes) {
    for (int c = 0; c < channels; ++c) {
        const int at = c * n->step;
        for (int i = c * pixels; i < (c + 1) * pixels; ++i)
            codes[i] = (code_t)clamped(shifted((int64_t)x[i] * n->multiplier[at] + n->addend[at], n->shift[at]), 0,
                                       n->high);
    }
}

static inline void to_wide(float unit, int count, const float *x, int32_t *wide) {
    const float most = 1073741824.0f;
    for (int i = 0; i < count; ++i) {
        const float whole = nearest(x[i] * unit);
        wide[i] = (int32_t)(whole > most ? most : whole > -most ? whole : -most);
    }
}

static inline void to_float(float unit, int count, const int32_t *x, float *y) {
    for (int i = 0; i < count; ++i) y[i] = (float)x[i] * unit;
}

/* The order of a sum is that of the NumPy form: channels, rows, columns. Compile with -ffp-contract=off. */
static inline void float_layer(const layer_shape *s, const float *weight, const float_numbers *n, float low, float high,
                               const float *x, float *y) {
    const int inside = s->in_channels / s->groups, taps = inside * s->rows * s->columns;
    for (int k = 0; k < s->out_channels; ++k) {
        const int first = k / (s->out_channels / s->groups) * inside;
        const float *row = weight + (size_t)k * (size_t)taps;
        for (int p = 0; p < s->out_height; ++p)
            for (int q = 0; q < s->out_width; ++q) {
                float sum = 0;
                for (int c = 0; c < inside; ++c)
                    for (int r = 0; r < s->rows; ++r) {
                        const int h = p * s->stride_h - s->pad_h + r * s->dilation_h;
                        if (h < 0 || h >= s->in_height) continue;
                        for (int t = 0; t < s->columns; ++t) {
                            const int w = q * s->stride_w - s->pad_w + t * s->dilation_w;
                            if (w < 0 || w >= s->in_width) continue;
                            const float product = x[((first + c) * s->in_height + h) * s->in_width + w] *
                                                  row[(c * s->rows + r) * s->columns + t];
                            sum += product;
                        }
                    }
                const float scaled = sum * n->gain[k], value = scaled + n->bias[k];
                y[(k * s->out_height + p) * s->out_width + q] = value < low ? low : value > high ? high : value;
            }
    }
}

static inline void add_wide(const clamp_numbers *n, int count, const int32_t *x, const int32_t *z, int32_t *y) {
    for (int i = 0; i < count; ++i) y[i] = (int32_t)clamped((int64_t)x[i] + z[i], n->low, n->high);
}

static inline void clamp_wide(const clamp_numbers *n, int count, const int32_t *x, int32_t *y) {
    for (int i = 0; i < count; ++i) y[i] = (int32_t)clamped(x[i], n->low, n->high);
}

static inline void add_float(float low, float high, int count, const float *x, const float *z, float *y) {
    for (int i = 0; i < count; ++i) {
        const float sum = x[i] + z[i];
        y[i] = sum < low ? low : sum > high ? high : sum;
    }
}

static inline void clamp_float(float low, float high, int count, const float *x, float *y) {
    for (int i = 0; i < count; ++i) y[i] = x[i] < low ? low : x[i] > high ? high : x[i];
}

static inline void avg_pool_wide(const pool_shape *s, const requantize_numbers *n, const int32_t *x, int32_t *y) {
    for (int c = 0; c < s->channels; ++c)
        for (int p = 0; p < s->out_height; ++p)
            for (int q = 0; q < s->out_width; ++q) {
                int64_t sum = 0;
                for (int r = 0; r < s->rows; ++r)
                    for (int t = 0; t < s->columns; ++t)
                        sum += x[(c * s->in_height + p * s->stride_h + r) * s->in_width + q * s->stride_w + t];
                y[(c * s->out_height + p) * s->out_width + q] =
                    (int32_t)shifted(sum * n->multiplier[0] + n->addend[0], n->shift[0]);
            }
}

static inline void avg_pool_float(const pool_shape *s, const float *x, float *y) {
    for (int c = 0; c < s->channels; ++c)
        for (int p = 0; p < s->out_height; ++p)
            for (int q = 0; q < s->out_width; ++q) {
                float sum = 0;
                for (int r = 0; r < s->rows; ++r)
                    for (int t = 0; t < s->columns; ++t)
                        sum += x[(c * s->in_height + p * s->stride_h + r) * s->in_width + q * s->stride_w + t];
                y[(c * s->out_height + p) * s->out_width + q] = sum / (float)(s->rows * s->columns);
            }
}

/* Steps that move elements, for each kind of value. A window of max_pool always holds a real pixel. */
#define MOVES(KIND, TYPE)                                                                                       \
    static inline void max_pool_##KIND(const pool_shape *s, const TYPE *x, TYPE *y) {                           \
        for (int c = 0; c < s->channels; ++c)                                                                   \
            for (int p = 0; p < s->out_height; ++p)                                                             \
                for (int q = 0; q < s->out_width; ++q) {                                                        \
                    int found = 0;                                                                              \
                    TYPE most = 0;                                                                              \
                    for (int r = 0; r < s->rows; ++r)                                                           \
                        for (int t = 0; t < s->columns; ++t) {                                                  \
                            const int h = p * s->stride_h - s->pad_h + r, w = q * s->stride_w - s->pad_w + t;   \
                            if (h < 0 || h >= s->in_height || w < 0 || w >= s->in_width) continue;              \
                            const TYPE v = x[(c * s->in_height + h) * s->in_width + w];                         \
                            if (!found || v > most) most = v;                                                   \
                            found = 1;                                                                          \
                        }                                                                                       \
                    y[(c * s->out_height + p) * s->out_width + q] = most;                                       \
                }                                                                                               \
    }                                                                                                           \
    static inline void shuffle_##KIND(int channels, int pixels, int groups, const TYPE *x, TYPE *y) {           \
        const int inside = channels / groups;                                                                   \
        for (int c = 0; c < channels; ++c)                                                                      \
            for (int i = 0; i < pixels; ++i)                                                                    \
                y[(c % inside * groups + c / inside) * pixels + i] = x[c * pixels + i];                         \
    }                                                                                                           \
    static inline void subsample_##KIND(const pool_shape *s, const TYPE *x, TYPE *y) {                          \
        for (int c = 0; c < s->channels; ++c)                                                                   \
            for (int p = 0; p < s->out_height; ++p)                                                             \
                for (int q = 0; q < s->out_width; ++q)                                                          \
                    y[(c * s->out_height + p) * s->out_width + q] =                                             \
                        x[(c * s->in_height + p * s->stride_h) * s->in_width + q * s->stride_w];                \
    }                                                                                                           \
    static inline void pad_channels_##KIND(int channels, int pixels, int before, int after, const TYPE *x,      \
                                           TYPE *y) {                                                           \
        for (int i = 0; i < before * pixels; ++i) y[i] = 0;                                                     \
        for (int i = 0; i < channels * pixels; ++i) y[before * pixels + i] = x[i];                              \
        for (int i = 0; i < after * pixels; ++i) y[(before + channels) * pixels + i] = 0;                       \
    }

MOVES(codes, code_t)
MOVES(wide, int32_t)
MOVES(float, float)

#endif
