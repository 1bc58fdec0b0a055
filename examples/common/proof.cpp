#include "proof.hpp"

#include <iomanip>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>

#include <torch/nn/module.h>
#include <nlohmann/json.hpp>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "clock.hpp"

namespace rl_loop {
namespace {

void open(std::ofstream& file, const std::string& path) {
  if (path.empty()) return;
  file.open(path, std::ios::trunc);
  if (!file) throw std::runtime_error("cannot write the proof to " + path);
}

// JSON numbers lose the low bits of 64 in most readers.
std::string hex(std::uint64_t value) {
  std::ostringstream text;
  text << std::hex << std::setw(16) << std::setfill('0') << value;
  return text.str();
}

struct FreeState {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

}  // namespace

std::uint64_t hash_tensors(const torch::nn::Module& module) {
  const torch::NoGradGuard no_grad;
  std::map<std::string, torch::Tensor> tensors;
  for (const auto& item : module.named_parameters()) tensors.emplace(item.key(), item.value());
  for (const auto& item : module.named_buffers()) tensors.emplace(item.key(), item.value());

  const std::unique_ptr<XXH3_state_t, FreeState> state(XXH3_createState());
  XXH3_64bits_reset(state.get());
  for (const auto& [name, tensor] : tensors) {
    const torch::Tensor bytes = tensor.contiguous().cpu();
    const auto type = static_cast<std::int64_t>(bytes.scalar_type());
    // With its terminating zero, so that no name runs into what follows.
    XXH3_64bits_update(state.get(), name.c_str(), name.size() + 1);
    XXH3_64bits_update(state.get(), &type, sizeof(type));
    const std::int64_t dimensions = bytes.dim();
    XXH3_64bits_update(state.get(), &dimensions, sizeof(dimensions));
    XXH3_64bits_update(state.get(), bytes.sizes().data(),
                       bytes.sizes().size() * sizeof(std::int64_t));
    XXH3_64bits_update(state.get(), bytes.const_data_ptr(), bytes.nbytes());
  }
  return XXH3_64bits_digest(state.get());
}

PublishProof::PublishProof(const std::string& path, int rank) {
  open(file_, path.empty() || rank == 0 ? path : path + ".rank" + std::to_string(rank));
}

void PublishProof::record(WeightTag tag, const torch::nn::Module& module) {
  if (!file_.is_open() || tag.number == 0 || tag == last_) return;
  last_ = tag;
  const std::int64_t now = monotonic_ns();
  file_ << nlohmann::json{{"run", hex(tag.run)},
                          {"version", tag.number},
                          {"monotonic_ns", now},
                          {"hash", hex(hash_tensors(module))}}
               .dump()
        << '\n'
        << std::flush;
}

ServeProof::ServeProof(const std::string& path) { open(file_, path); }

void ServeProof::begin(WeightTag tag, const torch::nn::Module& module, std::int64_t acquired_ns) {
  if (!file_.is_open()) return;
  tag_ = tag;
  acquire_ns_ = acquired_ns;
  hash_start_ = hash_tensors(module);
}

void ServeProof::end(const torch::nn::Module& module) {
  if (!file_.is_open()) return;
  const std::uint64_t hash_end = hash_tensors(module);
  file_ << nlohmann::json{{"run", hex(tag_.run)},           {"version", tag_.number},
                          {"acquire_ns", acquire_ns_},      {"release_ns", monotonic_ns()},
                          {"hash_start", hex(hash_start_)}, {"hash_end", hex(hash_end)}}
               .dump()
        << '\n'
        << std::flush;
}

}  // namespace rl_loop
