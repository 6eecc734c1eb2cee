#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>

#include "core/backends.h"
#include "core/contract.h"
#include "core/gil.h"
#include "core/parallel.h"
#include "core/workspace.h"
#include "params.h"
#include "patch_embed_backends.h"

namespace py = pybind11;

namespace lynx {

#define LYNX_DECLARE(isa)                                \
  namespace isa {                                        \
  extern const patch_embed::Kernels patch_embed_kernels; \
  }
LYNX_BACKENDS(LYNX_DECLARE)
#undef LYNX_DECLARE

namespace {

using patch_embed::Kernels;
using patch_embed::Params;
using In = const Tensor&;
using PerChannel = std::optional<std::array<float, 3>>;

void set_image(Params& p, In image, Dim& B, int64_t patch_size) {
  p.image = image.address();
  p.pixel_type = image.dtype();
  p.stride_b = image.stride(0);
  p.stride_c = image.stride(1);
  p.stride_y = image.stride(2);
  p.stride_x = image.stride(3);
  p.batch = B;
  p.grid_h = image.size(2) / patch_size;
  p.grid_w = image.size(3) / patch_size;
  p.patch_size = patch_size;
}

void set_normalisation(Params& p, const PerChannel& mean, const PerChannel& std) {
  p.normalise = mean.has_value() && std.has_value();
  if (!p.normalise) return;
  for (int c = 0; c < 3; ++c) {
    p.mean[c] = (*mean)[c];
    p.std[c] = (*std)[c];
  }
}

/// image [B, 3, H, W] with any strides (bytes come as a view of [B, H, W, 3]); out [B, 1 + H / P * W / P, D].
void forward(const Kernels& kernels, In image, In weight, In bias, In pos_embed, In cls_token, const PerChannel& mean,
             const PerChannel& std, In out) {
  const Contract contract("patch_embed", weight.dtype());
  Dim one{"1", 1}, three{"3", 3}, B{"B"}, H{"H"}, W{"W"}, P{"P"}, D{"D"};
  contract.expect("weight", weight, {&D, &three, &P, &P});
  contract.expect_dtype("image", image, image.dtype(), {&B, &three, &H, &W}, Layout::strided);
  Params params{};
  set_image(params, image, B, P);
  Dim T{"1 + H / P * W / P", 1 + params.grid_h * params.grid_w};
  contract.expect("bias", bias, {&D});
  contract.expect("pos_embed", pos_embed, {&one, &T, &D});
  contract.expect("cls_token", cls_token, {&one, &one, &D});
  contract.expect_output("out", out, {&B, &T, &D});
  set_normalisation(params, mean, std);
  params.dtype = weight.dtype();
  params.channels = D;
  params.weight = weight.address();
  params.bias = bias.address();
  params.pos_embed = pos_embed.address();
  params.cls_token = cls_token.address();
  params.out = out.address();
  params.lanes = num_threads();
  const Workspace workspace(kernels.workspace(params));
  params.workspace = workspace.data();
  const ReleaseGil release(2.0 * out.numel() * 3 * P * P);
  kernels.run(params);
}

void add_kernels(py::module_& m, const char* isa, const Kernels& kernels) {
  add_backend(m, "patch_embed", isa, kernels.dtypes,
              [&kernels](In image, In weight, In bias, In pos_embed, In cls_token, const PerChannel& mean,
                         const PerChannel& std,
                         In out) { forward(kernels, image, weight, bias, pos_embed, cls_token, mean, std, out); });
}

}  // namespace

void bind_patch_embed(py::module_& m) {
#define LYNX_ADD(isa) add_kernels(m, #isa, isa::patch_embed_kernels);
  LYNX_BACKENDS(LYNX_ADD)
#undef LYNX_ADD
}

}  // namespace lynx
