// Training on a CPU: the quantizer, range and rounding in one pass over memory each, and a ConvBlock of operations.py
// up to its last batch norm, in three stages forward and three backward. library.py compiles and calls it; it includes
// no header of torch.
//
// A block is cut where batch norm needs sums over the whole batch: expansion | norm, ReLU, rounding, depth-wise
// convolution | norm, ReLU, rounding, projection. A stage reads what the one before left unnormalised, brings a strip
// of it through norm and rounding in a scratch that stays in the core's cache, and takes the statistics of its result
// before that leaves the cache. Backward makes the rounded numbers again, so only y1 and y2 are kept.
//
// Tensors are float32 without gaps, channels_last: x [pixels, C_in]; y1 [pixels, C] behind the expansion; y2 [pixels at
// the stride, C] behind the depth-wise convolution; y3 [.., C_out] behind the projection. g3, g2, g1: the gradients of
// y3 and of what the norms of y2 and y1 put out. Rows of matrices are padded with zeros to whole vectors.
//
// Multiplications and additions may be contracted to fused ones (library.py asks for it), but not where a tensor is
// rounded by itself: `round_row` repeats quantizers/minmax.py bit for bit.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <thread>
#include <type_traits>
#include <vector>

namespace {

using Size = std::int64_t;
using Floats = std::vector<float>;
constexpr float INF = std::numeric_limits<float>::infinity();
constexpr float ROUNDER = 12582912;  // 1.5 * 2^23: adding and subtracting it rounds half to even, exactly below 2^22

#ifdef __AVX512F__
constexpr int LANES = 16, TILE_VECTORS = 3;
#else
constexpr int LANES = 8, TILE_VECTORS = 2;
#endif
constexpr int TILE_ROWS = 6;         // sums of a tile fill the vector registers but for a few
constexpr Size SCRATCH = Size(1) << 15;  // numbers of a strip

// N numbers in a register (or several), wherever they lie.
template <int N> struct VectorOf {
    typedef float type __attribute__((vector_size(N * sizeof(float)), aligned(4), may_alias));
};
template <int N> using Vector = typename VectorOf<N>::type;

template <int N> inline Vector<N> load(const float* from) { return *reinterpret_cast<const Vector<N>*>(from); }
template <int N> inline void store(float* to, Vector<N> values) { *reinterpret_cast<Vector<N>*>(to) = values; }

Size padded(Size columns) { return (columns + LANES - 1) / LANES * LANES; }

Size strip_rows(Size columns) { return std::max<Size>(1, SCRATCH / padded(columns) / TILE_ROWS) * TILE_ROWS; }

// body(first, last, thread) on each thread's share of 0..count-1.
template <class Body> void in_parallel(Size threads, Size count, Body body) {
    Size share = (count + threads - 1) / threads;
    std::vector<std::thread> others;
    for (Size t = 1; t < threads; t++)
        others.emplace_back(body, std::min(count, t * share), std::min(count, (t + 1) * share), t);
    body(Size(0), std::min(count, share), Size(0));
    for (auto& thread : others) thread.join();
}

// rows of so many numbers each, which begin so far apart.
void copy_rows(const float* from, Size from_step, float* to, Size to_step, Size rows, Size columns) {
    for (Size row = 0; row < rows; row++)
        std::copy(from + row * from_step, from + row * from_step + columns, to + row * to_step);
}

// body(first row, rows) on strips of first..last-1.
template <class Body> void in_strips(Size first, Size last, Size columns, Body body) {
    Size most = strip_rows(columns);
    for (Size row = first; row < last; row += most) body(row, std::min(most, last - row));
}

// body(first column, number of columns), the number a constant: the compiler makes vectors of it.
template <class Body> void in_lanes(Size columns, Body body) {
    Size c = 0;
    for (; c + 16 <= columns; c += 16) body(c, std::integral_constant<int, 16>{});
    for (; c + 8 <= columns; c += 8) body(c, std::integral_constant<int, 8>{});
    for (; c < columns; c++) body(c, std::integral_constant<int, 1>{});
}

inline float least(float a, float b) { return a < b ? a : b; }
inline float greatest(float a, float b) { return a > b ? a : b; }

// ---------------------------------------------------------------------------------------------------- rounding

// What rounding to levels + 1 values over low..high needs, a vector of columns each. levels 0: no rounding.
struct Grid {
    Floats low, scale, divisor;
    float levels;

