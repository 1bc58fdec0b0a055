// A policy of 134.5 M parameters in 272 tensors, shaped like SmolLM2-135M (vocabulary 49152, width
// 576, 30 layers), with a forward and backward that touch every weight. Attention's softmax is left
// out: what matters here is where the weights lie and how long a step takes, not what it learns.
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <string>
#include <vector>

namespace bench {

/// The width is three times key_width.
struct LmShape {
  std::int64_t vocabulary = 49152, width = 576, key_width = 192, inner = 1536, layers = 30;
};
/// As many tensors, but next to no bytes: tells what a process costs from what its policy costs.
inline constexpr LmShape kTinyLm{64, 12, 4, 32, 30};

struct LmImpl : torch::nn::Module {
  explicit LmImpl(torch::ScalarType dtype = torch::kFloat32, const LmShape& its = {}) : shape(its) {
    const auto weight = [&](const std::string& name, std::vector<std::int64_t> sizes) {
      torch::Tensor value = torch::empty(sizes, torch::TensorOptions().dtype(dtype));
      value.uniform_(-0.02, 0.02);
      return register_parameter(name, value);
    };
    embed = weight("embed", {shape.vocabulary, shape.width});
    for (std::int64_t i = 0; i < shape.layers; ++i) {
      const std::string at = "layer_" + std::to_string(i) + "_";
      layers.push_back({weight(at + "norm_attn", {shape.width}), weight(at + "q", {shape.width, shape.width}),
                        weight(at + "k", {shape.key_width, shape.width}), weight(at + "v", {shape.key_width, shape.width}),
                        weight(at + "o", {shape.width, shape.width}), weight(at + "norm_ffn", {shape.width}),
                        weight(at + "gate", {shape.inner, shape.width}), weight(at + "up", {shape.inner, shape.width}),
                        weight(at + "down", {shape.width, shape.inner})});
    }
    norm = weight("norm", {shape.width});
  }

  /// @param tokens [n] int64 @return [n, vocabulary]
  torch::Tensor forward(const torch::Tensor& tokens) {
    torch::Tensor h = embed.index_select(0, tokens);
    for (const auto& w : layers) {
      const torch::Tensor x = h * w[0];
      const torch::Tensor mixed = (x.matmul(w[2].t()) * x.matmul(w[3].t())).repeat({1, 3});
      h = h + (x.matmul(w[1].t()) * mixed).matmul(w[4].t());
      const torch::Tensor y = h * w[5];
      h = h + (torch::silu(y.matmul(w[6].t())) * y.matmul(w[7].t())).matmul(w[8].t());
    }
    return (h * norm).matmul(embed.t());
  }

  const LmShape shape;
  torch::Tensor embed, norm;
  std::vector<std::vector<torch::Tensor>> layers;
};

}  // namespace bench
