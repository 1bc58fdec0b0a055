#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

#include <c10/util/intrusive_ptr.h>

namespace c10d {
class Store;
}

namespace rl_loop {

/// The trainer ranks of one torchrun job, talking through a c10d::TCPStore. Enough for a policy of
/// some thousand parameters: every rank reads every other rank's bytes, so the traffic grows with
/// the square of the ranks. Calls are collective: all ranks make the same ones in the same order.
/// Not thread-safe.
class RankGroup {
 public:
  /// A group in a store that the ranks share.
  /// @param timeout how long a call waits for the slowest rank.
  RankGroup(c10::intrusive_ptr<c10d::Store> store, int rank, int world_size,
            std::chrono::milliseconds timeout);
  ~RankGroup();

  RankGroup(RankGroup&&) noexcept;
  RankGroup& operator=(RankGroup&&) noexcept;

  /// Joins with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT of the environment; without them,
  /// a group of one. Where torchrun's agent serves a store on that port this is a client of it,
  /// otherwise rank 0 serves one.
  /// @throw std::runtime_error when a variable is missing or bad, or the store is not reached.
  [[nodiscard]] static RankGroup from_environment(std::chrono::milliseconds timeout);

  [[nodiscard]] int rank() const { return rank_; }
  [[nodiscard]] int world_size() const { return world_size_; }

  /// Gives every rank the bytes of all ranks, in the order of the ranks. Blocks until all have
  /// called it.
  /// @throw c10::Error when a rank is later than the timeout.
  std::vector<std::vector<std::uint8_t>> exchange(std::span<const std::uint8_t> mine);

  /// Replaces `values` by the mean over the ranks. All ranks add in the same order, so all get the
  /// same bits.
  /// @throw std::runtime_error when another rank brings another number of values.
  void average(std::span<float> values);

 private:
  c10::intrusive_ptr<c10d::Store> store_;
  int rank_ = 0;
  int world_size_ = 1;
  std::uint64_t round_ = 0;
};

}  // namespace rl_loop
