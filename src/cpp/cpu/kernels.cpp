// The kernels, written once with vector extensions and compiled once per instruction set. CMake sets
//   FASTMLP_ISA           the namespace of this copy, e.g. avx2
//   FASTMLP_VECTOR_BYTES  the width of a register
//   FASTMLP_ACCUMULATORS  rows of the register tile: 2 vectors each, as many as fit without spilling
// Everything but the two table functions is local to the object: a weak symbol compiled with wider instructions could
// be picked by the linker for a machine that does not have them.
#include "kernels.hpp"

#include "../losses.hpp"
#include "../optimizers.hpp"
#include "hidden_layers.hpp"
#include "products.hpp"
#include "rows_in_place.hpp"
#include "simd.hpp"
#include "weight_gradients.hpp"

namespace fastmlp {
namespace FASTMLP_ISA {
namespace {

// --- loss -----------------------------------------------------------------------------------------------------------

template <class T> void link(const RowLoss& loss, T* z) {
  constexpr int W = lane_count<T>;
  Losses::visit(loss.number, [&](auto entry) {
    for (int half = 0; half < 2; ++half) entry.link(reinterpret_cast<Vec<T>*>(z + half * W), loss.n_targets, 2, loss.h);
  });
}

template <class T> double loss(const RowLoss& loss, T* z, const T* y, const T* weights) {
  constexpr int W = lane_count<T>, r = R<T>;
  const Vec<T> zero = splat<Vec<T>>(T(0));
  Vec<double> total = splat<Vec<double>>(0);
  Losses::visit(loss.number, [&](auto entry) {
    for (int half = 0; half < 2; ++half) {
      const Vec<T> weight = load(weights + half * W);
      const Vec<T> losses = entry.row(reinterpret_cast<Vec<T>*>(z + half * W),
                                      reinterpret_cast<const Vec<T>*>(y + half * W), loss.n_targets, 2, loss.h);
      const Vec<T> rows = select(weight == zero, zero, weight * losses); // also of what is missing, and not finite
      for (int k = 0; k < loss.n_outputs; ++k) {
        T* delta = z + std::ptrdiff_t(k) * r + half * W;
        store(delta, select(weight == zero, zero, load(delta) * weight));
      }
      total += to_doubles(rows);
    }
  });
  return sum_of_lanes<double>(total);
}

// --- optimizer ------------------------------------------------------------------------------------------------------

// Entry of `finish_gradient`: no optimizer, the gradient itself is wanted.
struct KeepGradient {};

// One register, or one number, of a tile. Returns the weights as they were, squared. `extras`: clips and averages.
template <class Entry, bool extras, bool streams, class S, class T, class G>
FASTMLP_INLINE S step(const UpdateRule<T>& rule, const T* c, G* g, T* w, T* const* slots, std::ptrdiff_t at) {
  S weight = load_as<S>(w);
  // Where there are branches between them, product and sum may be fused here and not there.
  const S squares = extras ? rounded(weight * weight) : weight * weight;
  S gradient = (load_as<S>(g) + splat<S>(rule.alpha) * weight) * splat<S>(rule.scale);
  if constexpr (extras) {
    const S high = splat<S>(rule.clip_value), low = -high;
    gradient = select(gradient > high, high, select(gradient < low, low, gradient)); // NaN stays NaN
  }
  if constexpr (std::is_same_v<Entry, KeepGradient>) {
    store_as<S>(g, gradient);
  } else {
    constexpr int n_slots = int(std::size(Entry::slots));
    S slot[max_slots];
    for (int s = 0; s < n_slots; ++s) slot[s] = load_as<S>(slots[s] + at);
    Entry::update(weight, gradient, slot, c);
    for (int s = 0; s < n_slots; ++s) store_as<S>(slots[s] + at, slot[s]);
    if constexpr (streams)
      stream(w, weight);
    else
      store_as<S>(w, weight);
    if (extras && slots[n_slots]) {
      const S average = load_as<S>(slots[n_slots] + at), decay = splat<S>(rule.ema_decay);
      store_as<S>(slots[n_slots] + at, decay * average + (splat<S>(1) - decay) * weight);
    }
  }
  return squares;
}

// With `streams`, weights go past the caches line by line; of a line that begins with the rest of a row a copy changes.
template <class Entry, bool extras, bool streams, class T, class G>
FASTMLP_INLINE double sweep(const UpdateRule<T>& how, G* gradient, const UpdateTile<T>& tile) {
  constexpr int W = lane_count<T>, r = R<T>;
  // Copies that nobody else knows: else all would be read again after every store.
  const UpdateTile<T> t = tile;
  const UpdateRule<T> rule = how;
  T c[max_coefficients];
  for (int i = 0; i < max_coefficients; ++i) c[i] = rule.coefficients[i];
  const int whole = t.n_columns / W * W; // columns that fill registers
  const int streamed = streams ? t.n_columns / line<T> * line<T> : 0;
  Vec<T> squares = splat<Vec<T>>(T(0));
  for (int row = 0; row < t.n; ++row) {
    T* w = t.w + row * t.ldw;
    G* g = gradient + row * r;
    const std::ptrdiff_t at = row * t.ld_slots;
    int j = 0;
    for (; streams && j < streamed; j += W)
      squares += step<Entry, extras, streams, Vec<T>>(rule, c, g + j, w + j, t.slots, at + j);
    for (; j < whole; j += W) squares += step<Entry, extras, false, Vec<T>>(rule, c, g + j, w + j, t.slots, at + j);
  }
  T rest = 0;
  if (whole < t.n_columns)
    for (int row = 0; row < t.n; ++row) {
      alignas(64) T copy[line<T>];
      T* const there = t.w + row * t.ldw + whole;
      const bool copies = streams && streamed == whole;
      T* const w = copies ? copy : there;
      for (int j = 0; copies && j < line<T>; j += W) store(copy + j, load(there + j));
      for (int j = whole; j < t.n_columns; ++j)
        rest += step<Entry, extras, false, T>(rule, c, gradient + row * r + j, w + j - whole, t.slots,
                                              row * t.ld_slots + j);
      for (int j = 0; copies && j < line<T>; j += W) stream(there + j, load(copy + j));
    }
  return double(sum_of_lanes<T>(squares)) + double(rest);
}

template <class T> double finish_gradient(T alpha, T scale, T* G, const UpdateTile<T>& t) {
  const T none[max_coefficients] = {};
  return sweep<KeepGradient, false, false>({none, alpha, scale, 0, 0}, G, t);
}

template <class T>
double update(int number, const UpdateRule<T>& rule, const T* G, const UpdateTile<T>& t, bool streams) {
  double squares = 0;
  // Inlined: tiles are so small that one more call for each would be noticed.
  Optimizers::visit(number, [&](auto entry) __attribute__((always_inline)) {
    using Entry = decltype(entry);
    static_assert(std::size(Entry::slots) < std::size(UpdateTile<T>{}.slots), "there is no room for so many slots");
    constexpr T no_limit = std::numeric_limits<T>::infinity();
    const bool extras = rule.clip_value < no_limit || t.slots[std::size(Entry::slots)];
    const auto with = [&](auto extras) __attribute__((always_inline)) {
      return can_stream<T> && streams ? sweep<Entry, extras.value, can_stream<T>>(rule, G, t)
                                      : sweep<Entry, extras.value, false>(rule, G, t);
    };
    squares = extras ? with(std::true_type()) : with(std::false_type());
  });
  return squares;
}

// --- one row --------------------------------------------------------------------------------------------------------

// sums += x M for `vectors` registers of columns.
template <int vectors, class T>
FASTMLP_INLINE void add_row_times_columns(const T* M, std::ptrdiff_t ldm, const T* x, int n_in, T* sums) {
  constexpr int W = lane_count<T>;
  Vec<T> acc[vectors];
  FASTMLP_UNROLL
  for (int j = 0; j < vectors; ++j) acc[j] = load(sums + j * W);
  for (int k = 0; k < n_in; ++k, M += ldm) {
    const Vec<T> v = splat<Vec<T>>(x[k]);
    FASTMLP_UNROLL
    for (int j = 0; j < vectors; ++j) acc[j] += load(M + j * W) * v;
  }
  FASTMLP_UNROLL
  for (int j = 0; j < vectors; ++j) store(sums + j * W, acc[j]);
}

template <class T>
void forward_row(const T* M, std::ptrdiff_t ldm, const T* b, const T* x, int n_in, int n_out, int activation, T* out) {
  constexpr int W = lane_count<T>, most = 8; // as many sums as hide the time of a multiply-add
  const int registers = (n_out + W - 1) / W, beyond = registers * W - n_out;
  // Lanes beyond the end of a row take what follows it and stay unused. What follows the last rows may be none of ours.
  const int last = beyond ? smaller(n_in, int(beyond / ldm) + 1) : 0;
  for (int j = 0; j < n_out; j += W) store(out + j, b ? load_first(b + j, n_out - j) : splat<Vec<T>>(T(0)));
  RegisterTiles<most>(registers).for_each([&](int first, auto vectors) {
    add_row_times_columns<vectors.value>(M + first * W, ldm, x, n_in - last, out + first * W);
  });
  for (int k = n_in - last; k < n_in; ++k)
    for (int j = 0; j < n_out; j += W)
      store(out + j, load(out + j) + load_first(M + k * ldm + j, n_out - j) * splat<Vec<T>>(x[k]));
  if (activation < 0) return;
  Activations::visit(activation, [&](auto entry) {
    for (int i = 0; i < n_out; i += W) store(out + i, entry.value(load(out + i)));
  });
}

template <class T> void link_row(const RowLoss& loss, T* z) {
  Losses::visit(loss.number, [&](auto entry) { entry.link(z, loss.n_targets, 1, loss.h); });
}

// Times 0 is 0, or NaN for what is not finite, which no sum loses.
template <class T> bool all_finite(const T* x, std::int64_t n) {
  constexpr int W = lane_count<T>, chains = 4; // so that no sum waits for itself
  const Vec<T> zero = splat<Vec<T>>(T(0));
  Vec<T> acc[chains] = {};
  std::int64_t i = 0;
  for (; i + chains * W <= n; i += chains * W) {
    FASTMLP_UNROLL
    for (int j = 0; j < chains; ++j) acc[j] += load(x + i + j * W) * zero;
  }
  for (; i < n; i += W) acc[0] += load_first(x + i, n - i < W ? int(n - i) : W) * zero;
  return sum_of_lanes<T>(acc[0] + acc[1] + acc[2] + acc[3]) == T(0);
}

// --- catalogues on arrays -------------------------------------------------------------------------------------------

template <class T> void apply_activation(int number, const T* z, std::ptrdiff_t n, T* value, T* slope) {
  constexpr int W = lane_count<T>;
  Activations::visit(number, [&](auto entry) {
    for (std::ptrdiff_t i = 0; i < n; i += W) {
      const std::ptrdiff_t width = n - i < W ? n - i : W;
      Vec<T> v = splat<Vec<T>>(T(0));
      for (std::ptrdiff_t j = 0; j < width; ++j) v[j] = z[i + j];
      const Vec<T> a = entry.value(v), s = entry.slope(entry.slope_from_output ? a : v, a);
      for (std::ptrdiff_t j = 0; j < width; ++j) value[i + j] = a[j], slope[i + j] = s[j];
    }
  });
}

template <class T>
void apply_loss(const RowLoss& loss, const T* z, const T* y, std::ptrdiff_t n, T* prediction, T* row_loss, T* grad) {
  const int m = loss.n_outputs;
  Losses::visit(loss.number, [&](auto entry) {
    for (std::ptrdiff_t i = 0; i < n; ++i) {
      for (int k = 0; k < m; ++k) prediction[i * m + k] = grad[i * m + k] = z[i * m + k];
      entry.link(prediction + i * m, loss.n_targets, 1, loss.h);
      row_loss[i] = entry.row(grad + i * m, y + i * loss.n_targets, loss.n_targets, 1, loss.h);
    }
  });
}

// --- the machine's limit
// ----------------------------------------------------------------------------------------------

template <class T> double multiply_adds(long rounds) {
  constexpr int chains = 12;   // enough independent multiply-adds to cover their latency
  volatile T unknown = T(0.5); // a chain that starts at a known number may be computed while compiling
  const Vec<T> a = splat<Vec<T>>(T(0.999)), b = splat<Vec<T>>(T(1e-3));
  Vec<T> acc[chains];
  FASTMLP_UNROLL
  for (int j = 0; j < chains; ++j) acc[j] = splat<Vec<T>>(T(j) + unknown);
  for (long i = 0; i < rounds; ++i) {
    FASTMLP_UNROLL
    for (int j = 0; j < chains; ++j) acc[j] = acc[j] * a + b;
  }
  FASTMLP_UNROLL
  for (int j = 0; j < chains; ++j) __asm__ volatile("" : : "m"(acc[j]));
  return 2.0 * double(rounds) * chains * lane_count<T>;
}

static_assert(R<float> <= most_panel_rows && R<double> <= most_panel_rows, "there is room for so many rows");

template <class T>
constexpr Kernels<T> kernels = {FASTMLP_ISA_NAME,
                                R<T>,
                                tile_rows<T>,
                                gather<T>,
                                panel_to_columns<T>,
                                panel_to_rows<T>,
                                forward<T>,
                                backward<T>,
                                forward_sparse<T>,
                                weight_gradient_sparse<T>,
                                forward_of_rows<T>,
                                scratch_size<T>,
                                activate<T>,
                                differentiate<T>,
                                moments<T>,
                                centre<T>,
                                drop<T>,
                                link<T>,
                                loss<T>,
                                weight_gradient<T>,
                                weight_gradient_along_rows<T>,
                                bias_gradient<T>,
                                add<T>,
                                stream_all<T>,
                                finish_gradient<T>,
                                update<T>,
                                transpose<T>,
                                forward_row<T>,
                                activate_row<T>,
                                link_row<T>,
                                all_finite<T>,
                                apply_activation<T>,
                                apply_loss<T>,
                                multiply_adds<T>};

} // namespace

const Kernels<float>* float_kernels() { return &kernels<float>; }
const Kernels<double>* double_kernels() { return &kernels<double>; }

} // namespace FASTMLP_ISA
} // namespace fastmlp
