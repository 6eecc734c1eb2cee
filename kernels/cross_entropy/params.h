// What bind.cpp hands a kernel. logits [T, V]: rows contiguous, `stride` elements apart; labels, losses, stats [T] dense.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace lynx::cross_entropy {

/// loss[t] = (1 - smoothing) (lse - x[label]) + smoothing (lse - mean(x)), lse = log sum e^x; 0 where the label is ignored.
struct Problem {
  DType dtype;
  int64_t T, V;
  void* logits;
  int64_t stride;
  const int64_t* labels;
  int64_t ignore_index;
  float smoothing;
};

/// softmax(x) = e^(x - most) / sum
struct SoftmaxStats {
  float most, sum;
};

struct ForwardParams {
  Problem problem;
  float* losses;
  SoftmaxStats* stats;
};

/// d_logits[t] = scale d_loss[t or 0] (softmax(x) - (1 - smoothing) onehot - smoothing / V), dense.
struct BackwardParams {
  Problem problem;
  const SoftmaxStats* stats;
  const void* d_loss;
  bool d_loss_each;  // one a row, else one for all
  float scale;
  void* d_logits;
};

/// losses, and with `gradient` the gradient of scale * loss in the place of the logits.
struct InPlaceParams {
  Problem problem;
  float* losses;
  float scale;
  bool gradient;
};

struct Kernels {
  uint32_t dtypes;
  void (*forward)(const ForwardParams&);
  void (*backward)(const BackwardParams&);
  void (*in_place)(const InPlaceParams&);
};

}  // namespace lynx::cross_entropy