    Grid(const float* low_, const float* high, Size bounds, Size columns, float levels_)
        : low(columns), scale(columns), divisor(columns, 1), levels(levels_) {
        for (Size c = 0; c < columns && levels > 0; c++) {
            Size i = bounds == 1 ? 0 : c;
            low[c] = low_[i];
            scale[c] = (high[i] - low_[i]) / levels;
            divisor[c] = scale[c] > 0 ? scale[c] : 1;
        }
    }
};

inline float code(float x, float low, float divisor, float levels) {
    float value = (x - low) / divisor;
    value = value < 0 ? 0 : value;  // written so that NaN passes
    return std::rint(value > levels ? levels : value);
}

// In two loops, so that the product and the sum are rounded each.
void round_row(const float* __restrict x, float* __restrict out, Size columns, const float* __restrict low,
               const float* __restrict scale, const float* __restrict divisor, float levels) {
    for (Size c = 0; c < columns; c++) out[c] = code(x[c], low[c], divisor[c], levels) * scale[c];
    for (Size c = 0; c < columns; c++) out[c] += low[c];
}

// ---------------------------------------------------------------------------------------------------- batch norm

// Statistics of one column: count, mean and sum of squared deviations, merged as Chan et al. 1983 do; least, greatest.
struct Moments {
    double count = 0, mean = 0, squares = 0;
    float low = INF, high = -INF;

    void merge(const Moments& other) {
        if (other.count == 0) return;
        double total = count + other.count, delta = other.mean - mean;
        mean += delta * other.count / total;
        squares += other.squares + delta * delta * count * other.count / total;
        count = total;
        low = least(other.low, low), high = greatest(other.high, high);
    }
};

constexpr Size BLOCK = 32;

// Merge those of x [rows, columns], whose rows begin `step` apart and which is in the cache.
void add_moments(const float* x, Size rows, Size step, Size columns, Moments* moments) {
    in_lanes(columns, [&](Size c0, auto n) {
        Vector<n> sums = {}, squares = {}, low = sums + INF, high = sums - INF;
        for (Size start = 0; start < rows; start += BLOCK) {  // sums of sums: long ones lose digits
            Vector<n> part = {};
            for (Size row = start; row < std::min(rows, start + BLOCK); row++) {
                Vector<n> v = load<n>(x + row * step + c0);
                part += v;
                low = v < low ? v : low;
                high = v > high ? v : high;
            }
            sums += part;
        }
        Vector<n> means = sums / float(rows);
        for (Size start = 0; start < rows; start += BLOCK) {
            Vector<n> part = {};
            for (Size row = start; row < std::min(rows, start + BLOCK); row++) {
                Vector<n> d = load<n>(x + row * step + c0) - means;
                part += d * d;
            }
            squares += part;
        }
        for (int c = 0; c < n; c++) moments[c0 + c].merge({double(rows), means[c], squares[c], low[c], high[c]});
    });
}

// A batch norm as the caller holds it. momentum 0: its running statistics stay. table [6, columns]: mean, 1 / std, a
// and b with norm(y) = y * a + b, and the least and greatest relu(norm(y)): they follow from those of y, as norm and
// ReLU are monotone.
struct Norm {
    const float *gamma, *beta;
    double eps, momentum;
    float *running_mean, *running_var, *table;
};

void finish(const Norm& norm, const std::vector<Moments>& parts, Size threads, Size columns) {
    for (Size c = 0; c < columns; c++) {
        Moments all = parts[c];
        for (Size t = 1; t < threads; t++) all.merge(parts[t * columns + c]);
        float inverse = float(1 / std::sqrt(all.squares / all.count + norm.eps));
        float a = inverse * norm.gamma[c], b = norm.beta[c] - float(all.mean) * a;
        float low = (a < 0 ? all.high : all.low) * a + b, high = (a < 0 ? all.low : all.high) * a + b;
        float row[6] = {float(all.mean), inverse, a, b, low < 0 ? 0 : low, high < 0 ? 0 : high};
        for (int i = 0; i < 6; i++) norm.table[i * columns + c] = row[i];
        if (norm.momentum > 0) {
            norm.running_mean[c] += float(norm.momentum * (all.mean - norm.running_mean[c]));
            norm.running_var[c] += float(norm.momentum * (all.squares / (all.count - 1) - norm.running_var[c]));
        }
    }
}

// Brings unnormalised numbers through norm, ReLU and rounding, and gradients back.
struct Activation {
    const float *mean, *a, *b;
    Grid grid;

