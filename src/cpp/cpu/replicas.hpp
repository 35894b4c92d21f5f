// Two threads on halved batches (see tiles.hpp): each has parameters of its own and all that belongs to them, takes its
// half of the rows, and hands the other one nothing but gradients. Both add the two and make the same step, so that
// they stay alike. They meet once a step, and write hardly any line of the cache that the other one holds.
#pragma once

#include "deltas.hpp"
#include "tiles.hpp"

namespace fastmlp {

// A network's parameters in training, with the workspace of their batches.
template <class T> struct Replica {
  Replica(const Network& network, const Kernels<T>& kernels)
      : propagation(network, kernels), deltas(propagation), tiles(propagation) {}
  Replica(const Replica&) = delete; // it refers to itself
  Replica& operator=(const Replica&) = delete;

  Propagation<T> propagation;
  Deltas<T> deltas;
  Tiles<T> tiles;
};

// Some steps of an epoch of n rows, from the batch that begins with row `next`.
template <class T> struct Stretch {
  const Dataset<T>& data;
  const std::int64_t* order;
  const std::int64_t n, batch_size;
  const double alpha;
  Rule& rule;
  EpochResult& result;
  std::int64_t next = 0;
  std::int64_t look = 1; // steps from one look at the clock to the next
  double until = 0;      // wall_seconds()

  std::int64_t largest_batch() const { return std::min(batch_size, n); }
  Batch<T> batch(std::int64_t first, int R) const {
    const RowRange all{order, 0, n};
    return {data, all.part(first, batch_size), R, all.part(first + batch_size, batch_size)};
  }
};

template <class T> class TwoReplicas {
public:
  TwoReplicas(const Network& network, const Kernels<T>& kernels, Replica<T>& first)
      : kernels(kernels), first(first), second(network, kernels) {
    const std::size_t size = first.tiles.all_gradients_size();
    for (HandOver& over : hand_overs)
      for (AlignedArray<T>& gradients : over.gradients) gradients = AlignedArray<T>(size);
    for (AlignedArray<T>& gradients : kept) gradients = AlignedArray<T>(size);
  }

  // Before some steps on batches of n_rows of X. Unless both are `alike`, the second takes over what the first has
  // learned.
  void prepare(int n_rows, const Matrix<T>& X, bool alike) {
    second.deltas.prepare(first.tiles.most_rows_apart(n_rows), X, 0);
    for (HandOver& over : hand_overs)
      for (std::vector<double>& losses : over.losses) losses.resize(std::size_t(n_rows / kernels.rows + 1));
    if (alike) return;
    second.propagation.copy_parameters(first.propagation);
    second.tiles.copy_slots(first.tiles);
  }

  // One thread's part of the steps. Batches too small to be halved are computed by both.
  void run(Stretch<T>& steps, const Team& team, T* scratch) {
    const bool leads = team.thread == 0;
    Replica<T>& own = leads ? first : second;
    std::int64_t next = steps.next, until_look = steps.look;
    long long t = steps.rule.t;
    bool end = false;
    for (int parity = 0; next < steps.n && !end; parity = 1 - parity) {
      const Batch<T> batch = steps.batch(next, kernels.rows);
      HandOver& over = hand_overs[parity];
      const int half = own.tiles.first_half(int(batch.rows.n));
      compute_part(own, batch, half, steps.rule.dropout_key(t + 1), team, over, scratch);
      if (leads) {
        over.end = --until_look == 0 && wall_seconds() > steps.until;
        if (until_look == 0) until_look = steps.look;
      }
      team.barrier();
      end = over.end;
      const double weight = batch.weight, sum = sum_of_losses(over, batch.n_panels, half, team);
      const double loss = weight != 0 ? finite_or_nan(sum / weight) : 0;
      if (weight != 0 && !std::isnan(loss))
        update(own, batch, half, Step<T>(steps.rule, ++t), steps.alpha, team, over, scratch);
      const double penalty = weight != 0 ? 0.5 * steps.alpha * own.tiles.sum_of_squares() / weight : 0;
      end = end || std::isnan(loss + penalty); // both see the same
      if (leads) steps.result.add(loss, penalty, batch.rows.n);
      next += steps.batch_size;
    }
    if (!leads) return;
    steps.next = next;
    steps.rule.t = t;
  }

private:
  // What the threads hand over in a step. There are two of these: one thread may write for the next step while the
  // other one still reads.
  struct HandOver {
    AlignedArray<T> gradients[2];  // of all tiles, by thread
    std::vector<double> losses[2]; // of the panels, by thread
    bool end;                      // this step is the last, says thread 0
  };

  // `half`: panels of the first half; 0 if the batch is not halved.
  void compute_part(Replica<T>& own, const Batch<T>& batch, int half, RandomKey dropout, const Team& team,
                    HandOver& over, T* scratch) {
    const std::int64_t cut = std::int64_t(half) * kernels.rows;
    const bool takes_second = half > 0 && team.thread == 1;
    const auto own_part = [&](const RowRange& rows) {
      return half == 0 ? rows : takes_second ? rows.part(cut, rows.n) : rows.part(0, cut);
    };
    const Batch<T> part(batch.data, own_part(batch.rows), kernels.rows, own_part(batch.next));
    own.deltas.compute(part, dropout, scratch, {0, 1, team.meeting}, Deltas<T>::Way::there_and_back,
                       takes_second ? half : 0);
    std::copy_n(own.deltas.space.panel_loss.data(), part.n_panels, over.losses[team.thread].data());
    if (half == 0) return;
    T* const gradients = own_gradients(team, over);
    for (std::size_t i = 0; i < own.tiles.size(); ++i) {
      const std::size_t at = own.tiles.gradient_start(i), end = own.tiles.gradient_start(i + 1);
      own.tiles.gradient_of_half(own.deltas.space, int(part.rows.n), i, gradients + at);
      if (team.streams)
        kernels.stream(gradients + at, std::ptrdiff_t(end - at), over.gradients[team.thread].data() + at);
    }
  }

  // Where a thread has the gradients it has made: what is streamed is no longer in its cache.
  T* own_gradients(const Team& team, HandOver& over) {
    return (team.streams ? kept : over.gradients)[team.thread].data();
  }

  // In the order of the panels.
  static double sum_of_losses(const HandOver& over, int n_panels, int half, const Team& team) {
    double sum = 0;
    for (int p = 0; p < n_panels; ++p)
      sum += half == 0 ? over.losses[team.thread][p] : p < half ? over.losses[0][p] : over.losses[1][p - half];
    return sum;
  }

  void update(Replica<T>& own, const Batch<T>& batch, int half, const Step<T>& step, double alpha, const Team& team,
              HandOver& over, T* G) {
    const T *gradients = own_gradients(team, over), *others = over.gradients[1 - team.thread].data();
    for (std::size_t i = 0; i < own.tiles.size(); ++i) {
      const std::size_t at = own.tiles.gradient_start(i), end = own.tiles.gradient_start(i + 1);
      if (half > 0)
        kernels.add(gradients + at, others + at, std::ptrdiff_t(end - at), G); // either way the same sum
      else
        own.tiles.gradient(own.deltas.space, int(batch.rows.n), i, G);
      own.tiles.update(i, step, alpha, 1 / batch.weight, G);
    }
  }

  const Kernels<T>& kernels;
  Replica<T>& first;
  Replica<T> second;
  HandOver hand_overs[2];
  AlignedArray<T> kept[2]; // gradients of the threads that stream them
};

} // namespace fastmlp
