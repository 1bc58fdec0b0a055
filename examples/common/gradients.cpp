#include "gradients.hpp"

#include <cstddef>
#include <cstdint>

#include <torch/types.h>
#include <torch/utils.h>

namespace rl_loop {
namespace {

void average_tensors(const std::vector<at::Tensor>& tensors, RankGroup& ranks) {
  if (ranks.world_size() == 1) return;
  const torch::NoGradGuard no_grad;
  std::vector<torch::Tensor> flat;
  for (const torch::Tensor& tensor : tensors) flat.push_back(tensor.flatten());
  torch::Tensor sum = torch::cat(flat).cpu();
  ranks.average({sum.data_ptr<float>(), static_cast<std::size_t>(sum.numel())});
  std::int64_t offset = 0;
  for (torch::Tensor tensor : tensors) {
    tensor.copy_(sum.narrow(0, offset, tensor.numel()).view_as(tensor));
    offset += tensor.numel();
  }
}

}  // namespace

void average_gradients(const std::vector<at::Tensor>& parameters, RankGroup& ranks) {
  std::vector<at::Tensor> gradients;
  for (const at::Tensor& parameter : parameters) gradients.push_back(parameter.grad());
  average_tensors(gradients, ranks);
}

void average_parameters(const std::vector<at::Tensor>& parameters, RankGroup& ranks) {
  average_tensors(parameters, ranks);
}

}  // namespace rl_loop