    Activation(const float* table, const float* low, const float* high, Size bounds, float levels, Size columns)
        : mean(table), a(table + 2 * columns), b(table + 3 * columns), grid(low, high, bounds, columns, levels) {}

    // out = relu(norm(y)), rounded, for N columns from c0 on of rows that begin so far apart.
    template <int N> void forward(const float* y, Size y_step, float* out, Size out_step, Size rows, Size c0) const {
        const Vector<N> zero = {}, A = load<N>(a + c0), B = load<N>(b + c0);
        const Vector<N> low = load<N>(&grid.low[c0]), scale = load<N>(&grid.scale[c0]);
        const Vector<N> divisor = load<N>(&grid.divisor[c0]), levels = zero + grid.levels;
        for (Size row = 0; row < rows; row++) {
            Vector<N> value = load<N>(y + row * y_step) * A + B;
            value = value < zero ? zero : value;  // written so that NaN passes
            if (grid.levels > 0) {
                value = (value - low) / divisor;
                value = value < zero ? zero : value;
                value = value > levels ? levels : value;
                value = ((value + ROUNDER) - ROUNDER) * scale + low;
            }
            store<N>(out + row * out_step, value);
        }
    }
};

// Out of the sums of g, the gradient of what the norm put out, and of g * (y - mean), one row a thread: the gradients
// of gamma and beta [2, columns], and slope, offset with the gradient of y = a * g + slope * y + offset.
struct NormGradient {
    Floats slope, offset;
    const float* a;

    NormGradient(const float* table, const double* sums, const double* products, Size rows, Size columns,
                 Size threads, float* to_affine)
        : slope(columns), offset(columns), a(table + 2 * columns) {
        const float *mean = table, *inverse = table + columns;
        for (Size c = 0; c < columns; c++) {
            double sum = 0, product = 0;
            for (Size t = 0; t < threads; t++) sum += sums[t * columns + c], product += products[t * columns + c];
            product *= inverse[c];
            to_affine[c] = float(product);
            to_affine[columns + c] = float(sum);
            double s = -double(a[c]) * inverse[c] * product / double(rows);
            slope[c] = float(s);
            offset[c] = float(-a[c] * sum / double(rows) - s * mean[c]);
        }
    }
};

// out = the gradient of y, from that of norm(y), for N columns of rows that begin so far apart.
template <int N>
void norm_backward(const NormGradient& norm, const float* y, const float* g, Size step, float* out, Size out_step,
                   Size rows, Size c0) {
    const Vector<N> a = load<N>(norm.a + c0), slope = load<N>(&norm.slope[c0]), offset = load<N>(&norm.offset[c0]);
    for (Size row = 0; row < rows; row++)
        store<N>(out + row * out_step, a * load<N>(g + row * step) + (slope * load<N>(y + row * step) + offset));
}

// ---------------------------------------------------------------------------------------------------- matrices

// c [ROWS, VECTORS * LANES] = or += a [ROWS, depth] b [depth, ..]; steps between rows, those of a freely.
template <int ROWS, int VECTORS>
void tile(const float* a, Size a_row, Size a_step, const float* b, Size b_row, float* c, Size c_row, Size depth,
          bool add) {
    Vector<LANES> sums[ROWS][VECTORS] = {};
    for (Size d = 0; d < depth; d++) {
        Vector<LANES> right[VECTORS];
        for (int v = 0; v < VECTORS; v++) right[v] = load<LANES>(b + d * b_row + v * LANES);
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 3
            for (int v = 0; v < VECTORS; v++) sums[r][v] += right[v] * a[r * a_row + d * a_step];
    }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) {
            float* place = c + r * c_row + v * LANES;
            store<LANES>(place, add ? load<LANES>(place) + sums[r][v] : sums[r][v]);
        }
}

