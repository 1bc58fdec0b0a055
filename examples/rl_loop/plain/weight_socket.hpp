#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "clock.hpp"
#include "policy.hpp"
#include "rank_group.hpp"
#include "segment.hpp"

namespace rl_loop {

/// Weights without weightcast, the trainer's end: rank 0 sends the bytes of all parameters over a
/// PUB socket, synchronously. Not thread-safe.
class WeightSender {
 public:
  /// @param policy what is sent, resolved once; outlives this.
  WeightSender(const PolicyImpl& policy, RankGroup& ranks, const std::string& directory);
  ~WeightSender();

  /// Counts a version and, on rank 0, sends it. A worker that is not connected misses it.
  void publish();

  [[nodiscard]] WeightTag version() const { return version_; }

 private:
  struct Socket;
  const PolicyImpl& policy_;
  std::unique_ptr<Socket> socket_;  ///< Null on ranks other than 0.
  WeightTag version_;
};

/// The worker's end: keeps the newest message and copies it into its module. Not thread-safe.
class WeightReceiver {
 public:
  /// The module and the version that is in it, until the next call of acquire().
  class Lease {
   public:
    Lease(PolicyImpl* policy, WeightTag version) : policy_(policy), version_(version) {}
    explicit operator bool() const { return policy_ != nullptr; }
    PolicyImpl& operator*() const { return *policy_; }
    PolicyImpl* operator->() const { return policy_; }
    [[nodiscard]] WeightTag version() const { return version_; }

   private:
    PolicyImpl* policy_;
    WeightTag version_;
  };

  explicit WeightReceiver(const std::string& directory);
  ~WeightReceiver();

  /// Takes the newest weights in and hands them out; waits only while there never were any.
  /// @return an empty lease at the deadline.
  /// @throw std::runtime_error when the bytes do not fit the module.
  Lease acquire(Clock::time_point deadline);

  /// Waits until version `number` or a later one has come.
  /// @return whether it has.
  bool wait_for(std::uint64_t number, Clock::time_point deadline);

 private:
  bool receive(Clock::time_point deadline);

  struct Socket;
  std::unique_ptr<Socket> socket_;
  PolicyImpl policy_;
  WeightTag version_;
};

}  // namespace rl_loop
