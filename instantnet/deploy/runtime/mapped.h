/* A layer as a mapping runs it: every word is moved, level by level, into tile buffers and out again.
 *
 * Dimensions in the order N G K C P Q R S, tensors W I O. The rules are those of docs/hardware.md: a word enters a buffer
 * when the tile before had it not; partial sums that leave go up, those that return come down again.
 */
#ifndef INSTANTNET_MAPPED_H
#define INSTANTNET_MAPPED_H

#include "steps.h"

enum { DIM_N, DIM_G, DIM_K, DIM_C, DIM_P, DIM_Q, DIM_R, DIM_S };
enum { TENSOR_W, TENSOR_I, TENSOR_O };

typedef struct {
    int size[8];
    int stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w, height, width;
} problem;

/* A word: of W its code, of I code - zero, of O the sums A and S. */
typedef struct {
    int64_t a, s;
} word_t;

/* One place in a tile buffer: which word of the tensor it holds, and the last tile that had it. */
typedef struct {
    word_t value;
    int64_t tile;
    int32_t word;
} cell;

/* The outermost level: tensors whole. */
typedef struct {
    const int16_t *weights;
    const code_t *inputs;
    const layer_numbers *numbers;
    int channels;                 /* of the input */
    word_t *sums;
} memory;

typedef struct buffer {
    int tensor, extent[8], places; /* extent: of its tile, in iterations; places: of one instance */
    int box_h, box_w;              /* rows and columns that a tile of inputs spans */
    int per_pe, crossing;          /* an instance in every PE; the network lies between it and its parent */
    cell *cells;
    struct buffer *parent;         /* 0: the outermost level */
    int64_t tile;                  /* tiles so far */
#ifdef COUNT
    int64_t *counters, *above;     /* reads, fills, updates, drains: of this level and of its parent's */
    int64_t *sent;                 /* per word of the tensor, the last tile it was read from the parent for */
    int64_t *joined;               /* [groups][words]: the last tile that a group of PEs adds into */
    uint8_t *seen, *seen_above;    /* [instances][words]: partial sums that were here before */
#endif
} buffer;

/* Coordinates of a word along the five axes of its tensor, and the lists of a tile. */
typedef struct {
    int at[5][INSTANTNET_LONGEST_AXIS], count[5];
} axes;

static const int relevant[3][5] = {{DIM_G, DIM_K, DIM_C, DIM_R, DIM_S}, {DIM_N, DIM_G, DIM_C, -1, -2},
                                   {DIM_N, DIM_G, DIM_K, DIM_P, DIM_Q}};

static inline int axis_size(const problem *p, int tensor, int axis) {
    const int dim = relevant[tensor][axis];
    return dim == -1 ? p->height : dim == -2 ? p->width : p->size[dim];
}

static inline int32_t word_of(const problem *p, int tensor, const int *at) {
    int32_t word = 0;
    for (int i = 0; i < 5; ++i) word = word * axis_size(p, tensor, i) + at[i];
    return word;
}

static inline int words_of(const problem *p, int tensor) {
    int words = 1;
    for (int i = 0; i < 5; ++i) words *= axis_size(p, tensor, i);
    return words;
}

/* Where a buffer keeps a word: coordinates wrap around at the size of a tile. */
static inline cell *place_of(const buffer *b, const problem *p, int pe, const int *at) {
    int place = 0;
    for (int i = 0; i < 5; ++i) {
        const int dim = relevant[b->tensor][i];
        const int extent = dim == -1 ? b->box_h : dim == -2 ? b->box_w : b->extent[dim];
        place = place * extent + (dim == -1 ? at[i] + p->pad_h : dim == -2 ? at[i] + p->pad_w : at[i]) % extent;
    }
    return b->cells + (size_t)(b->per_pe ? pe : 0) * (size_t)b->places + place;
}

/* Input rows (or columns) that a tile needs; those outside the image are made, not moved. */
static inline int positions(int *list, int first, int outputs, int all_outputs, int tap, int taps, int all_taps,
                            int stride, int dilation, int pad, int size) {
    int count = 0;
    for (int p = first; p < first + outputs && p < all_outputs; ++p)
        for (int r = tap; r < tap + taps && r < all_taps; ++r) {
            const int at = p * stride + r * dilation - pad;
            int known = at < 0 || at >= size;
            for (int i = 0; i < count && !known; ++i) known = list[i] == at;
            if (!known) list[count++] = at;
        }
    return count;
}

