#pragma once

#include <string>

#include <c10/core/Device.h>

namespace grpo {

/// "cpu", "cuda" or "cuda:N". Loads torch's CUDA library for the latter two, which the program is
/// not linked with, so that one binary runs with and without a GPU. To be called before anything
/// else of torch.
/// @throw std::runtime_error where there is no such device.
[[nodiscard]] c10::Device open_device(const std::string& name);

}  // namespace grpo
