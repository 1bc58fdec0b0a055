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

struct LmImpl : torch::nn::Module {
  static constexpr std::int64_t kVocabulary = 49152, kWidth = 576, kKeyWidth = 192, kInner = 1536,
                                kLayers = 30;

  explicit LmImpl(torch::ScalarType dtype = torch::kFloat32) {
    const auto weight = [&](const std::string& name, std::vector<std::int64_t> shape) {
      torch::Tensor value = torch::empty(shape, torch::TensorOptions().dtype(dtype));
      value.uniform_(-0.02, 0.02);
      return register_parameter(name, value);
    };
    embed = weight("embed", {kVocabulary, kWidth});
    for (std::int64_t i = 0; i < kLayers; ++i) {
      const std::string at = "layer_" + std::to_string(i) + "_";
      layers.push_back({weight(at + "norm_attn", {kWidth}), weight(at + "q", {kWidth, kWidth}),
                        weight(at + "k", {kKeyWidth, kWidth}), weight(at + "v", {kKeyWidth, kWidth}),
                        weight(at + "o", {kWidth, kWidth}), weight(at + "norm_ffn", {kWidth}),
                        weight(at + "gate", {kInner, kWidth}), weight(at + "up", {kInner, kWidth}),
                        weight(at + "down", {kWidth, kInner})});
    }
    norm = weight("norm", {kWidth});
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

  torch::Tensor embed, norm;
  std::vector<std::vector<torch::Tensor>> layers;
};

}  // namespace bench
