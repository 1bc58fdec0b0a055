// A policy with what is awkward in it, and how two of them are compared.
#pragma once

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/linear.h>
#include <torch/types.h>

#include <weightcast/torch/tensor_source.hpp>

namespace weightcast_test {

struct PolicyImpl : torch::nn::Module {
  PolicyImpl() {
    input = register_module("input", torch::nn::Linear(4, 64));
    norm = register_module("norm", torch::nn::BatchNorm1d(64));
    wide = register_module("wide", torch::nn::Linear(64, 8192));  // 2 MiB: copied beside training
    output = register_module("output", torch::nn::Linear(8192, 2));
    tied = register_parameter("tied", output->bias);
  }
  torch::Tensor forward(const torch::Tensor& x) {
    return output(torch::relu(wide(norm(torch::relu(input(x))))));
  }
  torch::nn::Linear input{nullptr}, wide{nullptr}, output{nullptr};
  torch::nn::BatchNorm1d norm{nullptr};
  torch::Tensor tied;
};
TORCH_MODULE(Policy);

inline Policy make_replica() {
  Policy policy;
  policy->eval();
  return policy;
}

inline bool same_bits(const torch::Tensor& a, const torch::Tensor& b) {
  const auto x = a.contiguous();
  const auto y = b.contiguous();
  return x.scalar_type() == y.scalar_type() && x.sizes() == y.sizes() &&
         std::memcmp(x.data_ptr(), y.data_ptr(), x.nbytes()) == 0;
}

using Weights = std::map<std::string, torch::Tensor>;

template <class Module>
Weights clone_of(Module& module) {
  std::vector<weightcast::NamedTensor> tensors;
  weightcast::make_lister(module)(tensors);
  Weights out;
  for (const auto& t : tensors) out[t.name] = t.tensor.detach().clone();
  return out;
}

template <class Module>
void expect_weights(Module& module, const Weights& want) {
  const Weights got = clone_of(module);
  ASSERT_EQ(got.size(), want.size());
  for (const auto& [name, tensor] : want) {
    ASSERT_EQ(got.count(name), 1u) << name;
    EXPECT_TRUE(same_bits(got.at(name), tensor)) << name;
  }
}

}  // namespace weightcast_test
