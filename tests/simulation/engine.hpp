// An engine: takes versions in by view or flip, serves leases, and checks every word that a lease
// sees. Does what the subscriber does, over modelled memory and time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "protocol/receiver.hpp"
#include "simulation/memory.hpp"
#include "simulation/process.hpp"

namespace weightcast::simulation {

class Engine final : public Process {
 public:
  Engine(World& world, Pid pid, std::string name, bool flip);
  ~Engine() override;

  const protocol::Receiver& receiver() const noexcept { return *receiver_; }
  bool flips() const noexcept { return flip_; }
  void leave() override;
  /// What leases get now.
  Version serves() const noexcept { return serving_ ? serving_->version : Version{}; }

 private:
  /// One version in this process: the slots it lies in, or a copy.
  struct Image {
    explicit Image(Engine& its) : engine(its) { ++its.images_; }
    ~Image();
    Image(const Image&) = delete;
    Image& operator=(const Image&) = delete;
    void let_go();  ///< of the slots

    Engine& engine;
    Version version;
    plan::Manifest manifest;
    std::vector<std::shared_ptr<SlotObject>> locked;
    std::vector<std::shared_ptr<SlotObject>> mapped;  ///< view: by share; kept without the locks
    std::vector<std::vector<Word>> copies;            ///< flip: by share
  };
  struct Operation {
    protocol::StartStage what;
    bool cancelled = false;
    std::shared_ptr<Image> image;
  };
  struct Lease {
    std::shared_ptr<Image> image;
    Clock::time_point since;
  };

  void on_message(protocol::Peer peer, const protocol::Message& message) override;
  void turn() override;
  Clock::time_point next_wakeup() const override { return receiver_->next_wakeup(); }

  void perform(protocol::ReceiverAction action);
  Routine stage(std::shared_ptr<Operation> operation);
  Routine place(std::shared_ptr<Operation> operation, Status& status);
  Status lock_share(Image& image, const plan::Share& share);
  Status verify(const Image& image) const;
  void end_stage(const std::shared_ptr<Operation>& operation, const Status& status);
  Routine switch_to(std::uint64_t op, Run newest_run);
  void serve(std::shared_ptr<Image> image, const Run& newest_run);
  Routine work();
  void check(const Image& image);
  void exchange();
  void seek_coordinator();
  void note_lagging();

  const bool flip_;
  std::optional<protocol::Receiver> receiver_;
  std::uint32_t images_ = 0;
  std::shared_ptr<Operation> operation_;  ///< the stage operation that has not ended
  std::uint64_t staged_op_ = 0;
  std::shared_ptr<Image> staged_;
  std::shared_ptr<Image> serving_;
  std::vector<std::shared_ptr<Lease>> leases_;
  Run newest_run_;
  bool dirty_ = true;
  protocol::Peer peer_ = 0;
  Pid connected_to_ = 0;
  Clock::time_point next_seek_;
};

}  // namespace weightcast::simulation