template <int VECTORS>
void tile_column(const float* a, Size a_row, Size a_step, const float* b, Size b_row, float* c, Size c_row, Size rows,
                 Size depth, bool add) {
    Size r = 0;
    for (; r + TILE_ROWS <= rows; r += TILE_ROWS)
        tile<TILE_ROWS, VECTORS>(a + r * a_row, a_row, a_step, b, b_row, c + r * c_row, c_row, depth, add);
    for (; r < rows; r++) tile<1, VECTORS>(a + r * a_row, a_row, a_step, b, b_row, c + r * c_row, c_row, depth, add);
}

// c [rows, columns] = or += a [rows, depth] b [depth, columns]: columns whole vectors, b_row and c_row apart.
void multiply(const float* a, Size a_row, Size a_step, const float* b, float* c, Size columns, Size rows, Size depth,
              bool add = false) {
    Size left = columns / LANES;
    for (Size v = 0; left > 0;) {
        Size here = std::min<Size>(left, TILE_VECTORS);
        const float* right = b + v * LANES;
        float* to = c + v * LANES;
        if (here == 3) tile_column<3>(a, a_row, a_step, right, columns, to, columns, rows, depth, add);
        if (here == 2) tile_column<2>(a, a_row, a_step, right, columns, to, columns, rows, depth, add);
        if (here == 1) tile_column<1>(a, a_row, a_step, right, columns, to, columns, rows, depth, add);
        v += here, left -= here;
    }
}

// Sum the threads' parts of a gradient.
void join(const std::vector<Floats>& parts, float* out) {
    std::copy(parts[0].begin(), parts[0].end(), out);
    for (size_t t = 1; t < parts.size(); t++)
        for (size_t i = 0; i < parts[t].size(); i++) out[i] += parts[t][i];
}

// ---------------------------------------------------------------------------------------------------- depth-wise

template <class Body> void with_taps(Size taps, Body body) {
    if (taps == 3) body(std::integral_constant<int, 3>{});
    if (taps == 5) body(std::integral_constant<int, 5>{});
}

// A depth-wise convolution, T x T taps, padded by T / 2, of one image and N channels from c0 on. Between the functions
// are strips [height + T - 1, width + T - 1, N] with zeros around the image.
struct Depthwise {
    Size height, width, channels, stride;

    Size out_height() const { return (height - 1) / stride + 1; }
    Size out_width() const { return (width - 1) / stride + 1; }
    Size pixels() const { return height * width; }
    Size out_pixels() const { return out_height() * out_width(); }
    template <int T> Size strip_size() const { return (height + T - 1) * (width + T - 1) * 16; }

    // strip = relu(norm(y)), rounded.
    template <int T, int N> void activate(const float* y, const Activation& activation, Size c0, float* strip) const {
        Size row = (width + T - 1) * N;
        std::fill(strip, strip + (height + T - 1) * row, 0.0f);
        for (Size line = 0; line < height; line++)
            activation.forward<N>(y + line * width * channels + c0, channels,
                                  strip + (line + T / 2) * row + T / 2 * N, N, width, c0);
    }

