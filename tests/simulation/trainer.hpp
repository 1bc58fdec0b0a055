// A trainer rank: its training loop with the hook and the fence, its slots, and in rank 0 the
// coordinator. Does what publisher.cpp does, over modelled memory and time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "protocol/coordinator.hpp"
#include "protocol/source.hpp"
#include "simulation/memory.hpp"
#include "simulation/process.hpp"

namespace weightcast::simulation {

class Trainer final : public Process, private protocol::SlotLocks {
 public:
  Trainer(World& world, Pid pid, std::uint32_t rank, std::string launch,
          std::uint64_t launch_number);
  ~Trainer() override;

  void leave() override;
  std::uint32_t rank() const noexcept { return rank_; }
  std::uint64_t steps() const noexcept { return steps_; }
  std::uint64_t launch_number() const noexcept { return launch_number_; }
  const protocol::Source& source() const noexcept { return *source_; }
  protocol::Coordinator* coordinator() noexcept {
    return coordinator_ ? &*coordinator_ : nullptr;
  }

 private:
  struct Capture {
    protocol::PointDecision decision;
    std::shared_ptr<SlotObject> slot;
    std::uint64_t generation = 0;
    Clock::time_point at;
    std::uint64_t step = 0;
    bool slow = false;
    bool cancelled = false;
    bool stalled = false;
  };

  void on_message(protocol::Peer peer, const protocol::Message& message) override;
  void turn() override;
  Clock::time_point next_wakeup() const override;

  bool try_lock(std::uint32_t slot) override;
  void unlock(std::uint32_t slot) override;

  Routine train();
  Routine take_step();
  Routine fence(Clock::time_point deadline);
  Routine publish(Clock::time_point wait_until, bool insist);
  Routine flush(Clock::time_point deadline);
  Routine copy(std::shared_ptr<Capture> capture);
  void begin_capture(const protocol::PointDecision& decision);
  void end_capture(Capture& capture);
  /// @param words what the digests are taken over
  plan::Share share_of(const Capture& capture, const Word* words) const;
  void send_sealed(const Capture& capture, const Word* words);

  void exchange();
  void hand_to_coordinator(protocol::Peer peer, const protocol::Message& message);
  void take_from_coordinator();
  void seek_coordinator();
  void check_waited(Clock::time_point since, std::uint64_t stops_before, const char* where);

  const std::uint32_t rank_;
  const std::string launch_;
  const std::uint64_t launch_number_;
  std::vector<std::shared_ptr<SlotObject>> slab_;
  std::optional<protocol::SlotBook> book_;
  std::optional<protocol::Source> source_;
  std::optional<protocol::Coordinator> coordinator_;
  std::vector<Word> live_;  ///< the tensors: two words of buffers, then the parameters
  std::uint64_t steps_ = 0;
  std::shared_ptr<Capture> capture_;
  bool dirty_ = true;
  protocol::Peer peer_ = 0;
  Pid connected_to_ = 0;
  Clock::time_point next_seek_;
  std::vector<protocol::Outgoing> to_local_;
  std::uint64_t published_before_ = 0;
  std::uint64_t committed_before_ = 0;
};

/// Words of buffers before the parameters of each rank.
inline constexpr std::uint32_t kBufferWords = 2;

}  // namespace weightcast::simulation
