// One register: its type, loads and stores, and transposing. Included into each kernel object, local to it.
#pragma once

#include "../vector_math.hpp"

#include <cstddef>
#include <cstdint>
#include <utility>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace fastmlp {
namespace FASTMLP_ISA {
namespace {

#define FASTMLP_UNROLL _Pragma("GCC unroll 16")

template <class T> struct Vector {
  typedef T type __attribute__((vector_size(FASTMLP_VECTOR_BYTES)));
  typedef T unaligned __attribute__((vector_size(FASTMLP_VECTOR_BYTES), aligned(alignof(T)), may_alias));
};
template <class T> using Vec = typename Vector<T>::type;

template <class T> constexpr int lane_count = FASTMLP_VECTOR_BYTES / int(sizeof(T));
template <class T> constexpr int R = 2 * lane_count<T>;
constexpr int register_rows = FASTMLP_ACCUMULATORS;
template <class T> constexpr int tile_rows = 48;

// Blocking: an input chunk of depth_chunk features stays in the level-1 cache, a block of weights in level 2.
// Transposed weights take a whole cache line for the few of them that a register tile reads: shorter chunks.
constexpr int depth_chunk = 320, transposed_chunk = 192;
template <class T> constexpr int row_block = sizeof(T) == 4 ? 96 : 48;
template <class T> constexpr int gradient_chunk = 16 * R<T>; // rows of a block of columns, likewise in level 1

template <class T> FASTMLP_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename Vector<T>::unaligned*>(p);
}
template <class T> FASTMLP_INLINE void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename Vector<T>::unaligned*>(p) = v;
}

// Past the caches, to where a register is aligned. Lines of the cache should be written whole, one after the other:
// where the rows of a tile are shorter, nothing is.
template <class T> constexpr bool can_stream = R<T> * sizeof(T) % 64 == 0;
template <class T> FASTMLP_INLINE void stream(T* p, Vec<T> v) {
  if constexpr (!can_stream<T>) return store(p, v);
#if defined(__AVX512F__) && FASTMLP_VECTOR_BYTES == 64
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), __m512i(v));
#elif defined(__AVX__) && FASTMLP_VECTOR_BYTES == 32
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), __m256i(v));
#else
  store(p, v);
#endif
}
template <bool streams, class T> FASTMLP_INLINE void put(T* p, Vec<T> v) { streams ? stream(p, v) : store(p, v); }

// The first n numbers, or as many as fill a register; lanes beyond them are 0.
template <class T> FASTMLP_INLINE Vec<T> load_first(const T* p, int n) {
  constexpr int W = lane_count<T>;
  if (n >= W) return load(p);
  T lanes[W] = {};
  for (int j = 0; j < n; ++j) lanes[j] = p[j];
  return load(lanes);
}

// The same for a type S that is a register or a single number.
template <class S> FASTMLP_INLINE S load_as(const scalar_of<S>* p) {
  if constexpr (lanes<S> == 1)
    return *p;
  else
    return load(p);
}
template <class S> FASTMLP_INLINE void store_as(scalar_of<S>* p, S v) {
  if constexpr (lanes<S> == 1)
    *p = v;
  else
    store(p, v);
}

// The same value, of which the compiler knows nothing but that it is in a register.
template <class S> FASTMLP_INLINE S in_register(S value) {
#if defined(__AVX512F__) || (defined(__AVX__) && FASTMLP_VECTOR_BYTES <= 32) ||                                        \
    (defined(__SSE2__) && FASTMLP_VECTOR_BYTES <= 16)
  __asm__("" : "+x"(value));
#elif defined(__aarch64__)
  __asm__("" : "+w"(value));
#else
  __asm__("" : "+m"(value));
#endif
  return value;
}

// A product that stays one: else a compiler may fuse it with a sum here and not there, where code must round alike.
template <class S> FASTMLP_INLINE S rounded(S product) { return in_register(product); }

FASTMLP_INLINE constexpr int smaller(int a, int b) { return a < b ? a : b; } // std::min is not local to this object

template <class T> constexpr int line = 64 / int(sizeof(T)); // of the cache

// To the level-2 cache: what is asked for is read after some microseconds, not at once.
FASTMLP_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }
// For this core alone, if it does not have the line yet: one that others have read stays theirs, too (design page 23).
FASTMLP_INLINE void prefetch_to_write(const void* p) {
#if defined(__x86_64__)
  __asm__ volatile("prefetchw %0" : : "m"(*static_cast<const char*>(p))); // does nothing where it is not known
#else
  __builtin_prefetch(p, 1);
#endif
}

template <int half, class V, std::size_t... i> FASTMLP_INLINE V add_halves(V v, std::index_sequence<i...>) {
  return v + __builtin_shufflevector(v, v, (int(i) ^ half)...);
}