    // strip = the gradient of the output y behind its batch norm, at the pixels that the stride takes; zeros elsewhere.
    template <int T, int N>
    void spread(const float* y, const float* g, const NormGradient& norm, Size c0, float* strip) const {
        Size row = (width + T - 1) * N;
        std::fill(strip, strip + (height + T - 1) * row, 0.0f);
        for (Size line = 0; line < out_height(); line++) {
            Size at = line * out_width() * channels + c0;
            norm_backward<N>(norm, y + at, g + at, channels, strip + (line * stride + T / 2) * row + T / 2 * N,
                             stride * N, out_width(), c0);
        }
    }

    // out [pixels, N] = the taps of every step-th pixel times weight [T * T, N].
    template <int T, int N> void correlate(const float* strip, const float* weight, Size step, float* out) const {
        Size row = (width + T - 1) * N;
        for (Size line = 0; line < height; line += step)
            for (Size i = 0; i < width; i += step) {
                const float* v = strip + line * row + i * N;
                Vector<N> sums[T] = {};  // one for each row of taps, so that they need not wait for each other
#pragma GCC unroll 5
                for (int q = 0; q < T; q++)
#pragma GCC unroll 5
                    for (int p = 0; p < T; p++)
                        sums[p] += load<N>(v + p * row + q * N) * load<N>(weight + (p * T + q) * N);
#pragma GCC unroll 5
                for (int p = 1; p < T; p++) sums[0] += sums[p];
                store<N>(out, sums[0]);
                out += N;
            }
    }

    // Added to sums [T * T, channels]: the gradient of the weights.
    template <int T, int N>
    void weight_gradient(const float* strip, const float* gradient, Size c0, float* sums) const {
        Vector<N> w[T * T] = {};
        Size row = (width + T - 1) * N;
        for (Size line = 0; line < height; line += stride)
            for (Size i = 0; i < width; i += stride) {
                const float* v = strip + line * row + i * N;
                Vector<N> g = load<N>(gradient + (line + T / 2) * row + (i + T / 2) * N);
#pragma GCC unroll 5
                for (int p = 0; p < T; p++)
#pragma GCC unroll 5
                    for (int q = 0; q < T; q++) w[p * T + q] += load<N>(v + p * row + q * N) * g;
            }
        for (int t = 0; t < T * T; t++)
            for (int c = 0; c < N; c++) sums[t * channels + c0 + c] += w[t][c];
    }
};

// to = g where relu(norm(y)) let it pass; sums of to and of to * (y - mean) in float64, over rows `step` apart.
template <int N>
void relu_backward(const float* y, Size y_step, const float* g, Size g_step, float* to, Size to_step, Size rows,
                   const Activation& activation, Size c0, double* sums, double* products) {
    const Vector<N> zero = {}, a = load<N>(activation.a + c0), b = load<N>(activation.b + c0);
    const Vector<N> mean = load<N>(activation.mean + c0);
    Vector<N> s = {}, p = {};
    for (Size row = 0; row < rows; row++) {
        Vector<N> v = load<N>(y + row * y_step), through = v * a + b > zero ? load<N>(g + row * g_step) : zero;
        s += through;
        p += through * (v - mean);
        store<N>(to + row * to_step, through);
    }
    for (int c = 0; c < N; c++) sums[c0 + c] += s[c], products[c0 + c] += p[c];
}

}  // namespace

