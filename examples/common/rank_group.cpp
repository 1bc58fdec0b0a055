#include "rank_group.hpp"

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

namespace rl_loop {
namespace {

std::optional<std::string> environment(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return value;
}

int environment_int(const char* name, int lowest, int highest) {
  const auto text = environment(name);
  int value = 0;
  if (text) {
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
    if (error == std::errc() && end == text->data() + text->size() && value >= lowest &&
        value <= highest) {
      return value;
    }
  }
  throw std::runtime_error(std::string(name) + " must be a number from " + std::to_string(lowest) +
                           " to " + std::to_string(highest) + ", but is " +
                           (text ? "'" + *text + "'" : "unset") +
                           ": start the trainer under torchrun");
}

std::string round_key(std::uint64_t round, int rank) {
  return std::to_string(round) + "/" + std::to_string(rank);
}

}  // namespace

RankGroup::RankGroup(c10::intrusive_ptr<c10d::Store> store, int rank, int world_size,
                     std::chrono::milliseconds timeout)
    : store_(std::move(store)), rank_(rank), world_size_(world_size) {
  if (store_) store_->setTimeout(timeout);
}

RankGroup::~RankGroup() = default;
RankGroup::RankGroup(RankGroup&&) noexcept = default;
RankGroup& RankGroup::operator=(RankGroup&&) noexcept = default;

RankGroup RankGroup::from_environment(std::chrono::milliseconds timeout) {
  if (!environment("WORLD_SIZE")) return {nullptr, 0, 1, timeout};
  const int world_size = environment_int("WORLD_SIZE", 1, 1 << 16);
  const int rank = environment_int("RANK", 0, world_size - 1);
  if (world_size == 1) return {nullptr, 0, 1, timeout};

  const auto host = environment("MASTER_ADDR");
  if (!host) {
    throw std::runtime_error(
        "MASTER_ADDR must name the host of rank 0, but is unset: start the "
        "trainer under torchrun");
  }
  // torchrun's agent listens on MASTER_PORT itself and says so.
  const bool agent_serves = environment("TORCHELASTIC_USE_AGENT_STORE") == "True";
  c10d::TCPStoreOptions options;
  options.port = static_cast<std::uint16_t>(environment_int("MASTER_PORT", 1, 65535));
  options.isServer = rank == 0 && !agent_serves;
  options.numWorkers = static_cast<std::size_t>(world_size);
  options.waitWorkers = false;
  options.timeout = timeout;
  // A job that torchrun restarts finds the same store, with what the last one left in it.
  const std::string prefix = "rl_loop/" + environment("TORCHELASTIC_RESTART_COUNT").value_or("0");
  auto store = c10::make_intrusive<c10d::TCPStore>(*host, options);
  return {c10::make_intrusive<c10d::PrefixStore>(prefix, std::move(store)), rank, world_size,
          timeout};
}

std::vector<std::vector<std::uint8_t>> RankGroup::exchange(std::span<const std::uint8_t> mine) {
  std::vector<std::vector<std::uint8_t>> all(static_cast<std::size_t>(world_size_));
  auto& own = all[static_cast<std::size_t>(rank_)];
  own.assign(mine.begin(), mine.end());
  if (world_size_ == 1) return all;

  store_->set(round_key(round_, rank_), own);
  for (int rank = 0; rank < world_size_; ++rank) {
    if (rank != rank_) all[static_cast<std::size_t>(rank)] = store_->get(round_key(round_, rank));
  }
  // Who wrote this round had read all of the last one: nobody needs that key any more.
  if (round_ > 0) store_->deleteKey(round_key(round_ - 1, rank_));
  ++round_;
  return all;
}

void RankGroup::average(std::span<float> values) {
  if (world_size_ == 1) return;
  const auto all =
      exchange({reinterpret_cast<const std::uint8_t*>(values.data()), values.size_bytes()});
  std::vector<float> other(values.size());
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].size() != values.size_bytes()) {
      throw std::runtime_error("averaging expected " + std::to_string(values.size_bytes()) +
                               " bytes of rank " + std::to_string(rank) + ", but got " +
                               std::to_string(all[rank].size()) +
                               ": run the same binary with the same flags on all ranks");
    }
    if (rank == 0) {
      std::memcpy(values.data(), all[rank].data(), values.size_bytes());
      continue;
    }
    std::memcpy(other.data(), all[rank].data(), values.size_bytes());
    for (std::size_t i = 0; i < values.size(); ++i) values[i] += other[i];
  }
  const float scale = 1.0F / static_cast<float>(world_size_);
  for (float& value : values) value *= scale;
}

}  // namespace rl_loop