static inline void axes_of(axes *a, const problem *p, int tensor, const int *origin, const int *extent) {
    for (int i = 0; i < 5; ++i) {
        const int dim = relevant[tensor][i];
        if (dim == -1) {
            a->count[i] = positions(a->at[i], origin[DIM_P], extent[DIM_P], p->size[DIM_P], origin[DIM_R],
                                    extent[DIM_R], p->size[DIM_R], p->stride_h, p->dilation_h, p->pad_h, p->height);
        } else if (dim == -2) {
            a->count[i] = positions(a->at[i], origin[DIM_Q], extent[DIM_Q], p->size[DIM_Q], origin[DIM_S],
                                    extent[DIM_S], p->size[DIM_S], p->stride_w, p->dilation_w, p->pad_w, p->width);
        } else {
            a->count[i] = 0;
            for (int at = origin[dim]; at < origin[dim] + extent[dim] && at < p->size[dim]; ++at)
                a->at[i][a->count[i]++] = at;
        }
    }
}

static inline word_t fetched(const memory *m, const problem *p, int tensor, const int *at) {
    word_t value = {0, 0};
    const int32_t word = word_of(p, tensor, at);
    if (tensor == TENSOR_W) {
        value.a = m->weights[word];
    } else if (tensor == TENSOR_I) {
        const int channel = at[1] * p->size[DIM_C] + at[2];
        value.a = m->inputs[word] - m->numbers->zero[channel * m->numbers->step_zero];
    } else {
        value = m->sums[word];
        m->sums[word].a = m->sums[word].s = 0;
    }
    return value;
}

static inline word_t taken(const buffer *b, const memory *m, const problem *p, int pe, const int *at) {
    if (!b->parent) return fetched(m, p, b->tensor, at);
    cell *above = place_of(b->parent, p, pe, at);
    const word_t value = above->value;
    if (b->tensor == TENSOR_O) above->value.a = above->value.s = 0;
    return value;
}

static inline void returned(const buffer *b, memory *m, const problem *p, int pe, const int *at, word_t value) {
    word_t *above = b->parent ? &place_of(b->parent, p, pe, at)->value : &m->sums[word_of(p, b->tensor, at)];
    above->a += value.a;
    above->s += value.s;
}

static inline void coordinates(const problem *p, int tensor, int32_t word, int *at) {
    for (int i = 4; i >= 0; --i) {
        const int size = axis_size(p, tensor, i);
        at[i] = word % size;
        word /= size;
    }
}

/* Partial sums of an instance go up that are not of tile number `tile`; all of them where whole. */
static inline void send_up(buffer *b, memory *m, const problem *p, int pe, int64_t tile, int whole) {
    cell *cells = b->cells + (size_t)(b->per_pe ? pe : 0) * (size_t)b->places;
    for (int i = 0; i < b->places; ++i)
        if (cells[i].word >= 0 && (whole || cells[i].tile != tile)) {
            int at[5];
            coordinates(p, b->tensor, cells[i].word, at);
            returned(b, m, p, pe, at, cells[i].value);
            cells[i].word = -1;
        }
}

#ifdef COUNT
enum { READS, FILLS, UPDATES, DRAINS };

static inline void count_entry(buffer *b, const problem *p, int pe, int group, int32_t word, int multicast) {
    const size_t words = (size_t)words_of(p, b->tensor);
    const int above_in_pe = b->parent && b->parent->per_pe;
    if (b->tensor != TENSOR_O) {
        ++b->counters[FILLS];
        if (!(b->crossing && multicast) || b->sent[word] != b->tile) ++b->above[READS];
        b->sent[word] = b->tile;
        return;
    }
    uint8_t *here = b->seen + (b->per_pe ? (size_t)pe * words : 0) + (size_t)word;
    b->counters[FILLS] += *here;
    *here = 1;
    if (b->crossing) {  /* PEs whose sums the network adds are one update */
        int64_t *joined = b->joined + (size_t)group * words + (size_t)word;
        if (*joined == b->tile) return;
        *joined = b->tile;
    }
    uint8_t *above = b->seen_above + (above_in_pe ? (size_t)pe * words : 0) + (size_t)word;
    ++b->above[UPDATES];
    b->above[READS] += *above;
    *above = 1;
    ++b->counters[DRAINS];
}
#endif

/* Let partial sums go that the next tile of an instance, at an origin, does not need. Inner levels first: a sum must
 * leave while the level above still has a place for it. */
