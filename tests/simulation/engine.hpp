// An engine: takes versions in by any activation, serves leases, and checks every word that a lease
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
#include "simulation/remote.hpp"
#include "simulation/scenario.hpp"

namespace weightcast::simulation {

class Engine final : public Process {
 public:
  /// @param network its bytes come by tcp, from the sources' processes or from other engines
  Engine(World& world, Pid pid, std::string name, Activation activation, bool network);
  ~Engine() override;

  const protocol::Receiver& receiver() const noexcept { return *receiver_; }
  std::string kind() const;
  void leave() override;
  /// What leases get now, or got before a version began to come in place.
  Version serves() const noexcept { return serving_ ? serving_->version : Version{}; }

  /// Another engine wants to read what is served here. @return 0 and why
  Remote::Id hold_for(Pid reader, const plan::Share& share, const Version& version, Status& why);

 private:
  /// One version in this process: the slots it lies in, or a copy.
  struct Image {
    explicit Image(Engine& its) : engine(its) { ++its.images_; }
    ~Image();
    Image(const Image&) = delete;
    Image& operator=(const Image&) = delete;
    void let_go();  ///< of the slots
    const std::vector<Word>& words(std::size_t share) const {
      return copies.empty() ? mapped[share]->words : copies[share];
    }

    Engine& engine;
    Version version;
    plan::Manifest manifest;
    std::vector<std::shared_ptr<SlotObject>> locked;
    std::vector<std::shared_ptr<SlotObject>> mapped;  ///< by share; kept without the locks
    std::vector<std::vector<Word>> copies;            ///< all but view: by share
  };
  struct Operation {
    protocol::StartStage what;
    bool cancelled = false;
    std::shared_ptr<Image> image;
  };
  /// What was read of a version while its slots were being written, without their locks.
  struct Ahead {
    protocol::ReadAhead what;
    std::vector<std::vector<Word>> words;  ///< by share: as far as it came
  };
  struct Lease {
    std::shared_ptr<Image> image;
    Clock::time_point since;
  };
  bool in_place() const noexcept {
    return activation_ == Activation::kStaged || activation_ == Activation::kSerial;
  }

  void on_message(protocol::Peer peer, const protocol::Message& message) override;
  void turn() override;
  Clock::time_point next_wakeup() const override { return receiver_->next_wakeup(); }

  // Taking a version in (engine_staging.cpp).
  void perform(protocol::ReceiverAction action);
  Routine stage(std::shared_ptr<Operation> operation);
  Routine lock_shares(std::shared_ptr<Operation> operation, Status& status);
  /// Copies every share of the operation's version into `image`, from where it can be read.
  Routine fetch(std::shared_ptr<Operation> operation, std::shared_ptr<Image> image,
                Status& status);
  Routine read_share(std::shared_ptr<Operation> operation, std::size_t share,
                     std::vector<Word>& into, Status& status);
  Routine read_ahead(std::shared_ptr<Ahead> ahead);
  /// What was read ahead of this share, if it is of the same writing; else null.
  const std::vector<Word>* read_already(const Operation& operation, std::size_t share) const;
  Status lock_share(Image& image, const plan::Share& share);
  Remote::Id hold_remote(const Operation& operation, const plan::Share& share, Status& why);
  void maybe_corrupt(Word& word);
  Status verify(const Image& image) const;
  void end_stage(const std::shared_ptr<Operation>& operation, const Status& status);
  Routine switch_to(std::uint64_t op, Run newest_run);
  Routine switch_in_place(std::uint64_t op, Run newest_run);
  Routine drain(std::shared_ptr<Operation> operation);
  bool leased() const;
  void serve(std::shared_ptr<Image> image, const Run& newest_run);

  Routine work();
  void check(const Image& image);
  void exchange();
  void seek_coordinator();
  void note_lagging();

  const Activation activation_;
  const bool network_;
  std::optional<protocol::Receiver> receiver_;
  std::uint64_t first_incarnation_ = 0;
  std::uint32_t images_ = 0;
  std::shared_ptr<Operation> operation_;  ///< the stage operation that has not ended
  std::shared_ptr<Ahead> ahead_;          ///< the newest one, until a version has been staged
  std::uint64_t staged_op_ = 0;
  std::shared_ptr<Operation> staged_;
  std::shared_ptr<Operation> switching_;  ///< in place: what is being switched to
  std::shared_ptr<Image> serving_;
  bool blocked_ = false;                  ///< a version comes in place: no leases
  bool broken_ = false;                   ///< one did not come whole: there is nothing to serve
  std::vector<std::shared_ptr<Lease>> leases_;
  Run newest_run_;
  bool dirty_ = true;
  protocol::Peer peer_ = 0;
  Pid connected_to_ = 0;
  Clock::time_point next_seek_;
};

}  // namespace weightcast::simulation