extern "C" {

// Numbers in a vector: what rows of matrices are padded to.
int lanes() { return LANES; }

// low, high [columns] of x [rows, columns].
void range_of_columns(const float* x, Size rows, Size columns, float* low, float* high, Size threads) {
    Floats lows(threads * columns, INF), highs(threads * columns, -INF);
    in_parallel(threads, rows, [&](Size first, Size last, Size t) {
        in_strips(first, last, columns, [&](Size start, Size count) {
            in_lanes(columns, [&](Size c0, auto n) {
                float *lo = &lows[t * columns + c0], *hi = &highs[t * columns + c0];
                Vector<n> l = load<n>(lo), h = load<n>(hi);
                for (Size row = start; row < start + count; row++) {
                    Vector<n> v = load<n>(x + row * columns + c0);
                    l = v < l ? v : l;
                    h = v > h ? v : h;
                }
                store<n>(lo, l);
                store<n>(hi, h);
            });
        });
    });
    for (Size c = 0; c < columns; c++) {
        low[c] = lows[c], high[c] = highs[c];
        for (Size t = 1; t < threads; t++)
            low[c] = least(lows[t * columns + c], low[c]), high[c] = greatest(highs[t * columns + c], high[c]);
    }
}

// out [rows, columns] = x rounded over low..high, each [columns] or, where bounds is 1, one number.
void round_columns(const float* x, float* out, Size rows, Size columns, const float* low, const float* high,
                   Size bounds, float levels, Size threads) {
    Grid grid(low, high, bounds, columns, levels);
    in_parallel(threads, rows, [&](Size first, Size last, Size) {
        for (Size row = first; row < last; row++)
            round_row(x + row * columns, out + row * columns, columns, grid.low.data(), grid.scale.data(),
                      grid.divisor.data(), levels);
    });
}

// low, high [rows] of x [rows, columns]: weights, a row for each output channel.
void range_of_rows(const float* x, Size rows, Size columns, float* low, float* high) {
    for (Size row = 0; row < rows; row++) {
        float l[16], h[16];
        std::fill(l, l + 16, INF);
        std::fill(h, h + 16, -INF);
        const float* v = x + row * columns;
        Size c = 0;
        for (; c + 16 <= columns; c += 16)
            for (int i = 0; i < 16; i++) l[i] = least(v[c + i], l[i]), h[i] = greatest(v[c + i], h[i]);
        for (; c < columns; c++) l[0] = least(v[c], l[0]), h[0] = greatest(v[c], h[0]);
        low[row] = l[0], high[row] = h[0];
        for (int i = 1; i < 16; i++) low[row] = least(l[i], low[row]), high[row] = greatest(h[i], high[row]);
    }
}

// out [rows, columns] = x, each row rounded over its own low..high.
void round_rows(const float* x, float* out, Size rows, Size columns, const float* low, const float* high,
                float levels) {
    Grid grid(low, high, rows, rows, levels);
    for (Size row = 0; row < rows; row++) {
        const float* v = x + row * columns;
        float *o = out + row * columns, lo = grid.low[row], scale = grid.scale[row], divisor = grid.divisor[row];
        for (Size c = 0; c < columns; c++) o[c] = code(v[c], lo, divisor, levels) * scale;
        for (Size c = 0; c < columns; c++) o[c] += lo;
    }
}

// y1 [pixels, channels] = x [pixels, c_in] matrix [c_in, padded channels], and the norm's table.
void expand(const float* x, const float* matrix, float* y1, Size pixels, Size c_in, Size channels, const float* gamma,
            const float* beta, double eps, double momentum, float* running_mean, float* running_var, float* table,
            Size threads) {
    std::vector<Moments> moments(threads * channels);
    Size wide = padded(channels);
    in_parallel(threads, pixels, [&](Size first, Size last, Size t) {
        Floats out(strip_rows(channels) * wide);
        in_strips(first, last, channels, [&](Size row, Size count) {
            multiply(x + row * c_in, c_in, 1, matrix, out.data(), wide, count, c_in);
            add_moments(out.data(), count, wide, channels, &moments[t * channels]);
            copy_rows(out.data(), wide, y1 + row * channels, channels, count, channels);
        });
    });
    finish({gamma, beta, eps, momentum, running_mean, running_var, table}, moments, threads, channels);
}

// y2 = the depth-wise convolution of relu(norm(y1)), rounded over low..high; weight [taps * taps, channels]. known: the
// table of y1; table: that of y2.
void depthwise(const float* y1, const float* known, const float* low, const float* high, Size bounds, float levels,
               const float* weight, float* y2, Size images, Size height, Size width, Size channels, Size taps,
               Size stride, const float* gamma, const float* beta, double eps, double momentum, float* running_mean,
               float* running_var, float* table, Size threads) {
    Depthwise form{height, width, channels, stride};
    Activation activation(known, low, high, bounds, levels, channels);
    std::vector<Moments> moments(threads * channels);
    in_parallel(threads, images, [&](Size first, Size last, Size thread) {
        with_taps(taps, [&](auto t) {
            Floats strip(form.strip_size<t>()), out(form.out_pixels() * 16), w(t * t * 16);
            for (Size image = first; image < last; image++)
                in_lanes(channels, [&](Size c0, auto n) {
                    copy_rows(weight + c0, channels, w.data(), n, t * t, n);
                    form.activate<t, n>(y1 + image * form.pixels() * channels, activation, c0, strip.data());
                    form.correlate<t, n>(strip.data(), w.data(), stride, out.data());
                    add_moments(out.data(), form.out_pixels(), n, n, &moments[thread * channels + c0]);
                    float* to = y2 + image * form.out_pixels() * channels + c0;
                    copy_rows(out.data(), n, to, channels, form.out_pixels(), n);
                });
        });
    });
    finish({gamma, beta, eps, momentum, running_mean, running_var, table}, moments, threads, channels);
}

// y3 [pixels, c_out] = relu(norm(y2)), rounded, times matrix [channels, padded c_out].
void project(const float* y2, const float* known, const float* low, const float* high, Size bounds, float levels,
             const float* matrix, float* y3, Size pixels, Size channels, Size c_out, Size threads) {
    Activation activation(known, low, high, bounds, levels, channels);
    Size wide = padded(c_out);
    in_parallel(threads, pixels, [&](Size first, Size last, Size) {
        Floats strip(strip_rows(channels) * channels), out(strip_rows(channels) * wide);
        in_strips(first, last, channels, [&](Size row, Size count) {
            in_lanes(channels, [&](Size c0, auto n) {
                activation.forward<n>(y2 + row * channels + c0, channels, &strip[c0], channels, count, c0);
            });
            multiply(strip.data(), channels, 1, matrix, out.data(), wide, count, channels);
            copy_rows(out.data(), wide, y3 + row * c_out, c_out, count, c_out);
        });
    });
}

// g2 [pixels, channels], 0 where the ReLU was, from g3 [pixels, c_out]; matrix [c_out, padded channels]. to_matrix, of
// the same shape, is its gradient, unless null. sums, products [threads, channels] are for NormGradient.
void project_backward(const float* g3, const float* y2, const float* known, const float* low, const float* high,
                      Size bounds, float levels, const float* matrix, float* g2, float* to_matrix, double* sums,
                      double* products, Size pixels, Size channels, Size c_out, Size threads) {
    Activation activation(known, low, high, bounds, levels, channels);
    Size wide = padded(channels);
    std::vector<Floats> parts(threads, Floats(to_matrix ? c_out * wide : 0));
    in_parallel(threads, pixels, [&](Size first, Size last, Size t) {
        Floats strip(strip_rows(channels) * wide), gradient(strip_rows(channels) * wide);
        in_strips(first, last, channels, [&](Size row, Size count) {
            const float *y = y2 + row * channels, *g = g3 + row * c_out;
            multiply(g, c_out, 1, matrix, gradient.data(), wide, count, c_out);
            in_lanes(channels, [&](Size c0, auto n) {
                relu_backward<n>(y + c0, channels, &gradient[c0], wide, g2 + row * channels + c0, channels, count,
                                 activation, c0, sums + t * channels, products + t * channels);
            });
            if (!to_matrix) return;
            in_lanes(channels, [&](Size c0, auto n) {
                activation.forward<n>(y + c0, channels, &strip[c0], wide, count, c0);
            });
            multiply(g, 1, c_out, strip.data(), parts[t].data(), wide, c_out, count, true);
        });
    });
    if (to_matrix) join(parts, to_matrix);
}

// g1 [.., channels], 0 where the ReLU was, from g2; to_weight [taps * taps, channels] unless null. to_affine [2,
// channels]: the gradients of the norm behind y2, whose sums project_backward took.
void depthwise_backward(const float* g2, const float* y2, const float* known2, const double* sums2,
                        const double* products2, float* to_affine, const float* y1, const float* known1,
                        const float* low, const float* high, Size bounds, float levels, const float* weight, float* g1,
                        float* to_weight, double* sums, double* products, Size images, Size height, Size width,
                        Size channels, Size taps, Size stride, Size threads) {
    Depthwise form{height, width, channels, stride};
    Activation activation(known1, low, high, bounds, levels, channels);
    NormGradient norm(known2, sums2, products2, images * form.out_pixels(), channels, threads, to_affine);
    std::vector<Floats> parts(threads, Floats(to_weight ? taps * taps * channels : 0));
    in_parallel(threads, images, [&](Size first, Size last, Size thread) {
        with_taps(taps, [&](auto t) {
            Floats strip(form.strip_size<t>()), gradient(form.strip_size<t>());
            Floats out(form.pixels() * 16), turned(t * t * 16);
            for (Size image = first; image < last; image++)
                in_lanes(channels, [&](Size c0, auto n) {
                    for (int i = 0; i < t * t; i++) {
                        const float* tap = weight + (t * t - 1 - i) * channels + c0;
                        std::copy(tap, tap + n, &turned[i * n]);
                    }
                    const float* y = y1 + image * form.pixels() * channels;
                    Size out_at = image * form.out_pixels() * channels;
                    form.spread<t, n>(y2 + out_at, g2 + out_at, norm, c0, gradient.data());
                    if (to_weight) {
                        form.activate<t, n>(y, activation, c0, strip.data());
                        form.weight_gradient<t, n>(strip.data(), gradient.data(), c0, parts[thread].data());
                    }
                    form.correlate<t, n>(gradient.data(), turned.data(), 1, out.data());
                    relu_backward<n>(y + c0, channels, out.data(), n, g1 + image * form.pixels() * channels + c0,
                                     channels, form.pixels(), activation, c0, sums + thread * channels,
                                     products + thread * channels);
                });
        });
    });
    if (to_weight) join(parts, to_weight);
}

// to_x [pixels, c_in] from g1 unless null; matrix [channels, padded c_in]; to_matrix [c_in, padded channels] unless
// null. to_affine [2, channels]: the gradients of the norm behind y1, whose sums depthwise_backward took.
void expand_backward(const float* g1, const float* y1, const float* known, const double* sums, const double* products,
                     float* to_affine, const float* x, const float* matrix, float* to_x, float* to_matrix, Size pixels,
                     Size c_in, Size channels, Size threads) {
    NormGradient norm(known, sums, products, pixels, channels, threads, to_affine);
    Size wide = padded(channels), narrow = padded(c_in);
    std::vector<Floats> parts(threads, Floats(to_matrix ? c_in * wide : 0));
    in_parallel(threads, pixels, [&](Size first, Size last, Size t) {
        Floats strip(strip_rows(channels) * wide), out(strip_rows(channels) * narrow);
        in_strips(first, last, channels, [&](Size row, Size count) {
            in_lanes(channels, [&](Size c0, auto n) {
                Size at = row * channels + c0;
                norm_backward<n>(norm, y1 + at, g1 + at, channels, &strip[c0], wide, count, c0);
            });
            if (to_matrix) multiply(x + row * c_in, 1, c_in, strip.data(), parts[t].data(), wide, c_in, count, true);
            if (!to_x) return;
            multiply(strip.data(), wide, 1, matrix, out.data(), narrow, count, channels);
            copy_rows(out.data(), narrow, to_x + row * c_in, c_in, count, c_in);
        });
    });
    if (to_matrix) join(parts, to_matrix);
}

}  // extern "C"