static inline void leave_one(buffer *b, memory *m, const problem *p, int pe, const int *origin) {
    static axes a;
    int at[5], i[5];
    axes_of(&a, p, b->tensor, origin, b->extent);
    for (i[0] = 0; i[0] < a.count[0]; ++i[0])
        for (i[1] = 0; i[1] < a.count[1]; ++i[1])
            for (i[2] = 0; i[2] < a.count[2]; ++i[2])
                for (i[3] = 0; i[3] < a.count[3]; ++i[3])
                    for (i[4] = 0; i[4] < a.count[4]; ++i[4]) {
                        for (int k = 0; k < 5; ++k) at[k] = a.at[k][i[k]];
                        cell *c = place_of(b, p, pe, at);
                        if (c->word == word_of(p, b->tensor, at) && c->tile == b->tile) c->tile = b->tile + 1;
                    }
    send_up(b, m, p, pe, b->tile + 1, 0);
}

/* The next tile of one instance, at an origin: what the one before had not comes from the level above. */
static inline void enter_one(buffer *b, memory *m, const problem *p, int pe, int group, const int *origin,
                             int multicast) {
    static axes a;
    int at[5], i[5];
    axes_of(&a, p, b->tensor, origin, b->extent);
    (void)group, (void)multicast;
    for (i[0] = 0; i[0] < a.count[0]; ++i[0])
        for (i[1] = 0; i[1] < a.count[1]; ++i[1])
            for (i[2] = 0; i[2] < a.count[2]; ++i[2])
                for (i[3] = 0; i[3] < a.count[3]; ++i[3])
                    for (i[4] = 0; i[4] < a.count[4]; ++i[4]) {
                        for (int k = 0; k < 5; ++k) at[k] = a.at[k][i[k]];
                        cell *c = place_of(b, p, pe, at);
                        const int32_t word = word_of(p, b->tensor, at);
                        if (c->word == word && c->tile >= b->tile - 1) {
                            c->tile = b->tile;
                            continue;
                        }
                        c->value = taken(b, m, p, pe, at);
                        c->word = word;
                        c->tile = b->tile;
#ifdef COUNT
                        count_entry(b, p, pe, group, word, multicast);
#endif
                    }
}

#ifdef COUNT
static inline void forget(void *counts, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) ((unsigned char *)counts)[i] = 0;
}
#endif

static inline void start(buffer *b, int instances) {
    b->tile = 0;
    for (int i = 0; i < b->places * instances; ++i) {
        b->cells[i].word = -1;
        b->cells[i].tile = -2;
    }
}

/* A layer with the loops of a mapping; weights, sums: room for all of the layer's. */
static inline void mapped_layer(const layer_shape *s, const layer_numbers *n, void (*loops)(memory *), int16_t *weights,
                                word_t *sums, const code_t *x, code_t *codes, int32_t *wide) {
    const int count = s->out_channels * (s->in_channels / s->groups) * s->rows * s->columns;
    const int outputs = s->out_channels * s->out_height * s->out_width;
    memory m = {weights, x, n, s->in_channels, sums};
    load_weights(n, 0, count, weights);
    for (int i = 0; i < outputs; ++i) sums[i].a = sums[i].s = 0;
    loops(&m);
    for (int k = 0, i = 0; k < s->out_channels; ++k)
        for (int p = 0; p < s->out_height; ++p)
            for (int q = 0; q < s->out_width; ++q, ++i) finish(s, n, k, p, q, sums[i].a, sums[i].s, codes, wide);
}

/* A word as a MAC reads it: from a buffer, or where that is 0 from the outermost level. */
static inline int64_t operand(const buffer *b, const memory *m, const problem *p, int tensor, int pe, const int *at) {
    return b ? place_of(b, p, pe, at)->value.a : fetched(m, p, tensor, at).a;
}

#ifdef COUNT
/* Counting of operands: of one level and tensor. used: [keys][words], the last step that a key used a word. */
typedef struct {
    int64_t *counters, *used;
    uint8_t *seen;
} operand_count;

static inline void count_operand(operand_count *n, int tensor, int words, int key, int instance, int32_t word,
                                 int64_t step) {
    int64_t *used = n->used + (size_t)key * (size_t)words + (size_t)word;
    if (*used == step) return;
    *used = step;
    if (tensor != TENSOR_O) {
        ++n->counters[READS];
        return;
    }
    uint8_t *seen = n->seen + (size_t)instance * (size_t)words + (size_t)word;
    ++n->counters[UPDATES];
    n->counters[READS] += *seen;
    *seen = 1;
}
#endif

#endif
