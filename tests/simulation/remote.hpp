// Reading over the network: a holder, which is a source's process or another engine, keeps what is
// being read locked for its reader, and lets go of readers that it does not hear.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <weightcast/types.hpp>

#include "plan/manifest.hpp"
#include "simulation/memory.hpp"

namespace weightcast::simulation {

class World;

/// One version's share that a holder keeps for a reader. Its words may be read while it is valid.
class Remote {
 public:
  explicit Remote(World& world) : world_(world) {}

  using Id = std::uint64_t;

  /// The source's server takes the slot's shared lock, after it has compared what is in it.
  /// @return 0 and why
  Id hold_slot(Pid reader, const plan::Share& share, const Version& version, Status& why);
  /// An engine keeps its image, whose words these are.
  Id hold_image(Pid reader, Pid holder, std::shared_ptr<const std::vector<Word>> words);

  /// The words, or null where the holder has let go or is dead. The reader is heard by it.
  const std::vector<Word>* read(Id id);
  Pid holder(Id id) const;
  void release(Id id);

  /// A process is gone: what it held, and after a while what was held for it.
  void forget(Pid pid);
  void forget_all() { holds_.clear(); }

 private:
  struct Hold {
    Pid reader = 0;
    Pid holder = 0;
    std::shared_ptr<SlotObject> slot;
    std::shared_ptr<const std::vector<Word>> image;
    Clock::time_point heard;
  };
  void look_later(Id id);

  World& world_;
  Id last_ = 0;
  std::map<Id, Hold> holds_;
};

}  // namespace weightcast::simulation