// In pairs, pairs of pairs and so on: sums in one row would wait for each other.
template <class T, int half = lane_count<T> / 2> FASTMLP_INLINE T sum_of_lanes(Vec<T> v) {
  if constexpr (half > 0)
    return sum_of_lanes<T, half / 2>(add_halves<half>(v, std::make_index_sequence<lane_count<T>>{}));
  else
    return v[0];
}

// The lanes as doubles, added in as many as a register has.
FASTMLP_INLINE Vec<double> to_doubles(Vec<double> v) { return v; }
FASTMLP_INLINE Vec<double> to_doubles(Vec<float> v) {
  typedef float Half __attribute__((vector_size(FASTMLP_VECTOR_BYTES / 2)));
  Half halves[2];
  __builtin_memcpy(halves, &v, sizeof(v));
  return __builtin_convertvector(halves[0], Vec<double>) + __builtin_convertvector(halves[1], Vec<double>);
}

// --- transposing ----------------------------------------------------------------------------------------------------

// Butterfly network: stage `half` swaps, in each pair of rows `half` apart, the off-diagonal halves.
template <int half, int lanes, class V, std::size_t... i>
FASTMLP_INLINE void exchange(V& a, V& b, std::index_sequence<i...>) {
  const V low = __builtin_shufflevector(a, b, (int(i) & half ? int(i) - half + lanes : int(i))...);
  b = __builtin_shufflevector(a, b, (int(i) & half ? int(i) + lanes : int(i) + half)...);
  a = low;
}

template <class T, int half = 1> FASTMLP_INLINE void butterfly(Vec<T>* v) {
  constexpr int W = lane_count<T>;
  if constexpr (half < W) {
    FASTMLP_UNROLL
    for (int i = 0; i < W; ++i)
      if (!(i & half)) exchange<half, W>(v[i], v[i + half], std::make_index_sequence<W>{});
    butterfly<T, 2 * half>(v);
  }
}

// The sum of the lanes of each of as many registers as one has lanes, in pairs, pairs of pairs and so on: half as many
// registers with each stage of the network.
template <class T, int half = 1> FASTMLP_INLINE Vec<T> sums_of_lanes(Vec<T>* v) {
  constexpr int W = lane_count<T>;
  if constexpr (half < W) {
    FASTMLP_UNROLL
    for (int i = 0; i < W; i += 2 * half) {
      exchange<half, W>(v[i], v[i + half], std::make_index_sequence<W>{});
      v[i] += v[i + half];
    }
    return sums_of_lanes<T, 2 * half>(v);
  }
  return v[0];
}

// A lanes x lanes block from rows `ld` apart to rows `ld_out` apart.
template <bool streams = false, class T>
FASTMLP_INLINE void transpose_lanes(const T* in, std::ptrdiff_t ld, T* out, std::ptrdiff_t ld_out) {
  constexpr int W = lane_count<T>;
  Vec<T> v[W];
  FASTMLP_UNROLL
  for (int i = 0; i < W; ++i) v[i] = load(in + i * ld);
  butterfly<T>(v);
  FASTMLP_UNROLL
  for (int i = 0; i < W; ++i) put<streams>(out + i * ld_out, v[i]);
}

// A contiguous R x R block; the halves of a row out follow each other.
template <bool streams = false, class T> FASTMLP_INLINE void transpose_block(const T* in, T* out) {
  constexpr int W = lane_count<T>, r = R<T>;
  for (int j = 0; j < 2; ++j)
    for (int i = 0; i < 2; ++i) transpose_lanes<streams>(in + (i * r + j) * W, r, out + (j * r + i) * W, r);
}

template <class T>
void panel_to_columns(const T* panel, int k, T* columns, std::ptrdiff_t column_stride, bool streams) {
  constexpr int r = R<T>;
  for (int f = 0; f < k; f += r, panel += r * r, columns += column_stride)
    streams ? transpose_block<true>(panel, columns) : transpose_block(panel, columns);
}

template <class T> void stream_all(const T* from, std::ptrdiff_t n, T* to) {
  for (std::ptrdiff_t i = 0; i < n; i += lane_count<T>) stream(to + i, load(from + i));
}

template <class T> void panel_to_rows(const T* panel, int k, int n, T* out, std::ptrdiff_t ld) {
  constexpr int r = R<T>;
  T block[r * r];
  for (int f = 0; f < k; f += r) {
    transpose_block(panel + std::ptrdiff_t(f) * r, block);
    const int width = k - f < r ? k - f : r;
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < width; ++j) out[i * ld + f + j] = block[i * r + j];
  }
}

template <class T>
void transpose(const T* in, std::ptrdiff_t ld, int rows, int columns, T* out, std::ptrdiff_t ld_out) {
  constexpr int W = lane_count<T>;
  for (int i = 0; i < rows; i += W)
    for (int j = 0; j < columns; j += W) transpose_lanes(in + i * ld + j, ld, out + j * ld_out + i, ld_out);
}

} // namespace
} // namespace FASTMLP_ISA
} // namespace fastmlp
